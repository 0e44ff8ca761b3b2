"""The options that name a user's own corpus: what is loaded, which tokenizers, which lengths; and what can't be."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from data.pairs import read_pairs
from data.ragged import Ragged
from data.tokenised_text import tokenised_text
from examples import classification_corpus, text_corpus, translation_corpus
from zoo.text import BytePairTokenizer

SENTENCES = [f"sentence {i} of {i % 7} or so" for i in range(40)]


@pytest.fixture
def write(tmp_path):
    def write(name, lines):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def parallel(write):
    """Options for two files of so many lines, the target in capitals."""

    def parallel(part, sentences):
        files = {"source": sentences, "target": [text.upper() for text in sentences]}
        return {f"{part}_{side}": write(f"{part}.{side}", lines) for side, lines in files.items()}

    return parallel


def test_pairs_in_one_file_two_or_six(write, parallel, capsys):
    pairs: Any = translation_corpus.CorpusArguments
    one = pairs(pairs=write("pairs.tsv", [f"{text}\t{text.upper()}" for text in SENTENCES]))
    two = pairs(**parallel("train", SENTENCES))
    assert one.load(standardise=False) == two.load(standardise=False)
    assert {part: len(some) for part, some in two.load(standardise=False).items()} == {
        "train": 28, "validation": 6, "test": 6
    }  # fmt: skip
    cut = {"train": SENTENCES[:30], "validation": SENTENCES[30:32], "test": SENTENCES[32:]}
    six = pairs(**{name: file for part, some in cut.items() for name, file in parallel(part, some).items()})
    assert {part: list(some.source) for part, some in six.load(standardise=False).items()} == cut
    assert six.load(standardise=True)["test"].target == tuple(SENTENCES[32:])
    marks = pairs(pairs=write("marks.tsv", [f"{text}\t{text}" for text in ("?!", *SENTENCES)]))
    assert sum(map(len, marks.load(standardise=True).values())) == 40
    assert "left out 1 pairs" in capsys.readouterr().out
    for arguments in (one, two, six):
        arguments.check()
        assert arguments.is_own


def test_vocabularies_of_each_side_or_of_both(write, monkeypatch):
    corpus = translation_corpus.CorpusArguments(pairs=write("p.tsv", [f"{t}\t{t.upper()}" for t in SENTENCES]))
    train = corpus.load(standardise=False)["train"]
    source, target = corpus.tokenizers(train, 5)
    assert source != target
    assert source.decode([256 + 3]).islower()
    assert len(source.encode(SENTENCES[0])) < 12 < len(target.encode(SENTENCES[0]))
    sizes = translation_corpus.CorpusArguments(pairs=corpus.pairs, tokenizer="bpe:300")
    assert [tokenizer.vocab_size for tokenizer in sizes.tokenizers(train, None)] == [300, 300]
    whole = BytePairTokenizer(r" ?\S+|\s+", [*(bytes([i]) for i in range(256)), b" o", b" of", b"SE", b"zz"])
    monkeypatch.setattr(BytePairTokenizer, "named", classmethod(lambda cls, name, files: whole))
    monkeypatch.setattr(translation_corpus, "fetch_vocabulary", lambda name, data_dir: [])
    compacted = translation_corpus.CorpusArguments(pairs=corpus.pairs, tokenizer="compacted")
    assert [tokenizer.tokens[256:] for tokenizer in compacted.tokenizers(train, 5)] == [[b" o", b" of"], [b"SE"]]
    both = corpus.tokenizers(train, None)  # as the tutorial has it
    assert both[0] is both[1]
    assert both[0].tokens[256:] == [b" o", b" of", b"SE"]
    assert translation_corpus.CorpusArguments().is_own is False


def test_boundaries_are_those_of_the_pairs(write, tmp_path):
    lines = [f"{'a ' * n}b\t{'c' * (n + 1)}" for n in (1, 1, 1, 2, 9, 9, 30)]
    corpus = translation_corpus.CorpusArguments(pairs=write("p.tsv", lines), tokenizer="bpe:259")
    pairs = read_pairs(tmp_path / "p.tsv")
    source, target = corpus.tokenizers(pairs, 1)
    suggested = translation_corpus.suggested_boundaries
    assert suggested(pairs, source, target, most=20, num_shapes=2) == [(6, 4), (19, 11)]
    (tmp_path / "other.tsv").write_text(f"{'a ' * 16}b\t{'c' * 40}\n{'a' * 90}\tc\n")
    for most, last in ((100, [(19, 11), (90, 41)]), (60, [(33, 41)])):
        found = suggested(pairs, source, target, most=most, num_shapes=2, others=[read_pairs(tmp_path / "other.tsv")])
        assert len(found) == len(set(found))
        assert found[-1] == last[-1]
    with pytest.raises(ValueError, match="no pair has at most 2 tokens on both sides"):
        suggested(pairs, source, target, most=2, num_shapes=2)


def test_a_text_has_the_same_ids_read_at_once_or_mapped(write, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    path = str(write("text.txt", [*SENTENCES, "ä \U0001f600"]))
    kinds = {"characters": "character", "bytes": "byte", "bpe:300": "token"}
    at_once = {kind: text_corpus.TextCorpus.load(path, tokenizer=kind) for kind in kinds}
    monkeypatch.setattr(text_corpus, "AT_ONCE", 0)
    monkeypatch.setattr(text_corpus, "PIECE", 99)
    monkeypatch.setattr(text_corpus, "tokenised_text", partial(tokenised_text, chunk_bytes=500))
    for kind, unit in kinds.items():
        mapped = text_corpus.TextCorpus.load(path, tokenizer=at_once[kind].tokenizer if kind[0] == "b" else kind)
        assert mapped.tokenizer == at_once[kind].tokenizer
        assert (mapped.unit, at_once[kind].unit) == (unit, unit)
        for part in ("train", "held_out"):
            np.testing.assert_array_equal(getattr(mapped, part), getattr(at_once[kind], part))
        assert isinstance(mapped.train, np.memmap)
        assert at_once[kind].beginning.startswith(mapped.beginning)
    with pytest.raises(
        ValueError, match=r"--tokenizer must be characters, bytes or bpe:N with N from 259 on; got bpe:9"
    ):
        text_corpus.make_tokenizer("bpe:9", iter([]))


def test_texts_of_ones_own(write):
    rows = [f"{name}\t{text}" for text, name in zip(SENTENCES, ["x", "y", "y", "z"] * 10, strict=True)]
    corpus = classification_corpus.CorpusArguments(train=write("t.tsv", rows), columns=("1", "0"), weigh_classes=True)
    corpus.check()
    texts, words = corpus.load()
    assert words is None
    assert texts.train.class_names == ("x", "y", "z")
    assert sorted([*texts.train, *texts.validation, *texts.test]) == sorted(SENTENCES)
    numbers = corpus.numbers(texts.train)
    assert sum(numbers["weights"]) == pytest.approx(len(texts.train))
    assert corpus.numbers(texts.train).keys() == {"labels", "weights"}
    ids = Ragged.of([[1] * n for n in (3, 3, 9, 9, 9, 12)])
    assert corpus.boundaries(ids, 20, (5, 10)) == (3, 12, 20)
    assert corpus.boundaries(ids, 12, (5, 10)) == (3, 12)
    imdb = classification_corpus.CorpusArguments()
    assert imdb.boundaries(ids, 20, (5, 20)) == (5, 20)
    assert imdb.numbers(texts.train).keys() == {"labels"}


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (translation_corpus, {"train_source": "a"}, "--train-source and --train-target must be given together"),
        (translation_corpus, {"test_source": "a", "test_target": "b"}, "ready parts are three"),
        (
            translation_corpus,
            {"train_source": "a", "train_target": "b", "test_source": "a", "test_target": "b"},
            "ready parts are three",
        ),
        (translation_corpus, {"pairs": "a", "train_source": "a", "train_target": "b"}, "either --pairs or"),
        (translation_corpus, {"tokenizer": "bpe"}, "--tokenizer must be compacted or bpe:N .* got bpe"),
        (translation_corpus, {"tokenizer": "bpe:258"}, "with N from 259 on; got bpe:258"),
        (classification_corpus, {"test": "a"}, "--validation and --test need --train"),
        (classification_corpus, {"train": "a", "keras_ids": "b"}, "either --train or --keras-ids"),
        (classification_corpus, {"columns": ("a",)}, "--columns must be two names or two numbers; got a"),
        (classification_corpus, {"columns": ("a", "1")}, "--columns must be two names or two numbers; got a 1"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path, module, options, message):
    texts = ("tokenizer", "columns")
    given = {name: value if name in texts else tmp_path / value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        module.CorpusArguments(**given).check()
