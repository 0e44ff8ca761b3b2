"""A SentencePiece model (`spiece.model`, `source.spm`), as its own library reads it."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from zoo.text.extra import text_extra
from zoo.text.tokenizers.interface import ByWhatIsSaved, Ids, checked_ids


class SentencePieceTokenizer(ByWhatIsSaved):
    """Kudo and Richardson, "SentencePiece", 2018, arXiv:1808.06226: pieces of a text with its spaces written as `▁`.

    No text turns into a special id, whatever it says, but for a language code that Marian's have at the start of a
    text (`>>fra<<`) and that is in the vocabulary.

    Args:
        model: the content of the file.
        pieces: the pieces in the order of their ids where that is not the model's own, as of Marian, whose two models
            share one vocabulary.
        start_id, stop_id, pad_id: special ids; none of them shows in a decoded text.
        unknown_id: of what the vocabulary lacks, by default the model's own; it does not show either.
        before, after: ids that `encode` puts before and after those of every text.

    Raises:
        ValueError: the library can't read the model, or ids are out of range.
    """

    def __init__(
        self,
        model: bytes,
        *,
        pieces: Sequence[str] | None = None,
        start_id: int | None = None,
        stop_id: int | None = None,
        pad_id: int | None = None,
        unknown_id: int | None = None,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
    ):
        with text_extra():
            import sentencepiece
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"model must be the content of a SentencePiece model: {error}") from None
        self.model = model
        self.pieces = None if pieces is None else list(pieces)
        processor = self._processor
        self._pieces = self.pieces or [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self.start_id, self.stop_id, self.pad_id = start_id, stop_id, pad_id
        self.unknown_id: int = processor.unk_id() if unknown_id is None else unknown_id
        self.before, self.after = list(before), list(after)
        special = [start_id, stop_id, pad_id, self.unknown_id, *before, *after]
        self._special_ids = {i for i in special if i is not None}
        checked_ids(sorted(self._special_ids), self.vocab_size)
        known = {i: processor.piece_to_id(piece) for i, piece in enumerate(self._pieces)}
        self._byte_ids = {i for i, own in known.items() if processor.is_byte(own)}

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._pieces)

    def id_of(self, piece: str) -> int | None:
        """The id of a piece, if there is such."""
        return self._ids.get(piece)

    def encode(self, text: str, *, add_special: bool = True) -> Int32[np.ndarray, " n"]:
        """The ids of a text; what the vocabulary lacks has `unknown_id`.

        Args:
            text: any; `ValueError` for a lone surrogate, which has no UTF-8.
            add_special: whether `before` and `after` are put around it.
        """
        text.encode("utf-8")
        code, end, rest = text.partition("<<")
        language = [code + end] if text.startswith(">>") and code + end in self._ids else []
        pieces = language + self._processor.encode(rest if language else text, out_type=str)
        ids = [self._ids.get(piece, self.unknown_id) for piece in pieces]
        return np.array([*self.before, *ids, *self.after] if add_special else ids, np.int32)

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of ids. One beyond the vocabulary has none: models may have rows for more tokens than there are.

        Raises:
            ValueError: an id is negative.
        """
        kept = [i for i in checked_ids(ids, None).tolist() if i < self.vocab_size and i not in self._special_ids]
        unfinished = len(kept)
        while partial and unfinished and kept[unfinished - 1] in self._byte_ids:
            unfinished -= 1
        return self._processor.decode_pieces([self._pieces[i] for i in kept[:unfinished]]).replace("▁", " ")

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "sentence pieces", "model": ..., "pieces": ..., ...}`, the model in base 64."""
        names = ("pieces", "start_id", "stop_id", "pad_id", "unknown_id", "before", "after")
        model = base64.b64encode(self.model).decode("ascii")
        return {"tokenizer": "sentence pieces", "model": model, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "SentencePieceTokenizer":
        """The tokenizer that `to_json` described; `ValueError` if the dictionary describes none."""
        if not isinstance(saved.get("model"), str):
            raise ValueError(f"a SentencePiece tokenizer is saved with its model; got {sorted(saved)}")
        rest = {name: value for name, value in saved.items() if name not in ("tokenizer", "model")}
        return cls(base64.b64decode(saved["model"], validate=True), **rest)
