"""Text to ids and back.

Every tokenizer has the same small interface, `Tokenizer`, and turns into a plain dictionary that is saved
with the model (`to_json`, `tokenizer_from_json`), so that a model file knows its own alphabet.
"""

from typing import Any

from zoo.text.tokenizers.byte_pairs import BytePairTokenizer as BytePairTokenizer
from zoo.text.tokenizers.characters import ByteTokenizer as ByteTokenizer
from zoo.text.tokenizers.characters import CharacterTokenizer as CharacterTokenizer
from zoo.text.tokenizers.folder import load_tokenizer as load_tokenizer
from zoo.text.tokenizers.hugging_face import HuggingFaceTokenizer as HuggingFaceTokenizer
from zoo.text.tokenizers.interface import Ids as Ids
from zoo.text.tokenizers.interface import Tokenizer as Tokenizer
from zoo.text.tokenizers.interface import check_texts as check_texts
from zoo.text.tokenizers.sentence_pieces import SentencePieceTokenizer as SentencePieceTokenizer
from zoo.text.tokenizers.trained_byte_pairs import train_byte_pairs as train_byte_pairs
from zoo.text.tokenizers.words import WordTokenizer as WordTokenizer

_KINDS: dict[str, Any] = {
    "characters": CharacterTokenizer,
    "bytes": ByteTokenizer,
    "words": WordTokenizer,
    "byte pairs": BytePairTokenizer,
    "hugging face": HuggingFaceTokenizer,
    "sentence pieces": SentencePieceTokenizer,
}


def check_comes_back(name: str, tokenizer: Any) -> None:
    """Raises `ValueError` for a tokenizer that `tokenizer_from_json` would not give back: one of another class."""
    if type(tokenizer) not in _KINDS.values():
        raise ValueError(
            f"{name} is a {type(tokenizer).__name__}, which no file gives back; those of zoo.text are saved, "
            f"{', '.join(kind.__name__ for kind in _KINDS.values())}, and with others the model alone (zoo.save)"
        )


def tokenizer_from_json(saved: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a `to_json` described.

    Raises:
        ValueError: no tokenizer is described.

    Example:
        >>> tokenizer_from_json({"tokenizer": "characters", "alphabet": "xyz"}).decode([2, 0])
        'zx'
    """
    kind = saved.get("tokenizer") if isinstance(saved, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"tokenizer must be one of {', '.join(_KINDS)}; got {kind!r}")
    return _KINDS[kind].from_json(saved)
