"""Texts from files, windows over them; the named ones are read where their files lie."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.download import DownloadError
from data.errors import DataError
from data.pipeline import evaluation_batches, pipeline
from data.text import (
    METAMORPHOSIS,
    TINY_SHAKESPEARE,
    given_lines,
    join_lines,
    load_text,
    split_lines,
    split_tail,
)
from data.windows import Windows
from zoo.text import CharacterTokenizer

FOLDERS = [Path(os.environ.get("ZOO_DATA_DIR", "")), Path(__file__).parents[2] / "../shared/data"]
STORED = max(FOLDERS, key=lambda folder: (folder / "texts/metamorphosis_pg5200.txt").is_file())
stored = pytest.mark.skipif(
    not (STORED / "texts/metamorphosis_pg5200.txt").is_file(),
    reason="needs the stored texts: ../shared/data beside the repository, or ZOO_DATA_DIR",
)


@pytest.fixture
def write(tmp_path):
    def write(content: bytes) -> Path:
        path = tmp_path / "some.txt"
        path.write_bytes(content)
        return path

    return write


@stored
def test_tiny_shakespeare():
    text = load_text("tinyshakespeare", STORED, offline=True)
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\nBefore we proceed")
    tokenizer = CharacterTokenizer.from_text(text)
    assert tokenizer.vocab_size == 65
    train, held_out = split_tail(tokenizer.encode(text))
    assert (len(train), len(held_out)) == (1_003_854, 111_540)  # as nanoGPT splits it
    assert tokenizer.decode(train) + tokenizer.decode(held_out) == text


@stored
def test_metamorphosis_is_the_story_alone():
    story = load_text("metamorphosis", STORED, offline=True)
    assert len(story) == 119_164
    assert len(set(story)) == 61
    assert story == (STORED / "texts/metamorphosis.txt").read_text()
    for word in ("Gutenberg", "Copyright", "Wyllie"):
        assert word not in story


def test_a_named_text_that_is_nowhere_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    for name, resource in (("tinyshakespeare", TINY_SHAKESPEARE), ("metamorphosis", METAMORPHOSIS)):
        with pytest.raises(DownloadError) as caught:
            load_text(name, tmp_path, offline=True)
        assert resource.url in str(caught.value)
        assert str(tmp_path / "cache" / resource.name) in str(caught.value)
        assert resource.url.startswith("https://")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"one\r\ntwo\rthree\n\r\n", "one\ntwo\nthree\n\n"),
        (b"nul \x00 stays", "nul \x00 stays"),
        ("¿qué? 語 🙂 \u2028".encode(), "¿qué? 語 🙂 \u2028"),
        (b"a\xef\xbb\xbfb", "a\ufeffb"),
    ],
)
def test_what_a_file_says(write, content, text):
    assert load_text(write(content)) == text
    assert load_text(str(write(content))) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"fine\nfine\r\nfine\rbad \xff here", "line 4: byte 0xff"),
        (b"\xef\xbb\xbfone\ntwo\xc3", "line 2: byte 0xc3"),
        (b"lone surrogate \xed\xa0\x80", "line 1: byte 0xed"),
        (b"latin \xe9\n", "line 1: byte 0xe9"),
        ("sixteen".encode("utf-16"), "line 1: byte 0xff"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
    ],
)
def test_what_is_no_text_is_named(write, content, words):
    path = write(content)
    with pytest.raises(ValueError, match=words) as caught:
        load_text(path)
    assert str(path) in str(caught.value)


def test_no_file_and_no_name():
    with pytest.raises(FileNotFoundError, match=r"'tinyshakespare'.*there are tinyshakespeare, metamorphosis"):
        load_text("tinyshakespare")
    with pytest.raises(OSError, match=r"Is a directory|Permission"):
        load_text(Path(__file__).parent)


ENDS = ["\n", "\r\n", "\r"]
OTHERS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
line = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)) | st.sampled_from(OTHERS))


# No empty line that LF ends comes after CR: the two would be one end.
some_lines = st.lists(st.tuples(line, st.sampled_from(ENDS))).filter(
    lambda lines: not any((one[1], other) == ("\r", ("", "\n")) for one, other in itertools.pairwise(lines))
)


@given(some_lines, line)
def test_lines_are_those_that_were_written(lines, last):
    """However each one ends, and whatever else is in it: as many, and the same."""
    text = "".join(map("".join, lines)) + last
    assert split_lines(text) == [line for line, _ in lines] + [last] * bool(last)
    joined = [join_lines(line) for line in split_lines(text)]
    assert "\n".join([*joined, "."]).splitlines() == [*joined, "."]  # to any reader
    assert join_lines(text) == text.replace("\r\n", " ").translate(dict.fromkeys(map(ord, "\r\n" + OTHERS), " "))


@given(some_lines, st.booleans())
def test_standard_input_is_read_as_a_file(lines, marked):
    text = "".join(map("".join, lines))
    if text.startswith("\ufeff"):
        return
    content = "\ufeff" * marked + text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode()), "cp1252"))  # a console of any kind
        assert given_lines("-") == [line for line, _ in lines]
        patch.setattr("sys.stdin", io.StringIO(content, newline=""))
        assert given_lines("-") == [line for line, _ in lines]
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\r\nb\xff")))
        with pytest.raises(DataError, match="standard input, line 2: byte 0xff"):
            given_lines("-")


def test_an_argument_is_a_file_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.d").mkdir()
    for name in ("lines", "some lines.txt", "tinyshakespeare", "folder.d/lines"):
        Path(name).write_text("one\u2028\n\ntwo", encoding="utf-8")
        assert given_lines(name) == ["one\u2028", "", "two"]
    for sentence in (
        "Hello.",
        "Hello",
        "Wait...",
        "He said and/or.",
        "and/or",
        "Yes/no?",
        "Mon/Tue at 3.30 pm",
        "I paid 5/6 of it. Then I left",
        "Open it.now please",
        "Stop! ",
        "dog " * 2000,
        "a\0b",
    ):
        assert given_lines(sentence) == [sentence]
    for missing in (
        "nosuch.txt",
        "no/such.txt",
        "./no",
        "~/nosuch",
        "../no such.txt",
        "/nosuch",
        "folder.d/no",
        "folder.d",
        "nosuch.txt\n",
    ):
        with pytest.raises(OSError, match="no file"):
            given_lines(missing)


@given(st.integers(2, 300), st.floats(0.01, 0.99))
def test_a_split_loses_nothing(n, fraction):
    ids = np.arange(n)
    if int(n * (1 - fraction)) == 0:
        with pytest.raises(ValueError, match="no two parts"):
            split_tail(ids, fraction)
        return
    head, tail = split_tail(ids, fraction)
    assert [*head, *tail] == [*ids]
    assert abs(len(tail) - fraction * n) <= 1


def test_a_long_text_has_a_short_tail():
    assert [len(part) for part in split_tail(np.arange(1000), most=20)] == [980, 20]
    assert [len(part) for part in split_tail(np.arange(1000), most=200)] == [900, 100]
    with pytest.raises(ValueError, match="most must be at least 1 or None; got 0"):
        split_tail("some text", most=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_is_one(fraction):
    with pytest.raises(ValueError, match="fraction"):
        split_tail("some text", fraction)


sizes = st.tuples(st.integers(2, 60), st.integers(1, 20)).flatmap(
    lambda sizes: st.tuples(st.just(sizes[0]), st.just(sizes[1]), st.integers(1, sizes[1]))
)


@given(sizes, st.sampled_from([np.int32, np.int64, np.uint8]))
def test_windows_agree_with_slices(sizes, dtype):
    n, length, stride = sizes
    ids = np.arange(100, 100 + n).astype(dtype)
    windows = Windows(ids, length, stride)
    items = [windows[i] for i in range(len(windows))]
    covered = set()
    for i, item in enumerate(items):
        start = i * stride
        real = int(item["weights"].sum())
        assert item["weights"].tolist() == [1.0] * real + [0.0] * (length - real)
        assert item["inputs"].tolist() == [*ids[start : start + length][:real]] + [0] * (length - real)
        assert item["targets"].tolist() == [*ids[start + 1 : start + length + 1]] + [0] * (length - real)
        assert [array.dtype for array in item.values()] == [np.int32, np.int32, np.float32]
        covered.update(item["targets"][:real].tolist())
    assert covered == {*range(101, 100 + n)}  # every character but the first is predicted
    if stride == 1 and n > length:
        assert len(windows) == n - length
        assert all(item["weights"].all() for item in items)  # only crops that are whole
    if stride == length:
        assert sum(item["weights"].sum() for item in items) == n - 1  # and just once


def test_windows_feed_the_pipelines():
    ids = np.arange(23)
    seen = [
        target
        for batch in evaluation_batches(Windows(ids, 5, 5), 2)
        for target in batch["targets"][batch["weights"] == 1]
    ]
    assert seen == [*range(1, 23)]
    batches = [*pipeline(Windows(ids, 5), 6, seed=0, epochs=1)]
    starts = [row[0] for batch in batches for row in batch["inputs"]]
    assert sorted(starts) == [*range(18)]
    assert starts != sorted(starts)


@pytest.mark.parametrize("i", [-1, 3, np.int64(3)])
def test_no_window_there(i):
    with pytest.raises(IndexError, match=r"windows 0\.\.2"):
        Windows(np.arange(7), 4)[i]


@pytest.mark.parametrize(
    ("ids", "length", "stride", "words"),
    [
        (np.arange(1), 4, 1, "at least 2 entries"),
        (np.arange(9), 0, 1, "length must be at least 1"),
        (np.arange(9), 4, 0, r"stride must be in 1\.\.4"),
        (np.arange(9), 4, 5, r"stride must be in 1\.\.4"),
    ],
)
def test_windows_out_of_range(ids, length, stride, words):
    with pytest.raises(ValueError, match=words):
        Windows(ids, length, stride)
