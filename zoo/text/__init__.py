"""Text in, text out. The libraries that tokenizers need are the extra `text`, imported where they are used."""

from zoo.text.detokeniser import detokenise as detokenise
from zoo.text.detokeniser import until as until
from zoo.text.tokenizers import BytePairTokenizer as BytePairTokenizer
from zoo.text.tokenizers import ByteTokenizer as ByteTokenizer
from zoo.text.tokenizers import CharacterTokenizer as CharacterTokenizer
from zoo.text.tokenizers import HuggingFaceTokenizer as HuggingFaceTokenizer
from zoo.text.tokenizers import SentencePieceTokenizer as SentencePieceTokenizer
from zoo.text.tokenizers import Tokenizer as Tokenizer
from zoo.text.tokenizers import WordTokenizer as WordTokenizer
from zoo.text.tokenizers import load_tokenizer as load_tokenizer
from zoo.text.tokenizers import tokenizer_from_json as tokenizer_from_json
