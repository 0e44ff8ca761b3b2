"""Labelled texts: what is written is read, whatever kind of file; what is wrong is named; no text is in two parts."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.buckets import Buckets
from data.errors import DataError
from data.labelled import LabelledCorpus, LabelledTexts, hold_out, load_labelled, read_labelled, tokenised
from data.ragged import Ragged
from zoo.text import WordTokenizer

NAMES = ("bad", "good")
TEXTS = ["a fine film", 'he said "no"', "caf\u00e9, \u8a9e \U0001f642", "0"]
LABELS = ["good", "bad", "good", "bad"]


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


def as_folder(folder, texts, labels):
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


def test_every_kind_of_file_gives_the_same(write, tmp_path):
    rows = list(zip(TEXTS, LABELS, strict=True))
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label", "text"), *((i, c, t) for i, (t, c) in enumerate(rows))])
    files = {
        write("a.tsv", "\ufefftext\tlabel\r\n" + "".join(f"{t}\t{c}\r\n\r\n" for t, c in rows)): ("text", "label"),
        write("b.TSV", "".join(f"x\t{c}\t{t}\n" for t, c in rows)): (2, 1),
        tmp_path / "a.csv": ("text", "label"),
        write("a.jsonl", "".join(json.dumps({"s": t, "c": c}) + "\n\n" for t, c in rows)): ("s", "c"),
    }
    for path, columns in files.items():
        read = read_labelled(path, columns=columns)
        assert (list(read), read.class_names, read.labels.tolist()) == (TEXTS, NAMES, [1, 0, 1, 0]), path
    read = read_labelled(as_folder(tmp_path / "folder", TEXTS, LABELS))
    assert list(read) == [TEXTS[i] for i in (1, 3, 0, 2)]
    assert read.labels.tolist() == [0, 0, 1, 1]
    assert repr(read) == "4 texts: bad 2, good 2"


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, st.sampled_from("xyz")), min_size=1))
def test_csv_and_json_keep_any_text(tmp_path_factory, rows):
    """Tabs, quotes and line breaks among it; but for CR, which is read as LF in a table."""
    folder = tmp_path_factory.getbasetemp()
    with open(folder / "any.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    (folder / "any.jsonl").write_text("\n".join(json.dumps({"t": t, "c": c}) for t, c in rows))
    table, lines = (
        read_labelled(folder / name, columns=columns)
        for name, columns in (("any.csv", (0, 1)), ("any.jsonl", ("t", "c")))
    )
    assert list(lines) == [text for text, _ in rows]
    assert list(table) == [text.replace("\r\n", "\n").replace("\r", "\n") for text, _ in rows]
    for read in (table, lines):
        assert [read.class_names[label] for label in read.labels] == [label for _, label in rows]


def test_a_long_text_is_not_too_long(write):
    """Python's own limit is 131,072 characters of a column, and is as it was afterwards."""
    before = csv.field_size_limit()
    read = read_labelled(write("a.csv", f'0,"{"long " * 40_000}"\n1,b\n'), columns=(1, 0))
    assert len(read[0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tclass\nx\ty\n", "line 1: there is no column 'label' among text, class"),
        ("a.csv", "text,label\nx,y\nx\n", "line 3: all rows must have the 2 columns of the first; got 1"),
        ("a.tsv", "text\tlabel\n\nx\ty\tz\n", "line 3: all rows must have the 2 columns"),
        ("a.csv", 'text,label\n"two\nlines",y\n" \n",y\n', "line 4: the text is empty"),
        ("a.tsv", "text\tlabel\nx\t \n", "line 2: the class is empty"),
        ("a.csv", 'text,label\nx,y\n"open,y\nx,y\n', "line 3: unexpected end of data"),
        ("a.tsv", b"text\tlabel\nx\ty\n\xe9\tz\n", "line 3: byte 0xe9 is not UTF-8"),
        ("a.tsv", "text\tlabel\n", "has no texts"),
        ("a.tsv", "", "is empty"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}\n', "line 2: there must be an object .* got 'text'"),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n[1]\n', "line 3: there must be an object .* got list"),
        ("a.jsonl", '{"text": "x"\n', r"line 1: not JSON \(Expecting ',' delimiter at character 13\)"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON that can be read"),
        ("a.jsonl", f'{{"text": "x", "label": {"9" * 5_000}}}', "line 1: not JSON that can be read"),
        ("a.jsonl", '{"text": "x", "label": "\\ud800"}\n', r"line 1: the class has half a character, U\+D800"),
        (
            "a.csv",
            f"{'x' * 99},pos\n",
            r"line 1: .* 'text' among x{40}\.\.\., pos; say with --columns",
        ),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: 'text' must be a string .* got int and int"),
        ("a.jsonl", '{"text": "x", "label": true}\n', "line 1: .* a whole number; got str and bool"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', r"line 1: the text has half a character, U\+D800"),
    ],
)
def test_what_is_wrong_is_named(write, name, content, message):
    with pytest.raises(DataError, match=f"{name},? {message}"):
        read_labelled(write(name, content))


def test_wrong_arguments_are_named(write, tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt must end with \.tsv, \.csv or \.jsonl, or be a folder"):
        read_labelled(write("a.txt", "x"))
    with pytest.raises(ValueError, match=r"columns of a .jsonl file are names; got \(0, 1\)"):
        read_labelled(write("a.jsonl", "{}"), columns=(0, 1))
    with pytest.raises(DataError, match=r"line 1: columns must be in 0\.\.1; got 2"):
        read_labelled(write("a.tsv", "x\ty\n"), columns=(0, 2))
    for missing in ("none.tsv", "nosuchfolder"):
        with pytest.raises(FileNotFoundError, match=f"no file or folder .*{missing}"):
            read_labelled(tmp_path / missing)
    (tmp_path / "folder/empty").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty has no \.txt files"):
        read_labelled(tmp_path / "folder")
    (tmp_path / "flat").mkdir()
    write("flat/a.txt", "a")
    with pytest.raises(DataError, match=r"flat must hold a folder of \.txt files for each class"):
        read_labelled(tmp_path / "flat")
    with pytest.raises(ValueError, match="among x, y; got 'z'"):
        LabelledTexts.of(["a"], ["z"], ("x", "y"))
    with pytest.raises(ValueError, match="one for each of the 1 texts; got 2"):
        LabelledTexts.of(["a"], ["x", "y"])
    one = write("one.tsv", "text\tlabel\na\tx\nb\tx\n")
    with pytest.raises(DataError, match=r"one\.tsv: all texts are of one class, 'x'"):
        load_labelled(one)
    with pytest.raises(ValueError, match=r"share must be in \(0, 0\.5\); got 0\.5"):
        load_labelled(one, share=0.5)
    rare = write("rare.tsv", "text\tlabel\n" + "".join(f"{i}\t{i % 2}\n" for i in range(40)) + "r\tz\n")
    with pytest.raises(DataError, match=r"rare\.tsv: too few .* of class 'z' there are 1, .* once; .*--validation"):
        load_labelled(rare)


def test_what_editors_and_systems_add_changes_nothing(write, tmp_path):
    assert list(read_labelled(write("a.csv", "text, label\na, x\n   \nb, y\n"))) == ["a", "b"]
    for name in ("x/1.txt", "x/2.TXT", "x/._1.txt", "y/1.txt", ".z/1.txt"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        write(f"folder/{name}", b"\xff" if "/." in name else name.encode())
    assert list(read_labelled(tmp_path / "folder")) == ["x/1.txt", "x/2.TXT", "y/1.txt"]
    ids = "".join(f"text {name[:1]}\t{name}\n" for name in ("9" * 5_000, "1"))
    assert read_labelled(write("ids.tsv", ids), columns=(0, 1)).class_names == ("1", "9" * 5_000)


def test_a_few_texts_are_of_all_classes():
    for names in ((["x", "y"] * 9), (["x"] * 16 + ["y"] * 2)):
        few = LabelledCorpus(*[LabelledTexts.of("abcdefghijklmnopqr", names)] * 3).few(6)
        assert len(few.train) <= 6
        assert min(few.train.counts().values()) > 0


def test_classes_are_those_to_train_on(write):
    train = write("train.tsv", "text\tlabel\n" + "".join(f"text {i}\t{i % 3 * 5}\n" for i in range(30)))
    test = write("test.tsv", "text\tlabel\nseen\t10\ntext 3\t0\n")
    corpus = load_labelled(train, test=test)
    assert corpus.train.class_names == corpus.test.class_names == ("0", "5", "10")  # as numbers
    assert corpus.test.labels.tolist() == [2, 0]  # one of the classes may be missing
    assert corpus.duplicates == 1
    with pytest.raises(DataError, match=r"test\.tsv, line 2: class '7' is none of those to train on, 0, 5, 10"):
        load_labelled(train, test=write("test.tsv", "text\tlabel\nseen\t7\n"))


some_rows = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from("xyz")), min_size=1, max_size=60
)


@given(some_rows, st.integers(1, 20), st.integers(0, 3))
def test_what_is_held_out_is_nowhere_else(rows, count, seed):
    texts = LabelledTexts.of([text for text, _ in rows], [name for _, name in rows])
    other = LabelledTexts.of(["a", "bc"], ["x", "x"])
    try:
        rest, held_out = hold_out(texts, count, seed=seed, apart_from=other)
    except ValueError:
        # Rightly: of some class, what may be held out is less than its share, or would be all of it.
        alone = [name for text, name in rows if [t for t, _ in rows].count(text) == 1 and text not in list(other)]
        shares = {name: count * n / len(rows) for name, n in texts.counts().items()}
        assert any(max(1, share + 1) > min(alone.count(n), texts.counts()[n] - 1) for n, share in shares.items())
        return
    assert not set(held_out) & (set(rest) | set(other))
    both = [
        (text, part.class_names[label])
        for part in (rest, held_out)
        for text, label in zip(part, part.labels, strict=True)
    ]
    assert sorted(both) == sorted(rows)
    assert rest.counts().keys() == held_out.counts().keys() == texts.counts().keys()
    for name, n in texts.counts().items():
        assert abs(held_out.counts()[name] - max(1, count * n / len(rows))) <= 1
    again = hold_out(texts, count, seed=seed, apart_from=other)
    assert [list(part) for part in again] == [list(rest), list(held_out)]


def test_nothing_is_held_out_of_too_little():
    texts = LabelledTexts.of(["a", "b", "b", "c", "d"], ["x", "x", "x", "y", "y"])
    with pytest.raises(
        ValueError, match="got 4 of 5 texts, and of class 'x' there are 3, of which 1 occur only once"
    ):
        hold_out(texts, 4, seed=0)


def test_parts_that_are_not_given_are_held_out(write):
    lines = [f"text {i}\t{'x' if i % 4 else 'y'}\n" for i in range(80)]
    train = write("train.tsv", "text\tlabel\n" + "".join(lines))
    ready = write("ready.tsv", "text\tlabel\ntext 1\tx\nother\ty\n")
    one = load_labelled(train)
    assert [part.counts() for part in (one.train, one.validation, one.test)] == [
        {"x": 42, "y": 14}, {"x": 9, "y": 3}, {"x": 9, "y": 3}
    ]  # fmt: skip
    assert sorted([*one.train, *one.validation, *one.test]) == sorted(line.split("\t")[0] for line in lines)
    assert list(load_labelled(train).test) == list(one.test) != list(load_labelled(train, seed=1).test)
    for parts in (load_labelled(train, ready), load_labelled(train, test=ready)):
        assert sorted(map(len, (parts.train, parts.validation, parts.test))) == [2, 12, 68]
    both = load_labelled(train, ready, ready)
    assert (len(both.train), both.duplicates) == (80, 1)


def test_classes_weigh_alike():
    texts = LabelledTexts.of("abcdef", ["x", "y", "y", "y", "z", "z"])
    weights = texts.class_weights()[texts.labels]
    assert [weights[texts.labels == label].sum().round(5) for label in range(3)] == [2.0, 2.0, 2.0]
    rows = Ragged.of([[1]] * 6)
    batches = Buckets(
        {"tokens": rows}, {"labels": texts.labels, "weights": weights}, batch_size=6,
        bucket_boundaries={"tokens": (1,)}, seed=0,
    )  # fmt: skip
    np.testing.assert_array_equal(batches[0]["weights"], texts.class_weights()[batches[0]["labels"]])
    with pytest.raises(ValueError, match="class 'x' has no text"):
        texts.take(np.arange(1, 6)).class_weights()


def test_what_is_tokenised_once_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    texts, calls = LabelledTexts.of(["a b", "b", "c a"], ["x", "y", "x"]), []

    class Counting(WordTokenizer):
        def encode(self, text):
            calls.append(text)
            return super().encode(text)

    for tokenizer in (Counting(["a", "b"]), Counting(["a", "b"]), Counting(["b", "a"])):
        ids = tokenised(texts, tokenizer)
        assert [row.tolist() for row in ids] == [
            WordTokenizer(tokenizer.words).encode(text).tolist() for text in texts
        ]
    assert len(calls) == 6  # not again for the second
