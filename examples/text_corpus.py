"""What `shakespeare.py` and `char_rnn.py` learn from: a text of any size as ids, its tail held out.

A small file is read at once. Of a larger one only its ids are in use, memory-mapped; they are made in parallel, once.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from data.text import NAMED, load_text, split_tail
from data.tokenised_text import tokenised_text
from zoo.text import ByteTokenizer, CharacterTokenizer, Tokenizer, train_byte_pairs

AT_ONCE = 2**22  # bytes of a file that is read at once
PIECE = 2**20  # characters that are looked at together
SEEN = 16  # pieces from which a vocabulary of byte pairs is made
MOST_HELD_OUT = 1_000_000  # ids: a tenth of gigabytes would take hours to evaluate on


@dataclasses.dataclass(frozen=True)
class TextCorpus:
    """A text as ids.

    Attributes:
        tokenizer: of the ids.
        train, held_out: the ids to learn from, and those to measure on, which come after them.
        beginning: of the text, some characters.
    """

    tokenizer: Tokenizer
    train: Integer[np.ndarray, " ids"]
    held_out: Integer[np.ndarray, " ids"]
    beginning: str

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer | str = "characters") -> "TextCorpus":
        """Of a text in memory. The tokenizer is given, or its kind: see `make_tokenizer`."""
        tokenizer = make_tokenizer(tokenizer, iter([text])) if isinstance(tokenizer, str) else tokenizer
        return cls(tokenizer, *split_tail(tokenizer.encode(text), most=MOST_HELD_OUT), text[:100])

    @classmethod
    def load(
        cls,
        name_or_path: str,
        data_dir: Path | None = None,
        tokenizer: Tokenizer | str = "characters",
        *,
        most: int | None = None,
    ) -> "TextCorpus":
        """Of a known text or a file, or its first `most` characters. Raises as `load_text` and `tokenised_text`."""
        path = Path(name_or_path)
        if name_or_path in NAMED or most is not None or not path.is_file() or os.path.getsize(path) <= AT_ONCE:
            return cls.of(load_text(name_or_path, data_dir)[:most], tokenizer)
        if isinstance(tokenizer, str):
            tokenizer = make_tokenizer(tokenizer, _pieces(path))
        ids = tokenised_text(path, tokenizer)
        return cls(tokenizer, *split_tail(ids, most=MOST_HELD_OUT), next(_pieces(path))[:100])

    @property
    def unit(self) -> str:
        """What an id stands for."""
        units = {CharacterTokenizer: "character", ByteTokenizer: "byte"}
        return units.get(type(self.tokenizer), "token")


def check_tokenizer(kind: str) -> None:
    """Raises `ValueError` unless `make_tokenizer` knows it."""
    size = re.fullmatch(r"bpe:(\d{1,7})", kind)
    if kind not in ("characters", "bytes") and (size is None or int(size[1]) < 259):
        raise ValueError(f"--tokenizer must be characters, bytes or bpe:N with N from 259 on; got {kind}")


def make_tokenizer(kind: str, pieces: Iterator[str]) -> Tokenizer:
    """ "characters" that occur, "bytes", or so many byte pairs, "bpe:8000", trained on the first megabytes."""
    check_tokenizer(kind)
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "characters":
        return CharacterTokenizer("".join(sorted(set().union(*map(set, pieces)))))
    return train_byte_pairs(islice(pieces, SEEN), int(kind.removeprefix("bpe:")))


def _pieces(path: Path) -> Iterator[str]:
    """The text piece by piece. What is not UTF-8 is found, and named, when it is tokenised."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        yield from iter(lambda: file.read(PIECE), "")
