"""Prints the README's rows of results anew from the summaries of runs, so that a stale one is seen.

    python tests/benchmarks/readme_figures.py [FOLDER ...]

A row belongs to the command in its last column. The newest run of that command in the folders (`runs` by default,
with all that lies below) says what it reaches; what is printed is the row as it should be, after a mark:

    =  the README has it so        !  the README says something else        ?  no such run was found
"""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\|(?P<what>[^|]*)\|(?P<figure>[^|]*)\|\s*`(?P<command>examples/[^`]*)`\s*\|$")

# How the figures of an example are said.
FIGURES = {
    "sequence_tasks": "exact match {exact_match:.2%} on 10,000 unseen sequences",
    "shakespeare": "validation loss {validation_loss:.3f} nats per character",
    "char_rnn": "{bits_per_character:.3f} bits per held-out character, training loss {training_loss:.2f} nats",
    "imdb_classifier": "test accuracy {test_accuracy:.1%}",
    "translate": "BLEU {bleu:.1f}, chrF {chrf:.1f} on the whole test part",
}
# What says where and how a run was made, not which one it is.
OF_NO_WEIGHT = {"out", "resume", "overwrite", "save_every", "sharded_saving", "debug", "data_dir", "devices", "fsdp"}


def runs_in(folders: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Examples and summaries of all runs that ended, the newest first."""
    found = []
    for folder in folders:
        for file in folder.rglob("summary.json"):
            marker = file.with_name("run.json")
            if marker.exists():
                example = json.loads(marker.read_text(encoding="utf-8"))["example"]
                found.append((file.stat().st_mtime, example, json.loads(file.read_text(encoding="utf-8"))))
    return [(example, summary) for _, example, summary in sorted(found, key=lambda run: -run[0])]


def options_of(command: str) -> dict[str, Any]:
    """The options of a row's command by name: a string, a list of several, or True for a flag."""
    options: dict[str, list[str]] = {}
    given: list[str] = []
    for word in shlex.split(command)[1:]:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            given = options[name.replace("-", "_")] = [value] if value else []
        else:
            given.append(word)
    return {name: (given or [True])[0] if len(given) < 2 else given for name, given in options.items()}


def is_run_of(command: str, example: str, summary: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """Whether a run was started with just the options of a command."""
    if Path(shlex.split(command)[0]).stem != example:
        return False
    said = options_of(command)
    for name, value in summary["arguments"].items():
        expected = said.get(name, defaults.get(name))
        if name not in OF_NO_WEIGHT and str(value) != str(expected):
            return False
    return True


def rows(runs: list[tuple[str, dict[str, Any]]], defaults: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The mark and the row, as it should be, of every result in the README."""
    for line in README.read_text(encoding="utf-8").splitlines():
        row = ROW.match(line)
        if row is None:
            continue
        example = Path(shlex.split(row["command"])[0]).stem
        of_example = defaults.get(example, {})
        summary = next((s for name, s in runs if is_run_of(row["command"], name, s, of_example)), None)
        if example not in FIGURES or summary is None:
            yield "?", line
            continue
        figure = FIGURES[example].format(**summary["metrics"])
        new = f"|{row['what']}| {figure} | `{row['command']}` |"
        yield ("=" if new == line else "!"), new


def defaults_of(example: str) -> dict[str, Any]:
    import dataclasses
    import importlib

    fields = dataclasses.fields(importlib.import_module(f"examples.{example}").Arguments)
    return {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in fields
    }


def main(folders: list[Path]) -> None:
    runs = runs_in(folders)
    for mark, row in rows(runs, {example: defaults_of(example) for example in FIGURES}):
        print(mark, row)
    for device in sorted({summary["device"] for _, summary in runs}):
        print("ran on", device)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or [Path("runs")])
