"""Byte pairs of one's own: a vocabulary trained on the texts that a model is for."""

from collections.abc import Iterable

from zoo.text.extra import text_extra
from zoo.text.tokenizers.byte_pairs import BytePairTokenizer, whole
from zoo.text.tokenizers.interface import check_texts

PATTERN = r" ?[\p{L}\p{M}]+(?:['\u2019][\p{L}\p{M}]+)*| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""What pairs are joined within: a word, a number or marks, with the space before it; no rules of one language.

Other than in GPT-2's pattern, a word keeps the marks that are characters of their own (vowel signs and accents of
many scripts) and the apostrophes inside it, where the training itself finds "'s" or "l'" if they are frequent.
"""


def train_byte_pairs(texts: Iterable[str], vocab_size: int, *, pattern: str = PATTERN) -> BytePairTokenizer:
    """A byte-pair vocabulary trained on texts: again and again the most frequent pair of neighbours becomes a token.

    The `tokenizers` library counts; the tokenizer is one like all others, saved with its model and used without that
    library. The same texts give the same vocabulary, in whatever order they come. (Sennrich et al., 2016,
    arXiv:1508.07909; of bytes, as in GPT-2.)

    Args:
        texts: what to count pairs in. Hold out of them what the model is to be tested on.
        vocab_size: number of ids, at least 259: 256 bytes, the pairs, and the three special ids; fewer if no pair is
            left that occurs twice.
        pattern: the regular expression that cuts a text into pieces, within which pairs are joined; a character
            that it leaves out is a piece of its own.

    Raises:
        TypeError: one text instead of many.
        ValueError: `vocab_size` is less than 259.
        ModuleNotFoundError: `tokenizers` is not installed, which the extra `text` brings.

    Example:
        >>> tokenizer = train_byte_pairs(["the hat", "the cat", "that"], 264)
        >>> [tokenizer.decode([i]) for i in tokenizer.encode("the hat").tolist()]
        ['the', ' ', 'h', 'at']
    """
    check_texts("texts", texts)
    if vocab_size < 256 + 3:
        raise ValueError(f"vocab_size must be at least 259, 256 bytes and 3 special ids; got {vocab_size}")
    with text_extra():
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    characters = _character_of_byte()
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(whole(pattern)), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, bytewise])  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 3, min_frequency=2, initial_alphabet=list(characters.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = {character: byte for byte, character in characters.items()}
    ids = tokenizer.get_vocab()
    joined = [token for token in sorted(ids, key=ids.__getitem__) if len(token) > 1]
    tokens = [bytes([byte]) for byte in range(256)] + [bytes(map(byte_of.__getitem__, token)) for token in joined]
    return BytePairTokenizer(pattern, tokens)


def _character_of_byte() -> dict[int, str]:
    """The printable characters that stand for bytes in GPT-2's vocabulary and in `tokenizers`: those of Latin-1 for
    themselves, and for the others, in order, those from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
