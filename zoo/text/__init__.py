"""Text in, text out. The libraries that tokenizers need are the extra `text`, imported where they are used."""

from zoo.text.tokenizers import BytePairTokenizer as BytePairTokenizer
from zoo.text.tokenizers import ByteTokenizer as ByteTokenizer
from zoo.text.tokenizers import CharacterTokenizer as CharacterTokenizer
from zoo.text.tokenizers import Tokenizer as Tokenizer
from zoo.text.tokenizers import WordTokenizer as WordTokenizer
from zoo.text.tokenizers import tokenizer_from_json as tokenizer_from_json
from zoo.text.tokenizers import train_byte_pairs as train_byte_pairs
