"""Text in, text out: tokenizers, and models joined with theirs in one file.

`Writer`, `Classifier`, `Translator` and `Embedder` are frozen: a model, its tokenizers, and settings. Their method
`save` writes them to one file, and `load` knows which of them a file holds. The libraries that tokenizers and
templates need are the extra `text`, imported where they are used.
"""

from zoo.text.chat import ChatTemplateError as ChatTemplateError
from zoo.text.chat import Message as Message
from zoo.text.chat import render_chat as render_chat
from zoo.text.classifier import Classifier as Classifier
from zoo.text.detokeniser import detokenise as detokenise
from zoo.text.detokeniser import until as until
from zoo.text.embedder import Embedder as Embedder
from zoo.text.fill_mask import fill_mask as fill_mask
from zoo.text.pipeline import load_pipeline as load
from zoo.text.tokenizers import BytePairTokenizer as BytePairTokenizer
from zoo.text.tokenizers import ByteTokenizer as ByteTokenizer
from zoo.text.tokenizers import CharacterTokenizer as CharacterTokenizer
from zoo.text.tokenizers import HuggingFaceTokenizer as HuggingFaceTokenizer
from zoo.text.tokenizers import SentencePieceTokenizer as SentencePieceTokenizer
from zoo.text.tokenizers import Tokenizer as Tokenizer
from zoo.text.tokenizers import WordTokenizer as WordTokenizer
from zoo.text.tokenizers import load_tokenizer as load_tokenizer
from zoo.text.tokenizers import tokenizer_from_json as tokenizer_from_json
from zoo.text.tokenizers import train_byte_pairs as train_byte_pairs
from zoo.text.translator import Translator as Translator
from zoo.text.writer import Writer as Writer

__all__ = ["load"]  # under another name than where it is made; the others say so themselves
