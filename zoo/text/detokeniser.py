"""The text of ids as they come, piece by piece, and where it ends."""

from collections.abc import Iterable, Iterator, Sequence

from zoo.text.tokenizers import Ids, Tokenizer


def detokenise(tokenizer: Tokenizer, ids: Iterable[int], *, after: Ids = ()) -> Iterator[str]:
    """Yields the text of ids as soon as no later id can change it: never half a character.

    The pieces together are exactly what `tokenizer.decode(after + ids)` has beyond `tokenizer.decode(after)`. Each id
    costs the decoding of a few, not of all before it: what a token adds to a text may depend on whether it is the
    first one and on unfinished characters before it, on no more.

    Args:
        tokenizer: the one of the model that makes the ids.
        ids: as `zoo.stream` yields them.
        after: ids whose text is known already, such as the prompt's.

    Example:
        >>> from zoo.text import ByteTokenizer
        >>> list(detokenise(ByteTokenizer(), "a 世".encode()))
        ['a', ' ', '世']
    """
    window = [int(i) for i in after]  # from an id at which all text before was finished
    shown = len(tokenizer.decode(window))
    finished = len(window)  # ids of the window whose text is shown, where nothing is held back
    for i in ids:
        window.append(i)
        text = tokenizer.decode(window, partial=True)
        if len(text) <= shown:
            continue
        yield text[shown:]
        shown = len(text)
        if len(tokenizer.decode(window)) == shown:
            if already := len(tokenizer.decode(window[finished:])):
                window, shown = window[finished:], already
            finished = len(window)
    if rest := tokenizer.decode(window)[shown:]:
        yield rest


def until(pieces: Iterable[str], stops: Iterable[str] | None) -> Iterator[str]:
    """Yields a text that comes in pieces up to the first of the strings that end it, and nothing of that string.

    What may be the beginning of such a string is held back until it is clear that it is not. The first is the one
    that is complete first; of several that are complete at the same character, the longest.

    Raises:
        ValueError: a string is empty, or is none.

    Example:
        >>> list(until(["To be", " or", "\\n", "\\nROMEO:"], ["\\n\\n"]))
        ['To be', ' or']
    """
    return _until(pieces, check_stops(stops))


def check_stops(stops: Iterable[str] | None) -> tuple[str, ...]:
    """The strings that end a text, none for None; `ValueError` for what `until` does not take."""
    found = () if stops is None else tuple(stops) if isinstance(stops, Iterable) else (stops,)
    if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in found):
        raise ValueError(f"stop must be a sequence of strings that are not empty, got {stops!r}")
    return found


def _until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        held += piece
        found = [(start + len(stop), start) for stop in stops if (start := held.find(stop)) >= 0]
        if found:
            if start := min(found)[1]:
                yield held[:start]
            return
        # As much of the end as could be the beginning of one.
        longest = max((len(stop) - 1 for stop in stops), default=0)
        begun = next(
            (n for n in range(min(longest, len(held)), 0, -1) if any(stop.startswith(held[-n:]) for stop in stops)), 0
        )
        if shown := held[: len(held) - begun]:
            yield shown
            held = held[len(shown) :]
    if held:
        yield held
