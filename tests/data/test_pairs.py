"""Sentence pairs: what a line may be, a split without leaks, and batches that lose and invent nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.pairs import (
    Pairs,
    TranslationBatches,
    read_pairs,
    read_parallel,
    repeated_sources,
    split_pairs,
    standardise,
)
from data.pipeline import prebatched
from zoo.text import BytePairTokenizer

BYTES = BytePairTokenizer(r"\S+|\s+", [bytes([i]) for i in range(256)])


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        (tmp_path / "pairs.tsv").write_bytes(content)
        return tmp_path / "pairs.tsv"

    return write


def test_two_columns_or_three(write):
    pairs = read_pairs(write("\ufeffGo.\tVe.\nRun!\t¡Corre!\tCC-BY\r\n\n".encode()))
    assert list(pairs) == [("Go.", "Ve."), ("Run!", "¡Corre!")]
    forms = read_pairs(write("Se\u0301.\tSí.\nSé.\tSi\u0301.\n".encode()))
    assert list(forms) == [("Sé.", "Sí.")] * 2
    assert Pairs(("a", "b", "a"), ("x", "y", "z")).references() == {"a": ["x", "z"], "b": ["y"]}


@pytest.mark.parametrize("blank", ["", " ", "\t", " \t ", "\u3000", "\u2028", "\x85\x0c"])
def test_a_line_of_blanks_is_an_empty_one(write, blank):
    pairs = read_pairs(write(f"{blank}\nGo.\tVe.\r{blank}\r\nRun!\t¡Corre!\n{blank}".encode()))
    assert list(pairs) == [("Go.", "Ve."), ("Run!", "¡Corre!")]
    with pytest.raises(ValueError, match=r"line 3: .* got 1"):
        read_pairs(write(f"{blank}\nGo.\tVe.\nRun!\n".encode()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Go.\tVe.\nRun!\n", "line 2: a line must have 2 columns .* got 1"),
        (b"a\tb\tc\td\n", "line 1: .* got 4"),
        (b"Go.\tVe.\n \tVe.\n", "line 2: a sentence is empty"),
        (b"Go.\t\n", "line 1: a sentence is empty"),
        (b"Go.\tVe.\nRun\t\xa1Corre!\n", "line 2: byte 0xa1 is not UTF-8"),
        (b"", "is empty"),
        (b"\n\n", "no pairs"),
    ],
)
def test_a_bad_line_is_named(write, content, message):
    with pytest.raises(DataError, match=f"pairs.tsv,? ?.*{message}"):
        read_pairs(write(content))


def test_two_files_are_the_pairs_of_their_lines(tmp_path):
    source, target = tmp_path / "train.a", tmp_path / "train.b"
    source.write_bytes("\ufeffGo.\r\n\n  Se\u0301.\u2028\nTabs\tstay.\n".encode())
    target.write_bytes("Ve.\n \nSí.\nAsí.".encode())
    assert list(read_parallel(source, target)) == [("Go.", "Ve."), ("Sé.", "Sí."), ("Tabs\tstay.", "Así.")]
    for content, message in (
        (b"x\ny\n", "a line for each pair; .*train.a has 4 and .*train.b has 2"),
        (b"x\n\n\ny\n", "train.b, line 3: a sentence is empty"),
        (b"x\nz\ny\nz\n", "train.a, line 2: a sentence is empty"),
        (b"x\n\xff\n\n\n", "train.b, line 2: byte 0xff"),
    ):
        target.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_parallel(source, target)
    source.write_text("\n \n")
    target.write_text("\n\n")
    with pytest.raises(DataError, match=r"train\.a has no pairs"):
        read_parallel(source, target)


def test_sides_that_differ_and_sentences_that_repeat():
    with pytest.raises(ValueError, match="equally many; got 1 and 2"):
        Pairs(("a",), ("x", "y"))
    assert repeated_sources(Pairs(("a", "a", "b"), ("x", "y", "z")), Pairs(("a", "c"), ("z", "z"))) == 1


sentences = st.text("ab c", min_size=1, max_size=3)
some_pairs = st.lists(st.tuples(sentences, sentences), min_size=10, max_size=60)


@given(some_pairs, st.integers(0, 9))
def test_no_sentence_is_in_two_parts(pairs, seed):
    pairs = Pairs(*map(tuple, zip(*pairs, strict=True)))
    distinct = len(set(pairs.source))
    if distinct < 6:
        return
    parts = split_pairs(pairs, seed=seed)
    sources = {name: set(part.source) for name, part in parts.items()}
    assert sources["train"] | sources["validation"] | sources["test"] == set(pairs.source)
    assert sum(map(len, sources.values())) == distinct
    assert len(sources["validation"]) == len(sources["test"]) == round(0.15 * distinct)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(pairs)
    assert {name: list(part) for name, part in split_pairs(pairs, seed=seed).items()} == {
        name: list(part) for name, part in parts.items()
    }


@given(some_pairs, st.data())
def test_forms_of_one_sentence_are_one_sentence(pairs, data):
    """However a letter and its accent are encoded: it is in one part, with all its translations."""
    accented = [tuple(text.replace("a", "á").replace("b", "Å") for text in pair) for pair in pairs]
    forms = st.sampled_from(["NFC", "NFD", "NFKD"])
    mixed = [tuple(unicodedata.normalize(data.draw(forms), text) for text in pair) for pair in accented]
    composed, mixed = (Pairs(*map(tuple, zip(*some, strict=True))) for some in (accented, mixed))
    assert composed.references() == mixed.references()
    assert composed.standardised() == mixed.standardised()
    if len(set(composed.source)) >= 6:
        assert split_pairs(mixed) == split_pairs(composed)


def test_too_few_sentences_are_an_error():
    with pytest.raises(ValueError, match="too few"):
        split_pairs(Pairs(("a", "b"), ("x", "y")))


def test_standardising():
    assert standardise("a.\u0301 \u037e \u1fef") == "á"  # marks in other forms, and one that kept an accent apart
    assert standardise("¡Hola, señor!  ¿Qué tal? It's [ok].") == "hola señor qué tal its ok"
    assert list(Pairs(("Go.", "?!", "a"), ("¡Ve!", "x", "¿¡")).standardised()) == [("go", "ve")]
    with pytest.raises(DataError, match="no pair has anything but punctuation"):
        Pairs(("?!",), ("x",)).standardised()


@given(some_pairs, st.booleans())
def test_batches_say_what_the_pairs_say(pairs, training):
    pairs = Pairs(*map(tuple, zip(*pairs, strict=True)))
    options = {"batch_size": 4, "bucket_boundaries": ((1, 2), (2, 3)), "seed": 0 if training else None}
    fit = [(e, s) for e, s in pairs if len(e) <= 2 and len(s) + 1 <= 3]
    if len(fit) < 4:
        return
    batches = TranslationBatches(pairs, BYTES, BYTES, **options)
    assert batches.left_out == len(pairs) - len(fit)
    seen = []
    for i in range(batches.buckets.batches_per_epoch):
        batch = batches[i]
        assert {name: array.dtype.name for name, array in batch.items()} == {
            "source": "int32", "source_length": "int32", "inputs": "int32", "targets": "int32", "weights": "float32"
        }  # fmt: skip
        for row in range(4):
            n = int(batch["weights"][row].sum())
            if n == 0:
                continue
            assert batch["weights"][row].tolist() == [1.0] * n + [0.0] * (batch["weights"].shape[1] - n)
            assert batch["inputs"][row, 0] == BYTES.start_id
            assert batch["targets"][row, n - 1] == BYTES.stop_id
            assert batch["inputs"][row, 1:n].tolist() == batch["targets"][row, : n - 1].tolist()
            source = batch["source"][row, : batch["source_length"][row]]
            seen.append((BYTES.decode(source), BYTES.decode(batch["targets"][row, :n])))
    assert len(list(prebatched(batches, epochs=2))) == 2 * batches.batches_per_epoch
    if training:
        assert len(seen) == len(fit) // 4 * 4
        assert not set(seen) - set(fit)
    else:
        assert sorted(seen) == sorted(fit)


def test_pairs_that_are_all_too_long_are_an_error():
    with pytest.raises(ValueError, match="at most"):
        TranslationBatches(
            Pairs(("abc",), ("x",)), BYTES, BYTES, batch_size=1, bucket_boundaries=((2, 2),), seed=None
        )
