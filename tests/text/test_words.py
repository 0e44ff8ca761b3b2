"""Words of a text, and their ids; on the real reviews, against Keras's own index of them."""

import itertools
import json
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import needs, stored_folder

from zoo.text import WordTokenizer, tokenizer_from_json
from zoo.text.tokenizers.words import split_words

texts = st.lists(st.text(st.sampled_from("aAbc' .!-\n\u00e9\u0130")), min_size=1, max_size=8)


@given(st.text())
def test_words_have_no_space_and_no_mark(text):
    for word in split_words(text):
        assert word
        assert not set(word) & (set(string.punctuation) - {"'"} | set(string.whitespace))
    assert split_words(" ".join(split_words(text))) == split_words(text)


@given(texts, st.integers(4, 12))
def test_the_most_frequent_words_are_kept(corpus, vocab_size):
    counts = Counter(word for text in corpus for word in text.lower().replace(".", " ").replace("!", " ")
                     .replace("-", " ").split())  # fmt: skip
    tokenizer = WordTokenizer.from_texts(corpus, vocab_size)
    assert tokenizer.vocab_size == min(vocab_size, 3 + len(counts))
    for word, count in counts.items():
        if word not in tokenizer.words:
            assert all(counts[kept] >= count for kept in tokenizer.words)
    for text in corpus:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        expected = [tokenizer.words.index(w) + 3 if w in tokenizer.words else 2 for w in split_words(text)]
        assert ids.tolist() == expected
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert isinstance(again, WordTokenizer)
    assert again.words == tokenizer.words


def test_wrong_words_are_named():
    for words, message in ((["a", "b", "a"], "'a' twice"), (["a", "b c"], "'b c'"), (["A"], "'A'"), ([""], "''")):
        with pytest.raises(ValueError, match=message):
            WordTokenizer(words)
    with pytest.raises(ValueError, match="vocab_size"):
        WordTokenizer.from_texts(["a"], 3)
    with pytest.raises(ValueError, match="words"):
        tokenizer_from_json({"tokenizer": "words", "alphabet": "ab"})
    with pytest.raises(ValueError, match="position 1"):
        WordTokenizer(["a"]).decode([3, 4])


@needs("aclImdb/train/pos/0_9.txt", "keras/imdb_word_index.json")
def test_the_words_of_the_reviews_are_those_of_keras():
    """Keras ordered the same counts, with ties in another order and A to Z alone made lower case."""
    folder = stored_folder("aclImdb")
    words = Counter(
        word
        for path in sorted((folder / "aclImdb/train").glob("*/*.txt"))
        for word in split_words(path.read_text(encoding="utf-8"))
    )
    index = json.loads(Path(folder / "keras/imdb_word_index.json").read_text())
    theirs = sorted(index, key=index.__getitem__)[:5000]
    ours = [words[word] for word in theirs]
    assert min(ours) > 0
    # Neighbours in their order have falling counts here too, but for what the two ways to split count differently.
    rises = sum(max(0, later - earlier) for earlier, later in itertools.pairwise(ours))
    assert rises < 0.001 * sum(ours)
