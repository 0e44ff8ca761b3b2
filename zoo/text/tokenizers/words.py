"""Words: the most frequent ones of a corpus, an id each."""

import string
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from zoo.text.tokenizers.interface import ByWhatIsSaved, Ids, check_texts, checked_ids, text_from_json, text_to_json

# ASCII punctuation but the apostrophe separates words, as in Keras's tokenizer.
_SEPARATORS = str.maketrans(dict.fromkeys(string.punctuation.replace("'", ""), " "))


def split_words(text: str) -> list[str]:
    """The words of a text in lower case; white space and ASCII punctuation but the apostrophe separate them.

    Example:
        >>> split_words("Don't miss it - it's GREAT!<br />")
        ["don't", 'miss', 'it', "it's", 'great', 'br']
    """
    return text.lower().translate(_SEPARATORS).split()


class WordTokenizer(ByWhatIsSaved):
    """One id per word; words that it does not know share one id, so a text does not come back letter by letter.

    Ids 0, 1 and 2 are padding, the start of a text and an unknown word; word i of the list has id i + 3.

    Args:
        words: as `split_words` gives them, each once, in the order of their ids.

    Raises:
        ValueError: a word occurs twice, or is none that a text can be split into.

    Example:
        >>> tokenizer = WordTokenizer.from_texts(["A cat sat.", "A dog sat!", "A cow"], vocab_size=5)
        >>> tokenizer.words, tokenizer.encode("A cat sat").tolist(), tokenizer.decode([3, 2, 4])
        (['a', 'sat'], [3, 2, 4], 'a <unknown> sat')
    """

    pad_id = 0
    start_id = 1
    unknown_id = 2
    stop_id = None
    before = after = ()
    _SPECIAL = ("<pad>", "<start>", "<unknown>")

    def __init__(self, words: list[str]):
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words, start=len(self._SPECIAL))}
        if len(self._ids) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words must have each word once; got {twice!r} twice")
        for word in self.words:
            if split_words(word) != [word]:
                raise ValueError(f"words must be single words in lower case; got {word!r}")

    @classmethod
    def from_texts(cls, texts: Iterable[str], vocab_size: int = 20_000) -> "WordTokenizer":
        """The tokenizer of the most frequent words; of equally frequent ones, the first in the alphabet.

        Args:
            texts: what to count.
            vocab_size: number of ids, the three special ones included; fewer if there are not so many words.

        Raises:
            TypeError: one text instead of many.
            ValueError: vocab_size has no room for a word.
        """
        if vocab_size <= len(cls._SPECIAL):
            raise ValueError(f"vocab_size must be more than {len(cls._SPECIAL)} special ids; got {vocab_size}")
        check_texts("texts", texts)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, _ in ordered[: vocab_size - len(cls._SPECIAL)]])

    @property
    def vocab_size(self) -> int:
        """Number of ids: of words, and three."""
        return len(self.words) + len(self._SPECIAL)

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The id of each word; any text has some, or none if it has no word."""
        get, unknown = self._ids.get, self.unknown_id
        return np.array([get(word, unknown) for word in split_words(text)], np.int32)

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The words of ids with spaces between them; special ids show as `<pad>`, `<start>` and `<unknown>`.

        Raises:
            ValueError: an id is not in 0..vocab_size - 1.
        """
        special = len(self._SPECIAL)
        return " ".join(
            self._SPECIAL[i] if i < special else self.words[i - special]
            for i in checked_ids(ids, self.vocab_size).tolist()
        )

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "words", "words": ...}`: one string, or its code points if lone surrogates are in it."""
        return {"tokenizer": "words", "words": text_to_json(" ".join(self.words))}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "WordTokenizer":
        """The tokenizer that `to_json` described; `ValueError` if the dictionary describes none."""
        words = text_from_json(saved.get("words"))
        if words is None:
            raise ValueError(f"a word tokenizer is saved with its words; got {sorted(saved)}")
        return cls(words.split(" ") if words else [])
