"""Byte pairs: tiktoken's vocabularies, whole or reduced to what a corpus uses."""

import base64
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from zoo.text.extra import text_extra
from zoo.text.tokenizers.interface import ByWhatIsSaved, Ids, check_texts, checked_ids, utf8_text

# What the encodings are made of. tiktoken's cache has each file under the SHA-1 of its address.
_OFFICIAL = "https://openaipublic.blob.core.windows.net/"
ENCODINGS = {
    "gpt2": ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"),
    "cl100k_base": ("encodings/cl100k_base.tiktoken",),
    "o200k_base": ("encodings/o200k_base.tiktoken",),
}


class BytePairTokenizer(ByWhatIsSaved):
    """Byte-pair encoding by tiktoken, with three special ids after the tokens: stop, start and padding.

    In GPT-2's vocabulary the stop id is then 50,256, its `<|endoftext|>`. No text turns into a special id, whatever
    it says: `<|endoftext|>` in a text is text.

    Args:
        pattern: the regular expression that cuts a text into pieces, within which pairs are joined; a character
            that it leaves out is a piece of its own.
        tokens: the tokens' bytes in the order of their ids, which is the order of merging; all 256 single bytes among
            them, so that any text has ids.

    Raises:
        ValueError: a token occurs twice, or a byte is missing.

    Example:
        >>> tokenizer = BytePairTokenizer(r"\\S+|\\s+", [bytes([i]) for i in range(256)] + [b"th", b"the"])
        >>> tokenizer.encode("the hat").tolist(), tokenizer.decode([257, 32, 104, tokenizer.stop_id])
        ([257, 32, 104, 97, 116], 'the h')
    """

    before = after = ()

    def __init__(self, pattern: str, tokens: Sequence[bytes]):
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) < len(tokens):
            twice = next(token for rank, token in enumerate(tokens) if ranks[token] != rank)
            raise ValueError(f"tokens must have each token once; got {twice!r} twice")
        # Without them tiktoken panics on the first text that has such a byte.
        if missing := [i for i in range(256) if bytes([i]) not in ranks]:
            raise ValueError(f"tokens must have all 256 single bytes; {bytes(missing[:1])!r} is missing")
        self.pattern = pattern
        self.tokens = list(tokens)
        self.stop_id, self.start_id, self.pad_id = range(len(tokens), len(tokens) + 3)
        with text_extra():
            import tiktoken
        self._encoding = tiktoken.Encoding(
            "byte pairs", pat_str=whole(pattern), mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def named(cls, name: str, files: Sequence[Path] = ()) -> "BytePairTokenizer":
        """One of tiktoken's encodings.

        Args:
            name: "gpt2", "cl100k_base" or "o200k_base".
            files: its files as they were published, wherever they lie: `vocab.bpe` and `encoder.json` of GPT-2, else
                the one `.tiktoken`. What is not given, or is not as it should be, tiktoken finds itself: in its own
                cache (TIKTOKEN_CACHE_DIR) or in the network.

        Raises:
            ValueError: there is no encoding of that name, or it has another number of files.
            OSError: a file can't be had.
        """
        if name not in ENCODINGS:
            raise ValueError(f"name must be one of {', '.join(ENCODINGS)}; got {name!r}")
        if files and len(files) != len(ENCODINGS[name]):
            raise ValueError(f"files of {name} are {len(ENCODINGS[name])}; got {len(files)}")
        encoding = _named(name, files)
        ranks = encoding._mergeable_ranks
        return cls(encoding._pat_str, sorted(ranks, key=ranks.__getitem__))

    def compacted(self, texts: Iterable[str], *, min_count: int = 1) -> "BytePairTokenizer":
        """The tokenizer of the tokens that some texts use, and of those that they are merged from.

        The texts have the same tokens as before, with smaller ids; any other text still has ids, if more of them.

        Args:
            texts: what to count tokens in.
            min_count: how often a token must occur to stay; rarer ones fall apart into those that they were merged
                from, so that a model has enough examples of each, and the texts have a few tokens more.

        Raises:
            TypeError: one text instead of many.
            ValueError: `min_count` is less than 1.
        """
        check_texts("texts", texts)
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        counts = np.zeros(len(self.tokens), np.int64)
        for text in texts:
            np.add.at(counts, self.encode(text), 1)
        kept = {bytes([i]) for i in range(256)}
        waiting = [self.tokens[i] for i in np.flatnonzero(counts >= min_count)]
        ranks = self._encoding._mergeable_ranks
        while waiting:
            token = waiting.pop()
            if token not in kept:
                kept.add(token)
                waiting.extend(_parents(token, ranks))
        return BytePairTokenizer(self.pattern, sorted(kept, key=ranks.__getitem__))

    @property
    def vocab_size(self) -> int:
        """Number of ids: of tokens, and three."""
        return len(self.tokens) + 3

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The ids of a text; `ValueError` for a lone surrogate, which has no UTF-8."""
        if not text.isascii():
            text.encode("utf-8")  # where tiktoken would replace it without a word
        return np.array(self._encoding.encode_ordinary(text), np.int32)

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of ids without the special ones; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is not in 0..vocab_size - 1.
        """
        tokens = (self.tokens[i] for i in checked_ids(ids, self.vocab_size).tolist() if i < len(self.tokens))
        return utf8_text(b"".join(tokens), partial)

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "byte pairs", "pattern": ..., "tokens": ...}`, the tokens in base 64 in one string."""
        tokens = " ".join(base64.b64encode(token).decode("ascii") for token in self.tokens)
        return {"tokenizer": "byte pairs", "pattern": self.pattern, "tokens": tokens}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "BytePairTokenizer":
        """The tokenizer that `to_json` described; `ValueError` if the dictionary describes none."""
        pattern, tokens = saved.get("pattern"), saved.get("tokens")
        if not isinstance(pattern, str) or not isinstance(tokens, str):
            raise ValueError(f"a byte-pair tokenizer is saved with its pattern and tokens; got {sorted(saved)}")
        return cls(pattern, [base64.b64decode(token, validate=True) for token in tokens.split(" ")])


def whole(pattern: str) -> str:
    """A pattern that leaves no character out: tiktoken would drop those between its pieces."""
    return rf"{pattern}|[\s\S]"


def _named(name: str, files: Sequence[Path]) -> Any:
    """tiktoken's encoding, made from copies of files if some are given: it deletes those that it does not like."""
    with text_extra():
        import tiktoken
    if not files:
        return tiktoken.get_encoding(name)
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        for path, published in zip(files, ENCODINGS[name], strict=True):
            cached = hashlib.sha1((_OFFICIAL + published).encode()).hexdigest()
            shutil.copyfile(path, Path(folder) / cached)
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def _parents(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that merge into this one: what is left when it is encoded by earlier merges alone."""
    parts = [token[i : i + 1] for i in range(len(token))]
    below = ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, below) for a, b in itertools.pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= below:
            raise ValueError(f"token {token!r} can't be merged from earlier ones")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts if len(parts) > 1 else []
