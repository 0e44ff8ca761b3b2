"""Prints a table of every flag of every example: its default, a wrong value, what that says, and its help.

    python tests/examples/flags_table.py [EXAMPLE ...]

A flag of a number, a choice or nothing is given a word; what is refused later than the command line (a path, a text,
a number out of range) is given to the example itself, in a trial, which must end before it trains.
"""

import contextlib
import dataclasses
import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import patch

from training.launch.command_line import _texts, read_options

EXAMPLES = ("sequence_tasks", "shakespeare", "char_rnn", "imdb_classifier", "translate", "pretrained", "plan")
# What a flag needs beside it to be looked at.
BESIDE = {
    "checkpoint": {
        "sequence_tasks": ["--prompt", "0 1"], "shakespeare": ["--write", "a"], "char_rnn": ["--write", "a"],
        "imdb_classifier": ["--predict", "a"], "translate": ["--translate", "a"],
    },
    "lora": {name: ["--init-from", "/dev/null/none"] for name in EXAMPLES},
    "validation": {"imdb_classifier": ["--train", "texts.tsv"]},
    "test": {"imdb_classifier": ["--train", "texts.tsv"]},
    "train_target": {"translate": ["--train-source", "lines.txt"]},
    "train_source": {"translate": ["--train-target", "lines.txt"]},
}  # fmt: skip
QUESTIONS = ("--write", "--chat", "--embed", "--fill", "--classify", "--translate")  # of pretrained.py
FILES = {
    "texts.tsv": "text\tlabel\n" + "good film\tyes\nbad film\tno\n" * 20,
    "lines.txt": "one line\n" * 20,
}


class Trained(Exception):
    """Nothing refused the value."""


def said(example: Any, name: str, words: list[str]) -> str:
    """The error for these words of a command line, or that there is none."""
    cls = next(hint for key, hint in get_type_hints(example.main).items() if key != "return")
    short = example.__name__.split(".")[-1]
    beside = BESIDE.get(name, {}).get(short, [])
    if short == "pretrained":  # its first word is no flag, and other flags go with a question
        beside = [*([] if name == "folder" else ["/dev/null/folder"]), *beside]
        beside += [] if words[0].split("=")[0] in QUESTIONS else ["--write", "a"]
    fields = {field.name for field in dataclasses.fields(cls)}
    with tempfile.TemporaryDirectory() as folder:
        trial = [*(["--smoke"] if "smoke" in fields and name != "smoke" else []),
                 *(["--out", f"{folder}/run"] if "out" in fields and name != "out" else [])]  # fmt: skip
        for file, text in FILES.items():
            Path(folder, file).write_text(text, encoding="utf-8")
        beside = [f"{folder}/{word}" if word in FILES else word for word in beside]
        try:
            options = read_options(cls, "", [*trial, *beside, *words])
            with contextlib.redirect_stdout(None), patch.object(example, "fit", _trained, create=True):
                example.main(options)
        except Trained:
            return "(taken)"
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}" if not isinstance(error, (ValueError, OSError)) else str(error)
            if isinstance(error, OSError) and error.filename and error.strerror:  # as `cli` says it
                text = f"{error.filename}: {error.strerror}"
            return " ".join(text.replace(folder, "...").split())
    return "(taken)"


def _trained(*_: Any, **__: Any) -> None:
    raise Trained


def wrong(hint: Any, default: Any, flag: str) -> list[list[str]]:
    """Words that a flag of this type should not take."""
    text = str(hint)
    if "bool" in text:
        return [[f"{flag}=yes"]]
    if "Literal" in text or (re.search(r"\b(int|float)\b", text) and "Path" not in text):
        return [[flag, "nothing"]] + ([] if "Literal" in text else [[flag, "-1"]])
    return [[flag, "/dev/null/such"]]


def main(names: list[str]) -> None:
    for name in names:
        example = importlib.import_module(f"examples.{name}")
        cls = next(hint for key, hint in get_type_hints(example.main).items() if key != "return")
        hints, texts = get_type_hints(cls), _texts(cls)
        print(f"\n### {name}\n\n| flag | default | wrong value: what it said | help |\n| --- | --- | --- | --- |")
        for field in dataclasses.fields(cls):
            needed = field.default is dataclasses.MISSING
            flag = field.name.upper() if needed else f"--{field.name.replace('_', '-')}"
            default = "needed" if needed else field.default
            tries = wrong(hints[field.name], default, flag) if not needed else [["/dev/null/such"]]
            found = "; ".join(f"`{' '.join(words)}`: {said(example, field.name, words)}" for words in tries)
            row = [flag, str(default), found, texts.get(field.name, "")]
            print("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in EXAMPLES if Path("examples", f"{name}.py").exists()])
