"""The film reviews: folder and archive give the same, and an archive can't write, swell or lie."""

import io
import tarfile

import numpy as np
import pytest
from stored import FOLDER, needs

from data import imdb
from data.errors import DataError
from data.imdb import collect, load_imdb, read_archive, read_folder, tokenised
from zoo.text import WordTokenizer

REVIEWS = {
    ("train", "neg", 0): "Bad.<br /><br />Really bad.", ("train", "neg", 1): "So bad", ("train", "neg", 2): "dull",
    ("train", "pos", 0): "Good", ("train", "pos", 1): "Very good", ("train", "pos", 2): "caf\u00e9",
    ("test", "neg", 0): "So bad", ("test", "neg", 1): "no", ("test", "neg", 2): "boring",
    ("test", "pos", 0): "yes", ("test", "pos", 1): "Very good", ("test", "pos", 2): "fine",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)


def unpack(folder):
    for (part, label, number), text in REVIEWS.items():
        path = folder / "aclImdb" / part / label / f"{number}_{8 if label == 'pos' else 2}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "aclImdb/train/unsup").mkdir()
    (folder / "aclImdb/train/unsup/0_0.txt").write_text("never read")
    return folder / "aclImdb"


def pack(path, folder, *more):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "aclImdb")
        for member, content in more:
            archive.addfile(member, io.BytesIO(content) if content is not None else None)
    return path


def member(name, content=b"x", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info, content if kind == tarfile.REGTYPE else None


def test_folder_and_archive_give_the_same(tmp_path):
    folder = unpack(tmp_path)
    archive = pack(tmp_path / "a.tar.gz", folder)
    one, other = (
        collect(read(path), path, each=3) for read, path in ((read_folder, folder), (read_archive, archive))
    )
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert one["train_labels"].tolist() == [0, 0, 0, 1, 1, 1]
    text = one["train_text"].tobytes().decode()
    assert text == "".join(REVIEWS["train", label, i] for label in ("neg", "pos") for i in range(3))


@pytest.mark.parametrize(
    "bad",
    [
        member("../x"),
        member("/etc/x"),
        member("aclImdb/../../x"),
        member("other/x"),
        member("aclImdb/train/pos/7_8.txt", kind=tarfile.SYMTYPE),
        member("aclImdb/link", kind=tarfile.LNKTYPE),
        member("aclImdb/fifo", kind=tarfile.FIFOTYPE),
        member("aclImdb/device", kind=tarfile.CHRTYPE),
        member("aclImdb/train/pos/9_8.txt", b"x" * (2**20 + 1)),
    ],
    ids=lambda bad: bad[0].name,
)
def test_a_hostile_member_is_refused(tmp_path, bad):
    archive = pack(tmp_path / "a.tar.gz", unpack(tmp_path), bad)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="member"):
        collect(read_archive(archive), archive, each=3)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_archive_is_one_clear_error(tmp_path):
    content = pack(tmp_path / "a.tar.gz", unpack(tmp_path)).read_bytes()
    bad = tmp_path / "bad.tar.gz"
    rng = np.random.default_rng(0)
    # In the last quarter a cut may lose nothing but the zeros at the end, with all reviews there.
    for end in [0, 5, 20, *rng.integers(20, len(content) * 3 // 4, 20).tolist()]:
        bad.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"bad\.tar\.gz"):
            collect(read_archive(bad), bad, each=3)
    bad.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match="not a whole archive"):
        list(read_archive(bad))


def test_missing_and_unreadable_reviews_are_named(tmp_path):
    folder = unpack(tmp_path)
    (folder / "test/pos/1_8.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="test/pos/1 is not UTF-8"):
        collect(read_folder(folder), folder, each=3)
    (folder / "test/pos/1_8.txt").unlink()
    with pytest.raises(DataError, match="3 reviews in test/pos, numbered from 0; it has 2"):
        collect(read_folder(folder), folder, each=3)
    with pytest.raises(DataError, match="12500 reviews in train/neg"):
        load_imdb(tmp_path)
    (folder / "train/neg").rename(folder / "train/other")
    with pytest.raises(DataError, match="no folder train/neg"):
        load_imdb(tmp_path)


def test_parts_share_no_text(tmp_path, monkeypatch):
    unpack(tmp_path)
    monkeypatch.setattr(imdb, "_EACH", 3)
    splits = [load_imdb(tmp_path, validation=2, seed=seed) for seed in range(6)]
    for data in splits:
        train, validation, test = map(list, (data.train, data.validation, data.test))
        assert (len(train), len(validation), len(test)) == (4, 2, 6)
        assert not set(validation) & (set(train) | set(test))
        assert data.duplicates == 2
        assert data.validation.labels.tolist() == [0, 1]
        assert sorted(train + validation) == sorted(
            text.replace("<br />", "\n") for (part, *_), text in REVIEWS.items() if part == "train"
        )
    assert len({tuple(data.validation) for data in splits}) > 1
    assert list(load_imdb(tmp_path, validation=2).validation) == list(splits[0].validation)
    for count in (0, 3, 30_000):
        with pytest.raises(ValueError, match="validation"):
            load_imdb(tmp_path, validation=count)
    # A changed file is noticed, although the folder was read before.
    (tmp_path / "aclImdb/test/pos/0_8.txt").write_text("changed")
    assert "changed" in list(load_imdb(tmp_path, validation=2).test)


@needs("aclImdb/train/pos/0_9.txt")
def test_the_real_reviews():
    data = load_imdb(FOLDER)
    assert (len(data.train), len(data.validation), len(data.test)) == (22_500, 2_500, 25_000)
    assert data.duplicates == 123
    assert len({part.labels.mean() for part in (data.train, data.validation, data.test)}) == 1
    assert len(data.test.text.values) == 16_283_357 + 16_067_328  # bytes of text, as its documentation has them
    # Review 0 of the test is negative and opens its folder: no shuffle, no slip between texts and labels.
    assert data.test[0] == (FOLDER / "aclImdb/test/neg/0_2.txt").read_text().replace("<br />", "\n")
    assert data.test.labels[[0, -1]].tolist() == [0, 1]
    tokenizer = WordTokenizer.from_texts(list(data.validation), 1000)
    for _ in range(2):  # made, and from the cache
        ids = tokenised(data.validation, tokenizer)
        assert ids[7].tolist() == tokenizer.encode(data.validation[7]).tolist()
        assert len(ids) == 2_500
