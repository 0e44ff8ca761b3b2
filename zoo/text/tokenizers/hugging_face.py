"""A `tokenizer.json`, as the library `tokenizers` reads it: WordPiece, Unigram, byte pairs of bytes or characters."""

import json
from typing import Any

import numpy as np
from jaxtyping import Int32

from zoo.text.extra import text_extra
from zoo.text.tokenizers.interface import ByWhatIsSaved, Ids, checked_ids


class HuggingFaceTokenizer(ByWhatIsSaved):
    """What a `tokenizer.json` describes. It neither pads nor cuts, whatever the file says of it.

    `encode` adds the family's special tokens as the file has it (`[CLS]` and `[SEP]`, `<s>`, or none), and a special
    token that is written out in a text becomes its id, as in transformers. `decode` leaves special tokens out.

    Args:
        definition: the content of the file.
        start_id, stop_id, pad_id, mask_id: which tokens these are, where there are such.
        chat_template: how a conversation is written for this model, see `zoo.text.render_chat`.

    Raises:
        ValueError: the library can't read the definition.

    Example:
        >>> words = {"type": "WordLevel", "vocab": {"?": 0, "a": 1, "cat": 2}, "unk_token": "?"}
        >>> tokenizer = HuggingFaceTokenizer({"model": words, "pre_tokenizer": {"type": "Whitespace"}})
        >>> tokenizer.encode("a cat sat").tolist(), tokenizer.decode([2, 1])
        ([1, 2, 0], 'cat a')
    """

    def __init__(
        self,
        definition: dict[str, Any],
        *,
        start_id: int | None = None,
        stop_id: int | None = None,
        pad_id: int | None = None,
        mask_id: int | None = None,
        chat_template: str | None = None,
    ):
        with text_extra():
            import tokenizers
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
        except Exception as error:  # the library has no class of its own for it
            raise ValueError(
                f"definition must be the content of a tokenizer.json; tokenizers says: {error}"
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.start_id, self.stop_id, self.pad_id, self.mask_id = start_id, stop_id, pad_id, mask_id
        self.chat_template = chat_template
        self.definition = definition
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        added = self._tokenizer.get_added_tokens_decoder().items()
        self._special_ids = {i for i, token in added if token.special}
        # One character may be several of these, and a whole run of them is judged together.
        self._byte_ids = {i for i in (vocabulary.get(f"<0x{byte:02X}>") for byte in range(256)) if i is not None}

        self.before, self.after = self._around()

    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that a text gets on both sides, seen at one that can't get lost between them."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        for text in ("a", *sorted(vocabulary, key=vocabulary.__getitem__)):
            try:
                bare, whole = (self.encode(text, add_special=added).tolist() for added in (False, True))
            except ValueError:  # of letters that are not in the vocabulary
                continue
            if bare and not self._special_ids.intersection(bare):
                start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
                if start is not None:
                    return whole[:start], whole[start + len(bare) :]
        return self.encode("").tolist(), []

    def special_tokens(self) -> dict[str, str]:
        """How the special ids are written, as chat templates call them: `{"bos_token": "<s>", ...}`."""
        ids = {"bos": self.start_id, "eos": self.stop_id, "pad": self.pad_id, "mask": self.mask_id}
        return {f"{name}_token": self._tokenizer.id_to_token(i) or "" for name, i in ids.items() if i is not None}

    def encode(self, text: str, *, add_special: bool = True) -> Int32[np.ndarray, " n"]:
        """The ids of a text.

        Args:
            text: any; `ValueError` for a lone surrogate, which has no UTF-8, or what the vocabulary can't express.
            add_special: whether to put the family's special tokens around it.
        """
        text.encode("utf-8")
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special)
        except Exception as error:  # the library has no class of its own for it
            raise ValueError(f"text {text[:100]!r} has no ids; tokenizers says: {error}") from None
        return np.array(encoding.ids, np.int32)

    def decode(self, ids: Ids, *, partial: bool = False) -> str:
        """The text of ids. One beyond the vocabulary has none: models may have rows for more tokens than there are.

        Raises:
            ValueError: an id is negative.
        """
        kept = [i for i in checked_ids(ids, None).tolist() if i < self.vocab_size and i not in self._special_ids]
        unfinished = len(kept)
        while partial and unfinished and kept[unfinished - 1] in self._byte_ids:
            unfinished -= 1
        text = self._tokenizer.decode(kept[:unfinished], skip_special_tokens=False)
        return text.removesuffix("\ufffd") if partial else text

    def to_json(self) -> dict[str, Any]:
        """`{"tokenizer": "hugging face", "definition": ..., "start_id": ..., ...}`."""
        ids = {"start_id": self.start_id, "stop_id": self.stop_id, "pad_id": self.pad_id, "mask_id": self.mask_id}
        described = {"tokenizer": "hugging face", "definition": self.definition, **ids}
        return described | {"chat_template": self.chat_template}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "HuggingFaceTokenizer":
        """The tokenizer that `to_json` described; `ValueError` if the dictionary describes none."""
        if not isinstance(saved.get("definition"), dict):
            raise ValueError(f"a Hugging Face tokenizer is saved with its definition; got {sorted(saved)}")
        return cls(**{name: value for name, value in saved.items() if name != "tokenizer"})
