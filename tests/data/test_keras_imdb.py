"""Keras's form of the film reviews: the ids of Keras's own loader, and no file that runs or swells."""

import json
import os
import pickle
import zipfile
from functools import partial

import numpy as np
import pytest
from stored import FOLDER, needs

from data.errors import DataError
from data.keras_imdb import UNUSED, load_keras_imdb
from zoo.pretrained.inert_pickle import read_inert_pickle
from zoo.text import WordTokenizer

WORDS = ["the", "film", "was", "caf\u00e9", "it's", "\x85", "fine", "rare", "the\xa0", "\u00c9"]
load = partial(load_keras_imdb, unpickle=read_inert_pickle)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))


def write(folder, **other):
    """Both files, of twelve reviews a part."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        x = np.empty(12, object)
        for i in range(12):
            x[i] = rng.integers(1, len(WORDS) + 1, rng.integers(4, 9)).tolist()
        arrays |= {f"x_{part}": x, f"y_{part}": np.arange(12) % 2}
    np.savez(folder / "imdb.npz", **arrays | other)
    ranks = {word: i for i, word in enumerate(WORDS, start=1)}
    (folder / "imdb_word_index.json").write_text(json.dumps(dict(sorted(ranks.items()))))
    return folder


def kerass_ids(file, num_words):
    """The ids and labels of each part that Keras's `load_data(num_words=num_words, start_char=None)` gives."""
    rng = np.random.RandomState(113)
    with np.load(file, allow_pickle=True) as arrays:
        for part in ("train", "test"):
            x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
            order = np.arange(len(x))
            rng.shuffle(order)
            yield [[w + 3 if w + 3 < num_words else 2 for w in x[i]] for i in order], y[order].tolist()


def same_ids(folder, num_words, validation):
    imdb, words = load(folder, validation=validation)
    tokenizer = WordTokenizer(words[: num_words - 3])
    assert tokenizer.vocab_size == num_words
    (train, train_labels), (test, test_labels) = kerass_ids(folder / "imdb.npz", num_words)
    assert [tokenizer.encode(text).tolist() for text in imdb.test] == test
    assert imdb.test.labels.tolist() == test_labels
    ours = [
        (*tokenizer.encode(text).tolist(), label)
        for part in (imdb.train, imdb.validation)
        for text, label in zip(part, part.labels.tolist(), strict=True)
    ]
    assert len(imdb.validation) == validation
    assert sorted(ours) == sorted((*ids, label) for ids, label in zip(train, train_labels, strict=True))
    return imdb


def test_the_very_ids_of_keras(tmp_path):
    imdb = same_ids(write(tmp_path), 11, validation=2)
    text = " ".join(imdb.test).split()
    assert {"rare", "\ufffd6", "the\ufffd9", "\ufffd10"} <= set(text)  # also words that have no id
    assert UNUSED not in "".join(imdb.test)
    os.remove(tmp_path / "imdb_word_index.json")
    with pytest.raises(OSError, match="imdb_word_index"):
        load(tmp_path)


@pytest.mark.slow
@needs("keras/imdb.npz", "keras/imdb_word_index.json")
def test_the_real_ids_of_keras():
    imdb = same_ids(FOLDER / "keras", 20_000, validation=2_500)
    assert (len(imdb.train), len(imdb.validation), len(imdb.test)) == (22_500, 2_500, 25_000)


def lists(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


class Runs:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x_test": lists(Runs(), 1)}, "mkdir"),
        ({"x_test": lists([1], 2)}, "one label|not Keras"),
        ({"y_train": np.arange(12)}, "one label"),
        ({"x_train": np.zeros(12)}, "not Keras"),
        ({"x_train": lists(*[[2**40, 1]] * 11, [1])}, "not Keras"),
        ({"x_test": lists(*[[0, 1]] * 11, [1])}, "not one of the 10 words"),
        ({"x_test": lists(*[[11, 1]] * 11, [1])}, "not one of the 10 words"),
        ({"x_test": lists(*["text"] * 12)}, "not Keras"),
        ({"x_test": np.zeros(2**23)}, "larger than it can be"),
    ],
)
def test_what_is_not_keras_is_refused(tmp_path, monkeypatch, other, message):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path, **other)
    with pytest.raises(DataError, match=message):
        load(folder)
    assert not (tmp_path / "executed").exists()


def test_damaged_files_are_named(tmp_path):
    folder = write(tmp_path)
    content = (folder / "imdb.npz").read_bytes()
    for damaged in (b"", content[:1000], b"PK" * 99):
        (folder / "imdb.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"imdb\.npz is not Keras"):
            load(folder)
    with zipfile.ZipFile(folder / "imdb.npz", "w") as archive:
        archive.writestr("y_train.npy", pickle.dumps(1))
    with pytest.raises(DataError, match=r"imdb\.npz is not Keras"):
        load(folder)
    for damaged in ("[]", "{", '{"the": 2}', '{"the": "1"}'):
        (folder / "imdb_word_index.json").write_text(damaged)
        with pytest.raises(DataError, match="index of words"):
            load(folder)
