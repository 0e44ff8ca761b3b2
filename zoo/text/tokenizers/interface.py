"""What every tokenizer can do."""

import codecs
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Integer

_SURROGATE = re.compile(r"[\ud800-\udfff]")

Ids = Integer[np.ndarray, " n"] | Sequence[int]


@runtime_checkable
class Tokenizer(Protocol):
    """What a tokenizer can do. Where it keeps everything (words alone do not), `decode(encode(text)) == text`."""

    @property
    def vocab_size(self) -> int:
        """Ids are in 0..vocab_size - 1."""
        ...

    @property
    def start_id(self) -> int | None:
        """What a text begins with, if there is such an id; `encode` adds it where the model's family has it so."""
        ...

    @property
    def stop_id(self) -> int | None:
        """What a model writes at the end of a text, if there is such an id."""
        ...

    @property
    def pad_id(self) -> int | None:
        """What fills up a batch, if there is such an id."""
        ...

    @property
    def before(self) -> Sequence[int]:
        """What `encode` puts before the ids of every text."""
        ...

    @property
    def after(self) -> Sequence[int]:
        """What `encode` puts after them."""
        ...

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The ids of a text; `ValueError` if it has something that the tokenizer can't express."""
        ...

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of ids; `ValueError` if one is not in 0..vocab_size - 1.

        Args:
            ids: of a whole text, or of the part of it that there is.
            partial: whether more ids will come: then what they could change is left out, such as the first bytes of
                a character. `decode(ids + more)` begins with what `decode(ids, partial=True)` gives.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """All there is to know about it, for `tokenizer_from_json`."""
        ...


class ByWhatIsSaved:
    """Tokenizers of one kind are equal if they are saved alike."""

    def __eq__(self: Any, other: Any) -> bool:
        return type(self) is type(other) and self.to_json() == other.to_json()

    def __hash__(self: Any) -> int:
        return hash((type(self), self.vocab_size))


def check_texts(name: str, texts: Iterable[str]) -> None:
    """Raises `TypeError` for one text where many are asked for: its characters would be taken for texts."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a sequence of texts, got the text {texts[:100]!r}: put it into a list")


def utf8_text(content: bytes, partial: bool) -> str:
    """The text of bytes; those that are not UTF-8 become U+FFFD, and an unfinished character at the end if no more
    will come (`partial`).

    Example:
        >>> utf8_text("año".encode()[:2], partial=False), utf8_text("año".encode()[:2], partial=True)
        ('a�', 'a')
    """
    return codecs.getincrementaldecoder("utf-8")("replace").decode(content, final=not partial)


def text_to_json(text: str) -> str | list[int]:
    """A text as it survives JSON, which makes one character of two lone surrogates: code points if it has any."""
    return [ord(character) for character in text] if _SURROGATE.search(text) else text


def text_from_json(saved: Any) -> str | None:
    """What `text_to_json` was given, or None if this is none of its results."""
    if isinstance(saved, list) and all(type(code) is int and 0 <= code <= sys.maxunicode for code in saved):
        return "".join(map(chr, saved))
    return saved if isinstance(saved, str) else None


def checked_ids(ids: Ids, vocab_size: int | None) -> Integer[np.ndarray, " n"]:
    """The ids as an array, each in the vocabulary if its size is given: numpy would count a negative one back."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"ids must be a sequence of integers; got shape {array.shape} of {array.dtype}")
    last = np.iinfo(array.dtype).max if vocab_size is None else vocab_size - 1
    if (outside := np.flatnonzero((array < 0) | (array > last))).size:
        at = int(outside[0])
        raise ValueError(f"ids must be in 0..{last}; got {array[at]} at position {at}")
    return array
