"""Ask a pretrained model in a folder on this machine: to write, talk, compare, fill in, classify or translate.

hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir smollm
python examples/pretrained.py smollm --write "Once upon a time"
python examples/pretrained.py smollm --chat

No code in the folder is run, and nothing is downloaded.
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from data.text import given_lines, read_text, split_lines
from examples.classification_report import print_classes
from examples.with_bar import translated_lines, with_bar
from training import cli, may_fail
from training.launch.options import check_numbers
from training.reporting.memory import peak_memory
from training.reporting.plots import draw_similarities
from zoo import from_pretrained
from zoo.rebuild import named_arrays
from zoo.text import Classifier, Embedder, Translator, Writer, fill_mask, load_tokenizer

NEAREST = 3  # lines that are shown for a query


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which model to ask, and what."""

    OPTION_GROUPS: ClassVar = {
        "how": ("query", "beams", "temperature", "max_new_tokens", "stop"),
        "advanced": ("top_p", "prefix", "dtype", "picture", "seed", "debug"),
    }
    HELP_NOTES: ClassVar = {
        "names on the Hugging Face Hub, to begin with": (
            "HuggingFaceTB/SmolLM2-135M-Instruct, Qwen/Qwen2.5-0.5B-Instruct, google/gemma-3-1b-it",
            "sentence-transformers/all-MiniLM-L6-v2",
            "google-bert/bert-base-uncased, distilbert/distilbert-base-uncased-finetuned-sst-2-english",
            "Helsinki-NLP/opus-mt-en-de, google-t5/t5-small (--prefix), facebook/bart-large-cnn, which summarises",
        )
    }

    folder: Path
    """With config.json, the weights and the tokenizer's files, as `hf download NAME --local-dir FOLDER` makes it."""
    write: str | None = None
    """Write on from this text."""
    chat: bool = False
    """Talk: each line of the standard input is answered."""
    embed: Path | None = None
    """Show the nearest lines of this file (UTF-8) for each --query, or for each line the nearest other one."""
    query: tuple[str, ...] = ()
    """Texts that are compared with the lines of --embed."""
    fill: str | None = None
    """Fill in this text where it says [MASK]."""
    classify: str | None = None
    """Classify this text, each line of this file, or with "-" of the standard input."""
    translate: str | None = None
    """Translate this text, each line of this file, or with "-" of the standard input."""
    prefix: str = ""
    """What T5 wants before each text, such as "translate English to German: "."""
    beams: int = 4
    """Width of the search when translating; 1 is greedy."""
    temperature: float = 0.0
    """Of what is written: 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Write with the likeliest tokens of so much probability alone."""
    max_new_tokens: int | None = None
    """Most tokens to write, by default 256; of a translation 8 more than twice its text's."""
    stop: tuple[str, ...] = ()
    """Texts that end what is written."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights; by default as they are stored."""
    picture: Path = Path("runs/pretrained/similarities.png")
    """Where --embed draws the similarities."""
    seed: int = 0
    """Of what is drawn at random."""
    debug: bool = False
    """Show where an error came from."""

    def __post_init__(self):
        tasks = [self.write, self.chat or None, self.embed, self.fill, self.classify, self.translate]
        if sum(task is not None for task in tasks) != 1:
            raise ValueError("give one of --write, --chat, --embed, --fill, --classify and --translate")
        if self.query and self.embed is None:
            raise ValueError("--query goes with --embed, the file whose lines it is compared with")
        check_numbers(self, 0, math.inf, "max_new_tokens", "temperature")
        check_numbers(self, 0, 1, "top_p")
        check_numbers(self, 0, 2**32 - 1, "seed")
        check_numbers(self, 1, 1_000, "beams")


def main(arguments: Arguments) -> dict[str, Any]:
    """Ask a pretrained model to write, talk, compare, fill in, classify or translate.

    Known to work with their own weights: stories260K (--write), all-MiniLM-L6-v2 (--embed). Of families that answer
    as in transformers: gpt2, TinyLlama, SmolLM2, Llama 3, Mistral, Qwen 2 and 3, Gemma (--write, --chat), bert,
    roberta, distilbert (--fill, --classify, --embed), opus-mt, t5, flan-t5, bart (--translate).
    """
    if arguments.embed is not None:
        return nearest(arguments, [line for line in split_lines(read_text(arguments.embed)) if line.strip()])
    if arguments.fill is not None:
        return fill(arguments, arguments.fill)
    if arguments.classify is not None:
        lines = given_lines(arguments.classify)
        return print_classes(loaded(Classifier.from_pretrained, arguments), lines, arguments.classify)
    if arguments.translate is not None:
        lines = given_lines(arguments.translate)
        translator = loaded(Translator.from_pretrained, arguments, prefix=arguments.prefix)
        how: Any = {"num_beams": arguments.beams, "max_new_tokens": arguments.max_new_tokens}
        translations = translated_lines(translator, lines, arguments.translate, **how)
        print("\n".join(translations))
        return {"translations": translations}
    writer = loaded(Writer.from_pretrained, arguments)
    if arguments.write is None:
        return {"answers": list(_talk(writer, arguments))}
    print(arguments.write, end="", flush=True)
    return {"text": _show(writer, writer.stream(arguments.write, **_how(arguments)))}


