"""Byte pairs: any text comes back, compacting changes no token, and the real vocabularies are tiktoken's."""

import hashlib
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from stored import FOLDER, needs

from data.vocabularies import VOCABULARIES, fetch_vocabulary
from zoo.text import BytePairTokenizer, tokenizer_from_json

BYTES = [bytes([i]) for i in range(256)]
PATTERN = r"\s?\S+|\s+"
MERGED = [b"th", b"he", b"the", b" the", b"an", b"and", b" and", b"\xc3\xb1", b"a\xc3\xb1", b"ab", b"abab"]
SMALL = BytePairTokenizer(PATTERN, BYTES + MERGED)
any_text = st.text() | st.text(st.sampled_from("the and\u00f1ab"))


def joined_by_hand(text: str, tokens: list[bytes]) -> list[int]:
    """The definition: in each piece, again and again the pair of neighbours whose join has the lowest rank."""
    import regex

    ranks, ids = {token: i for i, token in enumerate(tokens)}, []
    for piece in regex.findall(PATTERN, text):
        parts = [bytes([b]) for b in piece.encode()]
        while True:
            joins = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
            if not joins:
                break
            at = min(joins)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@given(any_text)
def test_text_comes_back_and_pairs_are_joined_in_order(text):
    ids = SMALL.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == joined_by_hand(text, SMALL.tokens)
    assert SMALL.decode(ids) == text
    assert SMALL.decode([SMALL.start_id, *ids.tolist(), SMALL.stop_id, SMALL.pad_id]) == text


@given(st.lists(any_text, max_size=4), any_text)
def test_compacting_keeps_the_tokens_of_its_texts_and_can_write_any_other(corpus, other):
    small = SMALL.compacted(corpus)
    assert set(BYTES) <= set(small.tokens) <= set(SMALL.tokens)
    for text in corpus:
        assert [small.tokens[i] for i in small.encode(text)] == [SMALL.tokens[i] for i in SMALL.encode(text)]
    assert small.decode(small.encode(other)) == other
    used = {SMALL.tokens[i] for text in corpus for i in SMALL.encode(text)}
    assert used | set(BYTES) <= set(small.tokens)
    if not used - set(BYTES):
        assert len(small.tokens) == 256
    again = tokenizer_from_json(json.loads(json.dumps(small.to_json())))
    assert isinstance(again, BytePairTokenizer)
    assert (again.tokens, again.pattern) == (small.tokens, small.pattern)


def test_wrong_vocabularies_and_texts_are_refused():
    with pytest.raises(ValueError, match="twice"):
        BytePairTokenizer(PATTERN, [*BYTES, b"a"])
    with pytest.raises(ValueError, match=r"b'\\x07' is missing"):
        BytePairTokenizer(PATTERN, BYTES[:7] + BYTES[8:])
    with pytest.raises(ValueError, match="surrogate"):
        SMALL.encode("a lone \ud800")
    with pytest.raises(ValueError, match="position 0"):
        SMALL.decode([SMALL.vocab_size])
    with pytest.raises(ValueError, match="name must be one of gpt2"):
        BytePairTokenizer.named("gpt3")
    with pytest.raises(ValueError, match="files of gpt2 are 2; got 1"):
        BytePairTokenizer.named("gpt2", [Path("vocab.bpe")])
    for saved in ({}, {"pattern": "x"}, {"pattern": PATTERN, "tokens": "%%%"}, {"pattern": PATTERN, "tokens": ""}):
        with pytest.raises(ValueError):  # noqa: PT011
            tokenizer_from_json({"tokenizer": "byte pairs", **saved})


STORED = {name: [resource.name for resource in files] for name, files in VOCABULARIES.items()}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(*files)) for name, files in STORED.items()])
def test_the_real_vocabularies(name, monkeypatch):
    """The ids are tiktoken's own, and of the user's files none is touched, whatever tiktoken does with its cache."""
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "tiktoken").iterdir()}
    ours = BytePairTokenizer.named(name, fetch_vocabulary(name, FOLDER, offline=True))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(FOLDER / "tiktoken"))
    theirs = tiktoken.get_encoding(name)
    assert len(ours.tokens) == {"gpt2": 50_256, "cl100k_base": 100_256, "o200k_base": 199_998}[name]
    rng = random.Random(0)
    strings = [
        "Hello, world!  It's 2026.\n",
        "ma\u00f1ana \u00bfqu\u00e9? <|endoftext|>",
        "\u65e5\u672c\u8a9e \U0001f600",
        "",
    ]
    strings += ["".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x2000)])) for _ in range(60))
                for _ in range(20)]  # fmt: skip
    for text in strings:
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "tiktoken").iterdir()}


def test_rare_tokens_fall_apart_into_those_they_came_from():
    corpus = ["the and", "the the and", "aan"]
    often = SMALL.compacted(corpus, min_count=2)
    assert b"the" in often.tokens
    assert b"an" in often.tokens  # the parent of one that is kept
    assert b" the" not in often.tokens
    assert often.decode(often.encode("the the aan")) == "the the aan"
    assert len(often.encode("the the")) > len(SMALL.encode("the the"))
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        SMALL.compacted(corpus, min_count=0)
