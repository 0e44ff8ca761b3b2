"""Characters and bytes: the two alphabets that need no training."""

from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from zoo.text.tokenizers.interface import ByWhatIsSaved, Ids, checked_ids, text_from_json, text_to_json, utf8_text


class CharacterTokenizer(ByWhatIsSaved):
    """One id per character (Unicode code point): its place in the alphabet.

    Args:
        alphabet: the characters, each once, in the order of their ids.

    Raises:
        ValueError: the alphabet is empty or has a character twice.

    Example:
        >>> tokenizer = CharacterTokenizer.from_text("banana")
        >>> tokenizer.alphabet, tokenizer.encode("nab").tolist(), tokenizer.decode([1, 0, 2])
        ('abn', [2, 0, 1], 'ban')
    """

    start_id = stop_id = pad_id = None
    before = after = ()

    def __init__(self, alphabet: str):
        if not alphabet:
            raise ValueError("alphabet must have at least one character; got ''")
        codes = _code_points(alphabet)
        self._order = np.argsort(codes).astype(np.int32)
        self._sorted = codes[self._order]
        if (twice := np.flatnonzero(self._sorted[1:] == self._sorted[:-1])).size:
            raise ValueError(f"alphabet must have each character once; got {chr(self._sorted[twice[0]])!r} twice")
        self.alphabet = alphabet
        self._codes = codes

    @classmethod
    def from_text(cls, text: str) -> "CharacterTokenizer":
        """The tokenizer whose alphabet is the text's characters, sorted."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Number of characters in the alphabet."""
        return len(self.alphabet)

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The id of each character.

        Raises:
            ValueError: a character is not in the alphabet; the text names it and its place.
        """
        codes = _code_points(text)
        places = np.minimum(np.searchsorted(self._sorted, codes), self.vocab_size - 1)
        unknown = np.flatnonzero(self._sorted[places] != codes)
        if unknown.size:
            at = int(unknown[0])
            raise ValueError(
                f"text has {text[at]!r} (U+{ord(text[at]):04X}) at position {at}, which is not one of the "
                f"{self.vocab_size} characters of the alphabet"
            )
        return self._order[places]

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of ids.

        Raises:
            ValueError: an id is not in 0..vocab_size - 1.
        """
        return self._codes[checked_ids(ids, self.vocab_size)].tobytes().decode("utf-32-le", "surrogatepass")

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "characters", "alphabet": ...}`, as code points if lone surrogates are among them."""
        return {"tokenizer": "characters", "alphabet": text_to_json(self.alphabet)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "CharacterTokenizer":
        """The tokenizer that `to_json` described; `ValueError` if the dictionary describes none."""
        alphabet = text_from_json(saved.get("alphabet"))
        if alphabet is None:
            raise ValueError(f"a character tokenizer is saved with its alphabet; got {sorted(saved)}")
        return cls(alphabet)


class ByteTokenizer(ByWhatIsSaved):
    """One id per byte of the text's UTF-8 form: any text at all, with 256 ids.

    Example:
        >>> ByteTokenizer().encode("é").tolist(), ByteTokenizer().decode([195, 169])
        ([195, 169], 'é')
    """

    start_id = stop_id = pad_id = None
    before = after = ()

    @property
    def vocab_size(self) -> int:
        """256."""
        return 256

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The bytes of the text in UTF-8; `ValueError` for a lone surrogate, which has none."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of bytes; those that are not UTF-8, which a model may well write, become U+FFFD.

        Raises:
            ValueError: an id is not in 0..255.
        """
        return utf8_text(checked_ids(ids, 256).astype(np.uint8).tobytes(), partial)

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "bytes"}`."""
        return {"tokenizer": "bytes"}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "ByteTokenizer":
        """There is one byte tokenizer, whatever was saved with it."""
        return cls()


def _code_points(text: str) -> Integer[np.ndarray, " n"]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