def loaded(from_folder: Callable[..., Any], arguments: Arguments, **options: Any) -> Any:
    """What is in the folder; how large it is and how long that took is said."""
    start = time.monotonic()
    made = from_folder(arguments.folder, dtype=arguments.dtype, **options)
    arrays = named_arrays(getattr(made, "model", made)).values()
    count, size = sum(array.size for array in arrays), sum(array.nbytes for array in arrays)
    _note(f"{count:,} parameters in {size / 1e6:,.0f} MB, loaded in {time.monotonic() - start:.1f} s")
    return made


def _how(arguments: Arguments) -> dict[str, Any]:
    most = 256 if arguments.max_new_tokens is None else arguments.max_new_tokens
    how: Any = {name: getattr(arguments, name) for name in ("stop", "temperature", "top_p")}
    return how | {"max_new_tokens": most, "key": jax.random.key(arguments.seed)}


def _talk(writer: Writer, arguments: Arguments) -> Iterator[str]:
    """Answers each line, with all that was said before, until there is no more."""
    messages: list[dict[str, str]] = []
    print("> ", end="", flush=True)
    for line in sys.stdin:
        if said := line.strip():
            messages.append({"role": "user", "content": said})
            answer = _show(writer, writer.chat(messages, **_how(arguments)))
            messages.append({"role": "assistant", "content": answer})
            yield answer
        print("> ", end="", flush=True)
    print()


def _show(writer: Writer, pieces: Iterator[str]) -> str:
    """Prints a text as it comes, and how fast it came once the model was compiled for it; returns it."""
    written, start, first = "", time.monotonic(), None
    for piece in pieces:
        first = first or time.monotonic()
        print(piece, end="", flush=True)
        written += piece
    print()
    around = len(writer.tokenizer.before) + len(writer.tokenizer.after)
    tokens = len(writer.tokenizer.encode(written)) - around  # the pieces may be of several
    if first is not None and (seconds := time.monotonic() - first) > 0 and tokens > 1:
        _note(f"{tokens} tokens, the first after {first - start:.1f} s, then {(tokens - 1) / seconds:,.0f} a second")
    return written


def nearest(arguments: Arguments, lines: list[str]) -> dict[str, Any]:
    """Prints the lines that are most similar to each query, and draws the similarities."""
    if len(lines) < (2 - bool(arguments.query)):
        raise ValueError(f"--embed needs two lines, or one and a --query; {arguments.embed} has {len(lines)}")
    queries = list(arguments.query) or lines
    embedder = loaded(Embedder.from_pretrained, arguments)
    vectors = with_bar(embedder, lines, "embedding")
    similarities = (embedder(queries) if arguments.query else vectors) @ vectors.T
    compared = similarities if arguments.query else np.where(np.eye(len(lines), dtype=bool), -np.inf, similarities)
    found = np.argsort(-compared, axis=1, kind="stable")[:, : NEAREST if arguments.query else 1]
    for query, row, best in zip(queries, similarities, found, strict=True):
        print(query, *(f"  {row[i]:6.3f} | {lines[i]}" for i in best.tolist()), sep="\n")
    columns = np.unique(found) if arguments.query else np.arange(len(lines))
    with may_fail(f"{arguments.picture} could not be drawn"):
        draw_similarities(arguments.picture, similarities[:, columns], queries, [lines[i] for i in columns])
        _note(f"the similarities are drawn in {arguments.picture}")
    return {"nearest": found.tolist(), "similarities": similarities}


def fill(arguments: Arguments, masked: str) -> dict[str, Any]:
    """Prints the likeliest tokens in the place of a mask, each in the text, and how likely they are."""
    filled = fill_mask(loaded(from_pretrained, arguments), load_tokenizer(arguments.folder), masked)
    print(*(f"  {probability:6.1%} | {text}" for text, probability in filled), sep="\n")
    return {"filled": filled}


def _note(text: str) -> None:
    """Beside what was asked for, so that this alone is on the standard output; with the memory used so far."""
    memory = "" if (peak := peak_memory()) is None else f"; {peak / 1e6:,.0f} MB of memory at most"
    print(f"[{text}{memory}]", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli(main)
