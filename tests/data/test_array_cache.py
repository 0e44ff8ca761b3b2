"""The cache of arrays: made once, whole or not at all, and made again when anything about it is wrong."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.array_cache import cached_arrays


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    calls = []

    def make(key=0, array=None):
        def work():
            calls.append(key)
            return {"a": np.arange(5) if array is None else array, "b": np.zeros((2, 3), np.float32).T}

        return cached_arrays("some", {"key": key}, work)

    return SimpleNamespace(arrays=make, calls=calls, folder=tmp_path / "arrays")


def test_made_once_for_each_key(make):
    first = make.arrays()
    again = make.arrays()
    assert make.calls == [0]
    for arrays in (first, again):
        assert arrays["a"].tolist() == [0, 1, 2, 3, 4]
        assert arrays["b"].shape == (3, 2)
        with pytest.raises(ValueError, match="read-only"):
            arrays["a"][0] = 1
    make.arrays(key=1)
    assert make.calls == [0, 1]
    assert len(list(make.folder.iterdir())) == 2


def damages(folder: Path):
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for name, damaged in {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        }.items():
            yield f"{file.name} {name}", lambda f=file, d=damaged: f.write_bytes(d)
        yield f"{file.name} gone", lambda f=file: f.unlink()


def test_what_is_damaged_is_made_again_and_kept_aside(make):
    make.arrays()
    (folder,) = make.folder.iterdir()
    for number, (name, _) in enumerate(list(damages(folder)), start=1):
        dict(damages(folder))[name]()
        calls = len(make.calls)
        assert make.arrays()["a"].tolist() == [0, 1, 2, 3, 4], name
        # A flipped bit in the white space or the key of the manifest changes nothing that counts.
        assert len(make.calls) == calls + 1 or name == "manifest.json flipped", name
        assert len(list(make.folder.glob("*.corrupt-*"))) <= number
    assert list(make.folder.glob("*.corrupt-*"))


def test_a_write_that_fails_leaves_nothing_and_costs_only_the_work(make, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            assert make.arrays()["a"].tolist() == [0, 1, 2, 3, 4]
        assert list(make.folder.iterdir()) == []
    make.arrays()
    assert len(list(make.folder.iterdir())) == 1
    assert make.calls == [0, 0, 0]
