"""A text in chunks has the tokens of the whole, whoever makes them; what was made before a kill is not made again."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import FOLDER, needs

from data import tokenised_text as module
from data.errors import DataError
from data.text import load_text
from data.tokenised_text import tokenised_text
from data.vocabularies import fetch_vocabulary
from zoo.text import BytePairTokenizer, ByteTokenizer, CharacterTokenizer, WordTokenizer

GPT2 = r"'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MERGED = [b"th", b"the", b" the", b" a", b"\n\n", b".\n", b"  ", b"    ", b" \n", b"\xc3\xa9", b"a\n"]
BYTES = [bytes([i]) for i in range(256)]
TOKENIZERS = {
    "characters": CharacterTokenizer("".join(map(chr, range(0x3000)))),
    "bytes": ByteTokenizer(),
    "words": WordTokenizer(["the", "a"]),
    "GPT-2's": BytePairTokenizer(GPT2, BYTES + MERGED),
    "cl100k's": BytePairTokenizer(CL100K, BYTES + MERGED),
    "spaces first": BytePairTokenizer(r"\s?\S+|\s+", BYTES + MERGED),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


pieces = st.sampled_from(
    ["the", " the", " ", "  ", "\n", "\r\n", "\r", "\n\n", ".", "a", "\u00e9", "\t", "\u2028", "x's"]
)


@given(st.lists(pieces, min_size=1, max_size=30).map("".join), st.sampled_from(list(TOKENIZERS)), st.integers(1, 9))
def test_chunks_have_the_tokens_of_the_whole(tmp_path_factory, text, name, chunk_bytes):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(("\ufeff" + text).encode())
    tokenizer = TOKENIZERS[name]
    with open(path, "rb") as file, module.mmap.mmap(file.fileno(), 0, access=module.mmap.ACCESS_READ) as content:
        opened = module._Text(path, content, tokenizer)
        chunks = list(opened.chunks(chunk_bytes))
        assert [start for start, _ in chunks] == [0, *(end for _, end in chunks[:-1])]
        assert chunks[-1][1] == len(content)
        ids = np.concatenate([opened._encode(*chunk) for chunk in chunks])
    assert ids.tolist() == tokenizer.encode(load_text(path)).tolist()


PROSE = "".join(f"The {i}th line, caf\u00e9 and all.{' ' * (i % 3)}\n{'  - ' * (i % 5)}" for i in range(3000))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_file_of_many_chunks(tmp_path, monkeypatch, name):
    """More than the window around a cut, so only that is compared; the second time nothing is tokenised."""
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8", newline="\r\n")
    tokenizer = TOKENIZERS[name]
    ids = tokenised_text(tmp_path / "prose.txt", tokenizer, chunk_bytes=5_000, threads=3)
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, tokenizer.encode(PROSE))
    monkeypatch.setattr(type(tokenizer), "encode", None)
    np.testing.assert_array_equal(tokenised_text(tmp_path / "prose.txt", tokenizer, chunk_bytes=5_000), ids)


def partial(cache) -> list[Path]:
    return list(cache.rglob("*.partial"))


class Failing(WordTokenizer):
    """Takes so many chunks; with one more it is as if the process had been killed."""

    left = 1000

    def encode(self, text):
        if len(text) > 2048:  # more than the windows around cuts
            Failing.left -= 1
            if Failing.left < 0:
                raise KeyboardInterrupt
        return super().encode(text)


def test_what_was_made_is_not_made_again(tmp_path, cache):
    path, other = tmp_path / "prose.txt", tmp_path / "other.txt"
    for file in (path, other):
        file.write_text(PROSE, encoding="utf-8")
    expected = tokenised_text(other, Failing(["the"]), chunk_bytes=10_000)
    np.testing.assert_array_equal(expected, WordTokenizer(["the"]).encode(PROSE))
    chunks, Failing.left = 1000 - Failing.left, 3
    assert chunks > 6
    with pytest.raises(KeyboardInterrupt):
        tokenised_text(path, Failing(["the"]), chunk_bytes=10_000, threads=1)
    Failing.left = chunks - 3  # one more would be too many
    np.testing.assert_array_equal(tokenised_text(path, Failing(["the"]), chunk_bytes=10_000, threads=2), expected)
    assert Failing.left == 0
    assert not partial(cache)
    # A file that has changed, and another vocabulary, are tokenised anew.
    Failing.left = 1000
    path.write_text("The end. " + PROSE, encoding="utf-8")
    assert len(tokenised_text(path, Failing(["the"]), chunk_bytes=10_000)) == len(expected) + 2
    assert tokenised_text(path, Failing(["end", "the"]), chunk_bytes=10_000)[:2].tolist() == [4, 3]


def test_several_at_once_give_the_same(tmp_path, cache):
    """The first one that is ready tidies up, under the hands of the others."""
    path = tmp_path / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    found = {}
    threads = [
        threading.Thread(
            target=lambda i=i: found.update({i: tokenised_text(path, ByteTokenizer(), chunk_bytes=8_000)})
        )
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        np.testing.assert_array_equal(found[i], np.frombuffer(PROSE.encode(), np.uint8))
    assert not partial(cache)


@pytest.mark.usefixtures("cache")
def test_what_is_wrong_is_named(tmp_path):
    path = tmp_path / "bad.txt"
    content = ("line\r\n" * 1000).encode()
    path.write_bytes(b"\xef\xbb\xbf" + content + b"two \xff three\n" + content)
    for chunk_bytes in (2_000, 2**22):
        with pytest.raises(DataError, match=r"bad\.txt, line 1001: byte 0xff is not UTF-8"):
            tokenised_text(path, ByteTokenizer(), chunk_bytes=chunk_bytes)
    path.write_bytes(b"\xef\xbb\xbf\xff" + content)
    with pytest.raises(DataError, match=r"bad\.txt, line 1: byte 0xff"):
        tokenised_text(path, ByteTokenizer(), chunk_bytes=2_000)
    path.write_bytes(content + b"x" + content)
    with pytest.raises(DataError, match=r"bad\.txt, bytes \d+ to \d+: text has 'x'"):
        tokenised_text(path, CharacterTokenizer("line\n"), chunk_bytes=2_000)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        tokenised_text(path, ByteTokenizer())
    with pytest.raises(FileNotFoundError):
        tokenised_text(tmp_path / "none.txt", ByteTokenizer())
    for options in ({"chunk_bytes": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="chunk_bytes and threads must be at least 1"):
            tokenised_text(path, ByteTokenizer(), **options)


@pytest.mark.usefixtures("cache")
@needs("tiktoken", "texts/metamorphosis_pg5200.txt")
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_real_vocabularies(name):
    path = FOLDER / "texts/metamorphosis_pg5200.txt"  # CR LF, and blank lines
    tokenizer = BytePairTokenizer.named(name, fetch_vocabulary(name, FOLDER, offline=True))
    ids = tokenised_text(path, tokenizer, chunk_bytes=1_500, threads=2)
    np.testing.assert_array_equal(ids, tokenizer.encode(load_text(path)))
    assert ids.dtype == (np.uint16 if name == "gpt2" else np.int32)


KILLED = """
import sys, time
from data.tokenised_text import tokenised_text
from zoo.text import WordTokenizer

class Slow(WordTokenizer):
    def encode(self, text):
        time.sleep(0.2 if len(text) > 2048 else 0)
        return super().encode(text)

print("begun", flush=True)
tokenised_text(sys.argv[1], Slow(["the"]), chunk_bytes=10_000, threads=1)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_made(tmp_path, cache):
    path = tmp_path / "prose.txt"
    path.write_text(PROSE, encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], env={**os.environ}, stdout=subprocess.PIPE)
    while not any(len(list(folder.glob("*-*.npy"))) >= 2 for folder in partial(cache)):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = partial(cache)
    before = len(list(folder.glob("*-*.npy")))
    (tmp_path / "other.txt").write_text(PROSE, encoding="utf-8")
    saved: list[list[int]] = []
    save = np.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            np, "save", lambda file, ids, **options: saved[-1].append(len(ids)) or save(file, ids, **options)
        )
        for file in (path, tmp_path / "other.txt"):
            saved.append([])
            ids = tokenised_text(file, WordTokenizer(["the"]), chunk_bytes=10_000)
            np.testing.assert_array_equal(ids, WordTokenizer(["the"]).encode(PROSE))
    assert len(saved[0]) == len(saved[1]) - before
