"""Text in, text out: tokenizers, and models joined with theirs in one file.

`Writer`, `Classifier`, `Translator` and `Embedder` are frozen: a model, its tokenizers, and settings. Their method
`save` writes them to one file, and `load` knows which of them a file holds. The libraries that tokenizers and
templates need are the extra `text`, imported where they are used.
"""

from zoo.text.chat import ChatTemplateError, Message, render_chat
from zoo.text.classifier import Classifier
from zoo.text.detokeniser import detokenise, until
from zoo.text.embedder import Embedder
from zoo.text.fill_mask import fill_mask
from zoo.text.pipeline import load_pipeline as load
from zoo.text.tokenizers import (
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
    tokenizer_from_json,
    train_byte_pairs,
)
from zoo.text.translator import Translator
from zoo.text.writer import Writer

__all__ = [
    "BytePairTokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "ChatTemplateError",
    "Classifier",
    "Embedder",
    "HuggingFaceTokenizer",
    "Message",
    "SentencePieceTokenizer",
    "Tokenizer",
    "Translator",
    "WordTokenizer",
    "Writer",
    "detokenise",
    "fill_mask",
    "load",
    "load_tokenizer",
    "render_chat",
    "tokenizer_from_json",
    "train_byte_pairs",
    "until",
]
