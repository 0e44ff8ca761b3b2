"""Tokenizers: a round trip for every text they take, an error with a place for every text they don't."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoo.text import (
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    WordTokenizer,
    tokenizer_from_json,
    train_byte_pairs,
)

BYTE_PAIRS = BytePairTokenizer(r"\S+|\s+", [bytes([i]) for i in range(256)] + [b"th"])

any_text = st.text(st.characters(exclude_categories=()), min_size=1)  # lone surrogates too
utf8_text = st.text()


@given(any_text, st.randoms())
def test_characters_agree_with_looking_each_up(text, random):
    alphabet = list(set(text) | set("xyz"))
    random.shuffle(alphabet)
    tokenizer = CharacterTokenizer("".join(alphabet))
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [alphabet.index(character) for character in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text


@given(any_text)
@example("a lone \ud800 surrogate")
def test_from_text_knows_that_text_and_no_more(text):
    tokenizer = CharacterTokenizer.from_text(text)
    assert tokenizer.vocab_size == len(set(text))
    assert tokenizer.alphabet == "".join(sorted(set(text)))
    assert set(tokenizer.encode(text).tolist()) == set(range(tokenizer.vocab_size))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(any_text, st.characters(exclude_categories=()), st.integers(0, 50))
def test_an_unknown_character_is_named_with_its_place(text, stranger, at):
    tokenizer = CharacterTokenizer.from_text(text.replace(stranger, "") or chr(ord(stranger) ^ 1))
    known = "".join(tokenizer.alphabet[i % tokenizer.vocab_size] for i in range(at))
    with pytest.raises(ValueError, match="not one of") as caught:
        tokenizer.encode(known + stranger + known + stranger)
    assert f"position {at}," in str(caught.value)
    assert f"U+{ord(stranger):04X}" in str(caught.value)


@given(utf8_text)
def test_bytes_are_utf8(text):
    ids = ByteTokenizer().encode(text)
    assert ids.dtype == np.int32
    assert bytes(ids.tolist()) == text.encode()
    assert ByteTokenizer().decode(ids) == text


def test_bytes_that_are_no_text_can_be_read():
    assert ByteTokenizer().decode([72, 255, 105]) == "H\ufffdi"
    with pytest.raises(ValueError, match="surrogate"):
        ByteTokenizer().encode("\ud800")


@given(any_text)
def test_saved_with_a_model_and_back(text):
    for tokenizer in (CharacterTokenizer.from_text(text), ByteTokenizer()):
        saved = json.loads(json.dumps(tokenizer.to_json()))
        again = tokenizer_from_json(saved)
        assert type(again) is type(tokenizer)
        assert again.to_json() == tokenizer.to_json()
        assert again.vocab_size == tokenizer.vocab_size
    restored = tokenizer_from_json(json.loads(json.dumps(CharacterTokenizer.from_text(text).to_json())))
    assert restored.encode(text).tolist() == CharacterTokenizer.from_text(text).encode(text).tolist()


@given(any_text)
@example("\ud83d\ude42")  # in JSON, one character
@example("a\udc00\ud800\udc00 b\U00010000")
def test_what_is_saved_is_equal_when_it_is_back(text):
    for tokenizer in (CharacterTokenizer("".join(dict.fromkeys(text))), WordTokenizer.from_texts([text]), BYTE_PAIRS):
        again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert again == tokenizer
        assert hash(again) == hash(tokenizer)
        assert again.vocab_size == tokenizer.vocab_size
        assert again != ByteTokenizer()
        if tokenizer is not BYTE_PAIRS:
            assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("saved", [{}, {"tokenizer": "words"}, {"tokenizer": ["bytes"]}, {"tokenizer": None}])
def test_other_dictionaries_are_refused(saved):
    with pytest.raises(ValueError, match="tokenizer"):
        tokenizer_from_json(saved)


@pytest.mark.parametrize(
    "saved", [{}, {"alphabet": None}, {"alphabet": ["a"]}, {"alphabet": [-1]}, {"alphabet": [2**21]}]
)
def test_characters_need_their_alphabet(saved):
    with pytest.raises(ValueError, match="alphabet"):
        tokenizer_from_json({"tokenizer": "characters", **saved})


@pytest.mark.parametrize("ids", [[3], [-1], [0, 2**40], np.array([0, -1], np.int8), np.array([2, 3], np.uint8)])
def test_ids_outside_the_alphabet_are_refused(ids):
    with pytest.raises(ValueError, match=rf"ids must be in 0\.\.2; got {ids[-1]} at position {len(ids) - 1}"):
        CharacterTokenizer("abc").decode(ids)


def test_no_ids_are_no_text():
    for tokenizer in (CharacterTokenizer("abc"), ByteTokenizer()):
        assert tokenizer.decode([]) == ""
        assert tokenizer.decode(np.zeros(0, np.int64)) == ""
        assert tokenizer.encode("").shape == (0,)


@pytest.mark.parametrize(("alphabet", "words"), [("", "at least one"), ("abca", "'a' twice")])
def test_an_alphabet_must_be_one(alphabet, words):
    with pytest.raises(ValueError, match=words):
        CharacterTokenizer(alphabet)


@pytest.mark.parametrize(
    "ask", [WordTokenizer.from_texts, lambda texts: train_byte_pairs(texts, 300), BYTE_PAIRS.compacted]
)
def test_one_text_is_not_many(ask):
    with pytest.raises(TypeError, match="texts must be a sequence of texts, got the text 'the hat': put it into"):
        ask("the hat")


def special(name, i):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": name, "special": True, **flags}


def test_special_tokens_are_found_whatever_letters_there_are():
    """A vocabulary of DNA has no "a"."""
    letters = {"<s>": 0, "</s>": 1, "A": 2, "C": 3}
    around: list = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>")]
    around.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    tokens = {name: {"id": name, "ids": [letters[name]], "tokens": [name]} for name in ("<s>", "</s>")}
    template = {"type": "TemplateProcessing", "single": around, "pair": [*around], "special_tokens": tokens}
    definition = {"post_processor": template, "added_tokens": [special("<s>", 0), special("</s>", 1)]}
    tokenizer = HuggingFaceTokenizer({"model": {"type": "BPE", "vocab": letters, "merges": []}, **definition})
    assert (tokenizer.before, tokenizer.after) == ([0], [1])
    assert tokenizer.encode("CA").tolist() == [0, 3, 2, 1]


def test_what_a_vocabulary_cannot_express_is_an_error():
    words = {"type": "WordLevel", "vocab": {"cat": 0}, "unk_token": "<unk>"}
    tokenizer = HuggingFaceTokenizer({"model": words, "pre_tokenizer": {"type": "WhitespaceSplit"}})
    assert tokenizer.encode("cat cat").tolist() == [0, 0]
    with pytest.raises(ValueError, match="text 'a cat' has no ids; tokenizers says: "):
        tokenizer.encode("a cat")
