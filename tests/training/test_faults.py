"""A save that fails at any of its calls, on a full disk, or dies in the middle: the last checkpoint stays."""

import errno
import os
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_checkpoint import names, same_bits
from training import CheckpointError, read_checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
ROOT = Path(__file__).parents[2]
STATE = {"w": jnp.arange(300.0), "step": jnp.asarray(1)}
FILES = {"metrics.jsonl": b'{"step": 1}\n' * 20}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class FailingSystem:
    """`os` whose n-th call of those that can fail does; the process is then dead, if it `dies`."""

    CALLS = ("open", "write", "fsync", "close", "mkdir", "rename")

    def __init__(self, fails_at, dies):
        self.calls, self.fails_at, self.dies = [], fails_at, dies

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*args):
            self.calls.append(name)
            if len(self.calls) == self.fails_at or (self.dies and len(self.calls) > self.fails_at > 0):
                if name == "close":
                    real(*args)
                if name == "write":  # half of it arrives
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Died if self.dies else OSError(errno.ENOSPC, "No space left on device", *args[:1])
            return real(*args)

        return call


class Died(BaseException):
    pass


def failing_save(folder, monkeypatch, fails_at, *, dies):
    system = FailingSystem(fails_at, dies)
    with monkeypatch.context() as patch:
        patch.setattr("training.saving.files.os", system)
        if dies:  # the dead clean nothing up
            patch.setattr("training.saving.files.shutil.rmtree", lambda path, **_: None)
        save_checkpoint(folder, 2, STATE, {}, files=FILES, keep=1)
    return system


@pytest.mark.parametrize("dies", [False, True], ids=["error", "death"])
def test_every_call_of_a_save_failing_one_at_a_time(tmp_path, monkeypatch, dies):
    older = save_checkpoint(tmp_path / "start", 1, {**STATE, "w": STATE["w"] + 1}, {}, files=FILES)
    shutil.copytree(tmp_path / "start", tmp_path / "all")
    calls = failing_save(tmp_path / "all", monkeypatch, 0, dies=dies).calls
    number, renamed = len(calls), calls.index("rename")
    assert calls[:renamed].count("fsync") == 4 + 1  # every file and the folder, before it has its name
    assert calls[renamed + 1 :] == ["open", "fsync", "close"]  # and then the name
    assert calls.count("write") == 4
    kept, saved = 0, 0
    for fails_at in range(1, number + 1):
        folder = tmp_path / str(fails_at)
        shutil.copytree(tmp_path / "start", folder)
        with pytest.raises(Died if dies else CheckpointError) as caught:
            failing_save(folder, monkeypatch, fails_at, dies=dies)
        if not dies:
            assert f"{folder / 'step_00000002'} could not be written: No space left on device" in str(caught.value)
            assert not [name for name in names(folder) if name.startswith(".")]
        good = read_checkpoint(folder)
        assert contents(folder / older.name) == contents(older)
        kept, saved = kept + (good.step == 1), saved + (good.step == 2)
        if good.step == 2:
            same_bits(good.restore(STATE), STATE)
        save_checkpoint(folder, 3, STATE, {}, files=FILES, keep=1)
        assert names(folder) == ["step_00000003"]  # nothing that was left is in anybody's way
    assert (kept, saved) == (number - 3, 3)  # renamed, and only the parent's flush failed


def test_a_disk_that_is_full_at_fifty_sizes(tmp_path, monkeypatch):
    older = save_checkpoint(tmp_path, 1, STATE, {}, files=FILES)
    before = contents(tmp_path)
    total = sum(len(content) for content in contents(older).values())
    write = os.write
    for room in np.linspace(0, total - 1, 50).astype(int):
        left = [int(room)]

        def limited(file, content, left=left):
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = write(file, bytes(content)[: left[0]])
            left[0] -= count
            return count

        with monkeypatch.context() as patch:
            patch.setattr("os.write", limited)
            with pytest.raises(CheckpointError, match=r"step_00000002 could not be written: No space left on device"):
                save_checkpoint(tmp_path, 2, STATE, {}, files=FILES)
        assert contents(tmp_path) == before
    monkeypatch.setattr(
        "os.write", lambda file, content: write(file, bytes(content)[:7])
    )  # a slow disk is no full one
    save_checkpoint(tmp_path, 2, STATE, {}, files=FILES)
    assert read_checkpoint(tmp_path).step == 2


def test_the_systems_own_limit_on_the_size_of_a_file(tmp_path):
    import resource

    save_checkpoint(tmp_path, 1, STATE, {}, files=FILES)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 700, 1300):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(CheckpointError, match="could not be written: File too large"):
                save_checkpoint(tmp_path, 2, STATE, {}, files=FILES)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(tmp_path) == before


def test_an_old_checkpoint_that_cannot_be_deleted_is_no_failure(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, STATE, {})

    def denied(*paths):
        raise PermissionError(errno.EACCES, "Permission denied")

    system = FailingSystem(0, False)
    monkeypatch.setattr("training.saving.checkpoint_names.os", system)
    monkeypatch.setattr(system, "rename", denied, raising=False)
    with pytest.warns(UserWarning, match="step_00000001 could not be deleted: Permission denied"):
        save_checkpoint(tmp_path, 2, STATE, {}, keep=1)
    assert names(tmp_path) == ["step_00000001", "step_00000002"]
