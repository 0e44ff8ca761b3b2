"""A model is asked about many texts, and one sees how far it is."""

import sys
from collections.abc import Callable, Sequence, Sized
from typing import Any

from tqdm import tqdm

from data.text import join_lines

MANY = 1_000


def with_bar(ask: Callable[..., Any], texts: Sequence[Any], what: str, **options: Any) -> Any:
    """What `ask(texts, **options)` gives, with a bar on a terminal where it takes more than two seconds; elsewhere
    there is a line, if the texts are many.

    Args:
        ask: a `zoo.text.Classifier` or its like, which takes `progress`.
        texts: or what else it takes.
        what: is done with them, as "testing".
        options: further ones of `ask`.
    """
    if len(texts) >= MANY and not sys.stderr.isatty():
        print(f"{what} ({len(texts):,} texts) ...", file=sys.stderr, flush=True)
    with tqdm(total=len(texts), desc=what, delay=2, disable=None) as bar:
        return ask(texts, progress=bar.update, **options)


def ask_lines(
    ask: Callable[..., Any],
    lines: Sequence[str],
    where: str,
    what: str,
    *,
    encode: Callable[[str], Sized],
    most: int | None = None,
    **options: Any,
) -> list[Any]:
    """The answer to each line, in their order; None for a blank one, and for those that a model can't read.

    One warning tells of the latter. A text that was given alone is asked about in any case: the model has the error.

    Args:
        ask, options: as `with_bar` takes them.
        lines: of a file, or one text.
        where: the file, or that text.
        what: is to be done, such as "translate".
        encode: gives the tokens of a line, of which the model reads 1 to `most`.

    Raises:
        ValueError: all lines are blank.
    """
    spoken = [i for i, line in enumerate(lines) if line.strip()]
    if not spoken:
        raise ValueError(f"{where} has no text: there is nothing to {what}")
    if list(lines) != [where]:
        sizes = {i: len(encode(lines[i])) for i in spoken}
        unread = [i for i in spoken if not 1 <= sizes[i] <= (most or sizes[i])]
        if unread:
            first, limit = unread[0], "at least one token" if most is None else f"1 to {most} tokens"
            more = f", as {len(unread) - 1:,} more" if unread[1:] else ""
            said = f"a text must have {limit}, got {sizes[first]}; this line has no answer{more}"
            print(
                f"warning: {'standard input' if where == '-' else where}, line {first + 1}: {said}",
                file=sys.stderr,
                flush=True,
            )
        spoken = [i for i in spoken if i not in set(unread)]
    found: list[Any] = [None] * len(lines)
    texts = [lines[i] for i in spoken]
    answers = with_bar(ask, texts, f"{what.removesuffix('e')}ing", **options) if texts else []
    for i, answer in zip(spoken, answers, strict=True):
        found[i] = answer
    return found


def translated_lines(translator: Any, lines: Sequence[str], where: str, **options: Any) -> list[str]:
    """The translation of each line by a `zoo.text.Translator`, itself one line; see `ask_lines`."""

    def encode(text: str) -> Sized:
        return translator.source.encode(translator.prefix + translator.normalised(text))

    most = translator.model.max_length
    answers = ask_lines(translator, lines, where, "translate", encode=encode, most=most, **options)
    return ["" if text is None else join_lines(text) for text in answers]
