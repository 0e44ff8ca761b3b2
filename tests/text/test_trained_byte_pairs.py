"""Trained byte pairs: each was the most frequent one, whatever the order of the texts, and any text has ids."""

import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from stored import FOLDER, needs

from data.pairs import split_pairs
from data.spa_eng import load_spa_eng
from data.vocabularies import fetch_vocabulary
from zoo.text import BytePairTokenizer, tokenizer_from_json
from zoo.text.tokenizers.trained_byte_pairs import PATTERN, train_byte_pairs

words = st.sampled_from(["the", "then", "hen's", "ñandú", "12", "...", "a", "\u8a9e", "नमस्ते", "  "])
corpora = st.lists(
    st.lists(words | st.text(st.characters(max_codepoint=0x17F), max_size=3), max_size=6).map(" ".join), max_size=6
)


@given(corpora, st.integers(259, 290))
def test_each_pair_is_the_most_frequent_one(texts, vocab_size):
    tokenizer = train_byte_pairs(texts, vocab_size)
    assert tokenizer.tokens[:256] == [bytes([i]) for i in range(256)]
    pieces = [[bytes([b]) for b in piece.encode()] for text in texts for piece in regex.findall(PATTERN, text)]
    for token in [*tokenizer.tokens[256:], None]:
        counts = Counter(pair for piece in pieces for pair in itertools.pairwise(piece))
        most = max(counts.values(), default=0)
        if token is None:
            assert tokenizer.vocab_size == vocab_size or most < 2
            return
        pair = max((pair for pair in counts if b"".join(pair) == token), key=counts.__getitem__)
        assert counts[pair] == most >= 2
        for piece in pieces:
            i = 0
            while i < len(piece) - 1:
                if (piece[i], piece[i + 1]) == pair:
                    piece[i : i + 2] = [token]
                i += 1


@given(corpora, st.text())
def test_the_order_of_the_texts_is_no_matter_and_any_text_comes_back(texts, other):
    tokenizer = train_byte_pairs(texts, 280)
    shuffled = random.Random(0).sample(texts, len(texts))
    assert train_byte_pairs(iter(shuffled), 280) == tokenizer
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    for text in (*texts, other):
        assert again.decode(again.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Don't say it's 12345.67!", ["Don't", " say", " it's", " 12345", ".", "67", "!"]),
        ("l\u2019homme 'quoted'\n\n  x", ["l\u2019homme", " '", "quoted", "'", "\n\n ", " x"]),
        ("नमस्ते दुनिया", ["नमस्ते", " दुनिया"]),
        ("e\u0301te\u0301 \u8a9e\U0001f642", ["e\u0301te\u0301", " \u8a9e", "\U0001f642"]),
    ],
)
def test_words_are_whole_in_any_script(text, pieces):
    assert regex.findall(PATTERN, text) == pieces
    learned = train_byte_pairs([text] * 2, 1000)  # all that occurs twice: every piece in the end
    assert [learned.decode([i]) for i in learned.encode(text).tolist()] == pieces


@pytest.mark.parametrize("pattern", [r"\w+", r"(?i)[a-e]+| \w"])
def test_what_a_pattern_leaves_out_is_kept(pattern):
    text = "a cat, THE hat: 世界!\n"
    trained = train_byte_pairs([text] * 2, 290, pattern=pattern)
    own = BytePairTokenizer(pattern, [bytes([i]) for i in range(256)])
    for tokenizer in (trained, own, trained.compacted([text])):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.pattern == pattern
    assert trained.compacted([text]) == trained  # whatever was joined in training is joined here


def test_too_few_ids_are_an_error():
    with pytest.raises(ValueError, match=r"vocab_size must be at least 259, .* got 258"):
        train_byte_pairs(["a"], 258)
    assert train_byte_pairs([], 300).vocab_size == 259


@pytest.mark.slow
@needs("spa-eng/spa.txt", "encodings/cl100k_base.tiktoken")
def test_fewer_pieces_than_a_compacted_vocabulary_has():
    """In both languages, with as many ids, of sentences that neither was made from; `-s` shows the figures."""
    parts = split_pairs(load_spa_eng(FOLDER, offline=True))
    whole = BytePairTokenizer.named("cl100k_base", fetch_vocabulary("cl100k_base", FOLDER, offline=True))
    for side, fewer in (("source", 0.98), ("target", 0.9)):
        learned, others = getattr(parts["train"], side), getattr(parts["test"], side)
        compacted = whole.compacted(learned, min_count=5)
        trained = train_byte_pairs(learned, compacted.vocab_size)
        pieces = [np.mean([len(tokenizer.encode(text)) for text in others]) for tokenizer in (compacted, trained)]
        print(f"spa-eng, {side}: {pieces[0]:.2f} pieces a sentence compacted, {pieces[1]:.2f} trained")
        assert trained.vocab_size == compacted.vocab_size
        assert pieces[1] < fewer * pieces[0]
