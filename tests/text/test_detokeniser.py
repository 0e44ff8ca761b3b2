"""Streamed text is the whole text: for every tokenizer, whatever the ids, and a stop string never shows."""

from typing import Any

import pytest
import trained
from hypothesis import given, settings
from hypothesis import strategies as st
from trained import NAMES

from zoo.text import detokenise, until

words = st.text(st.sampled_from("the and a世界 😀 ñß.,'\n\ufffd"), max_size=40)


def shown_so_far(tokenizer, ids, after=()):
    """The text that stands there after each id, and the whole at last."""
    pieces, counts = [], []

    def counted():
        for i in ids:
            yield i
            counts.append("".join(pieces))

    for piece in detokenise(tokenizer, counted(), after=after):
        assert piece
        pieces.append(piece)
    return [*counts, "".join(pieces)]


def check(tokenizer, ids, after):
    whole = tokenizer.decode([*after, *ids])
    beyond = whole[len(tokenizer.decode(after)) :]
    *texts, last = shown_so_far(tokenizer, ids, after)
    assert last == beyond
    for text in texts:
        assert beyond.startswith(text)  # so what is shown never changes, and half a character never shows


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_streamed_is_the_whole(name, data):
    """Of ids drawn at random, which are hardly ever the ids of a text: broken characters, bytes, special tokens."""
    tokenizer = trained.tokenizer(name)
    any_ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20)
    after = data.draw(st.just([]) | any_ids)
    check(tokenizer, data.draw(any_ids), after)


def can_encode(tokenizer, text):
    try:
        return tokenizer.encode(text).tolist()
    except ValueError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10_000, deadline=None)
@given(words | st.text(max_size=40), words)
def test_ten_thousand_texts(name, text, prompt):
    tokenizer = trained.tokenizer(name)
    ids, after = can_encode(tokenizer, text), can_encode(tokenizer, prompt)
    if ids is not None and after is not None:
        check(tokenizer, ids, after)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("words", "word piece", "unigram")])
def test_no_half_a_character_and_no_wait_for_more_than_one(name):
    tokenizer = trained.tokenizer(name)
    text = "a 世界 😀 end"
    if (ids := can_encode(tokenizer, text)) is None or tokenizer.decode(ids) != text:
        pytest.skip("these characters are not in its vocabulary")
    texts = shown_so_far(tokenizer, ids)
    assert texts[-1] == text
    assert not any("\ufffd" in shown for shown in texts)
    held = [len(tokenizer.decode(ids[:n])) - len(shown) for n, shown in enumerate(texts[:-1], start=1)]
    assert held.count(0) > len(held) // 3  # it does come bit by bit


@pytest.mark.parametrize("name", ["llama", "word piece", "sentence pieces bpe"])
def test_what_follows_a_prompt_keeps_its_space(name):
    tokenizer: Any = trained.tokenizer(name)
    the, dark = (tokenizer.encode(word, add_special=False).tolist() for word in ("the", "dark"))
    assert tokenizer.decode(dark) == "dark"
    assert "".join(detokenise(tokenizer, dark, after=the)) == " dark"


def ended_by_hand(text, stops):
    """The definition: character by character, until the text ends with one of them."""
    for end in range(len(text) + 1):
        if fitting := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, fitting))]
    return text


few = st.text("ab\n", max_size=14)


@settings(max_examples=400, deadline=None)
@given(st.lists(few, max_size=6), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_a_text_wherever_the_pieces_are_cut(pieces, stops):
    shown = list(until(pieces, stops))
    assert all(shown)
    assert "".join(shown) == ended_by_hand("".join(pieces), stops)


@given(st.lists(few, min_size=1, max_size=6))
def test_nothing_is_held_back_that_no_stop_string_begins_with(pieces):
    for shown in (list(until(pieces, [])), list(until(pieces, ["zz"]))):
        assert shown == [piece for piece in pieces if piece]


def test_nothing_more_is_asked_for_after_a_stop():
    def pieces():
        yield from ("a", "\n", "\nb")
        raise AssertionError

    assert "".join(until(pieces(), ["\n\n"])) == "a"


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("stops", ["\n", ["a", ""], [b"a"], b"a", [None], 3])
def test_wrong_stop_strings_are_named(stops):
    with pytest.raises(ValueError, match="stop must be a sequence of strings that are not empty"):
        until(["a"], stops)


def test_stop_strings_may_come_once_or_not_at_all():
    assert "".join(until(["a", "b"], (stop for stop in ["b"]))) == "a"
    assert "".join(until(["a", "b"], None)) == "ab"
