"""Whatever is in a file, reading it ends soon, with what it says or with an error that was foreseen."""

import io
import json
import random
import tarfile
import zipfile

import pytest

from data.errors import DataError
from data.imdb import collect, read_archive
from data.spa_eng import load_pairs
from data.text import load_text
from zoo.text import BytePairTokenizer, CharacterTokenizer, WordTokenizer, tokenizer_from_json

WORDS = [
    b"\t",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    "ñ¿日".encode(),
    b"Go.",
    b"\t\t",
    b"{",
    b'"',
    b"9" * 40,
]
SAVED = [
    json.dumps(tokenizer.to_json()).encode()
    for tokenizer in (
        CharacterTokenizer("abñ\n"),
        WordTokenizer(["a", "the"]),
        BytePairTokenizer(r"\s?\S+|\s+", [bytes([i]) for i in range(256)] + [b"th"]),
    )
]


def small_archive():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for part in ("train", "test"):
            for label in ("neg", "pos"):
                member = tarfile.TarInfo(f"aclImdb/{part}/{label}/0_1.txt")
                member.size = 4
                archive.addfile(member, io.BytesIO(b"text"))
    return content.getvalue()


ARCHIVE = small_archive()


def mutated(rng, content):
    """Some bytes changed, taken out, put in, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at : at + rng.randint(1, 20)]
        elif kind == 2:
            content[at:at] = rng.choice(WORDS)
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randint(1, 9))
        elif rng.random() < 0.2:
            del content[at:]
    return bytes(content)


def read(rng, file):
    """One thing that is read from a file or a saved dictionary, damaged."""
    kind = rng.randrange(4)
    if kind == 0:
        file.write_bytes(mutated(rng, b"Go.\tVe.\nRun!\t\xc2\xa1Corre!\tCC-BY\n"))
        pairs = load_pairs(file)
        assert len(pairs) >= 1
        assert all(english and spanish for english, spanish in pairs)
    elif kind == 1:
        file.write_bytes(mutated(rng, b"A line.\r\nAnother \xc3\xb1.\n"))
        assert "\r" not in load_text(file)
    elif kind == 2:
        file.write_bytes(mutated(rng, ARCHIVE))
        collect(read_archive(file), file, 1)
    else:
        saved = json.loads(mutated(rng, rng.choice(SAVED)))
        tokenizer = tokenizer_from_json(saved)
        tokenizer.decode(list(range(min(tokenizer.vocab_size, 300))))


def fuzz(tmp_path, count, seed):
    rng, ends = random.Random(seed), {"read": 0, "refused": 0}
    for _ in range(count):
        try:
            read(rng, tmp_path / "file")
            ends["read"] += 1
        except ValueError:  # `DataError` and json's own errors are
            ends["refused"] += 1
    assert min(ends.values()) > count / 50, ends
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fuzz(tmp_path):
    fuzz(tmp_path, 2_000, seed=0)


@pytest.mark.slow
def test_fuzz_for_long(tmp_path):
    fuzz(tmp_path, 100_000, seed=1)


def test_a_zip_of_ours_is_no_archive_of_reviews(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("aclImdb/train/pos/0_8.txt", "x")
    with pytest.raises(DataError, match="not a whole archive"):
        list(read_archive(tmp_path / "a.zip"))
