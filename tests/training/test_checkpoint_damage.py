"""Damaged and hostile checkpoints: an error that names the file, the older good one used, and nothing else."""

import hashlib
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_checkpoint import blank, same_bits
from training import CheckpointError, read_checkpoint, save_checkpoint
from training.saving.files import atomic_folder, read_folder

STATE = {"model": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}, "key": jax.random.key(5)}
LIKE = blank(STATE)
FILES = ("state.safetensors", "state.json", "metrics.jsonl", "manifest.json")


def save(folder, step, value=0.0):
    files = {"metrics.jsonl": b'{"step": %d}\n' % step * 5}
    state = {**STATE, "model": {**STATE["model"], "w": STATE["model"]["w"] + value}}
    return save_checkpoint(folder, step, state, {"position": step, "best": {"loss": 0.5}}, files=files, keep=None)


def damaged(rng, content, others):
    """A kind of damage, and what it makes of a file; None for a file that is gone."""
    kind = rng.choice(["cut", "flip", "zero", "exchange", "empty", "grow", "twice", "other file", "gone", "older"])
    at = int(rng.integers(len(content)))
    if kind == "cut":
        return kind, content[:at]
    if kind == "flip":
        return kind, content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
    if kind == "zero":
        end = at + int(rng.integers(1, 64))
        return kind, content[:at] + bytes(len(content[at:end])) + content[end:]
    if kind == "exchange":
        middle = int(rng.integers(len(content)))
        return kind, content[middle:] + content[:middle]
    if kind == "grow":
        return kind, content + bytes(rng.integers(0, 256, int(rng.integers(1, 100)), np.uint8))
    simple = {"empty": b"", "twice": content * 2, "gone": None}
    return kind, simple[kind] if kind in simple else others[kind]


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_so_many_damaged_checkpoints_so_many_errors(tmp_path, count):
    """Every file, every kind of damage: the error names the file, the older checkpoint is found bit by bit."""
    older, newer = save(tmp_path, 1, 3.0), save(tmp_path, 2)
    expected = read_checkpoint(older).restore(LIKE)
    originals = {name: (newer / name).read_bytes() for name in FILES}
    assert {path.name for path in newer.iterdir()} == set(FILES)
    rng = np.random.default_rng(0)
    counts, fell_back = Counter(), 0
    while sum(counts.values()) < count:
        name = FILES[int(rng.integers(4))]
        others = {"older": (older / name).read_bytes(), "other file": originals[FILES[int(rng.integers(4))]]}
        kind, content = damaged(rng, originals[name], others)
        if content == originals[name]:
            continue  # no damage at all
        (newer / name).unlink()
        if content is not None:
            (newer / name).write_bytes(content)
        broken = []
        found = read_checkpoint(tmp_path, on_broken=lambda path, error, b=broken: b.append((path, error)))
        assert found.folder == older, (kind, name)
        same_bits(found.restore(LIKE), expected)
        ((path, error),) = broken
        assert (path, type(error)) == (newer, CheckpointError)
        # An older manifest, and it alone, is whole in itself: then the first file that it does not fit is named.
        named = newer if (name, kind) == ("manifest.json", "older") else newer / name
        assert str(named) in str(error), (kind, name, str(error))
        if content is not None:
            assert (newer / name).read_bytes() == content  # nothing is repaired or deleted
        (newer / name).write_bytes(originals[name])
        counts[kind, name] += 1
        fell_back += 1
    assert fell_back == count
    assert len(counts) == 10 * len(FILES)
    same_bits(read_checkpoint(tmp_path).restore(LIKE), STATE)


def test_cut_at_every_length(tmp_path):
    place = save(tmp_path, 1)
    for name in FILES:
        content = (place / name).read_bytes()
        for length in range(len(content)):
            (place / name).write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=name):
                read_checkpoint(place)
        (place / name).write_bytes(content)
    assert read_checkpoint(place).step == 1


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    """A pipe would be waited for, a device read for ever, and a link may lead anywhere."""
    place = save(tmp_path, 1)
    content = (place / "state.json").read_bytes()
    (tmp_path / "elsewhere").write_bytes(content)
    for make in (
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        lambda path: path.mkdir(),
    ):
        (place / "state.json").unlink()
        make(place / "state.json")
        with pytest.raises(CheckpointError, match=r"state\.json is not a plain file"):
            read_checkpoint(place)
        if (place / "state.json").is_dir():
            (place / "state.json").rmdir()
        else:
            (place / "state.json").unlink()
        (place / "state.json").write_bytes(content)


def test_a_whole_checkpoint_under_another_step(tmp_path):
    shutil.copytree(save(tmp_path, 1), tmp_path / "step_00000009")
    with pytest.raises(CheckpointError, match=r"state.json is of step 1, the folder's name says otherwise"):
        read_checkpoint(tmp_path / "step_00000009")


def test_manifest_may_name_plain_files_of_the_folder_alone(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", "/etc/hostname", "a/b", "..", ".", ""):
        atomic_folder(tmp_path / "a", {"state.json": b"{}"})
        path = tmp_path / "a" / "manifest.json"
        text = path.read_text().replace('"state.json"', json.dumps(name))
        path.write_bytes(resigned(json.loads(text)))
        with pytest.raises(CheckpointError, match="has a damaged entry"):
            read_folder(tmp_path / "a", ())
        shutil.rmtree(tmp_path / "a")


def resigned(manifest):
    """A manifest that says of itself what is true."""
    from training.saving.files import _manifest

    return _manifest(manifest["format"], manifest["files"])


def header(text, payload=b""):
    return struct.pack("<Q", len(text)) + text + payload


HOSTILE = [
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 2**24 + 1) + b"{}",
    struct.pack("<Q", 101 * 10**6) + b" " * 1000,
    header(b'{"w":{"dtype":"F32","shape":[100000000000],"data_offsets":[0,400000000000]}}'),
    header(b'{"w":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}', bytes(8)),
    header(b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
    header(b'{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    header(b'{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', bytes(1)),
    header(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    header(b"[" * 100_000),
    header(b'{"a":' * 100_000),
    b"\x80\x04\x95pickle",
    b"",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_headers_cost_nothing(tmp_path, number):
    """With a manifest that is right: sizes that are claimed are not believed."""
    place = save(tmp_path, 1)
    contents = {name: (place / name).read_bytes() for name in FILES[1:3]}
    shutil.rmtree(place)
    atomic_folder(place, {**contents, "state.safetensors": HOSTILE[number]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        CheckpointError, match=r"state.safetensors (is not a safetensors file|has a header)|supported"
    ):
        read_checkpoint(place)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10


NASTY = [
    None, True, -1, 0, 1.5, 2**64, "", "x", "../x", [], {}, [[]], {"": {}}, "state.json", 10**400, "\ud800",
    float("inf"), "threefry2x32", [1] * 50, "0" * 64,
]  # fmt: skip


def mutated_json(rng, value):
    """The same JSON with one thing in it another one, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = str(rng.choice(list(value)))
        action = rng.random()
        if action < 0.1:
            return {n: v for n, v in value.items() if n != name}
        if action < 0.2:
            return {**value, str(NASTY[int(rng.integers(len(NASTY)))]): value[name]}
        return {**value, name: mutated_json(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        return [*value[:at], mutated_json(rng, value[at]), *value[at + 1 :]]
    return NASTY[int(rng.integers(len(NASTY)))]


def fuzz(folder, count, seed):
    """Checkpoints that are wrong in ways of which the manifest knows nothing: our errors, or the right shapes."""
    place = save(folder, 1)
    originals = {name: (place / name).read_bytes() for name in FILES}
    length = struct.unpack("<Q", originals["state.safetensors"][:8])[0]
    tensors = json.loads(originals["state.safetensors"][8 : 8 + length])
    payload = originals["state.safetensors"][8 + length :]
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    for number in range(count):
        contents = {name: originals[name] for name in FILES[:3]}
        what = rng.choice(["bytes", "header", "info", "manifest"])
        if what == "bytes":
            name = FILES[int(rng.integers(3))]
            contents[name] = damaged(rng, contents[name], {"older": b"{}", "other file": b"[1]"})[1] or b""
        elif what == "header":
            text = json.dumps(mutated_json(rng, tensors)).encode()
            contents["state.safetensors"] = header(text, payload)
        elif what == "info":
            contents["state.json"] = json.dumps(mutated_json(rng, json.loads(contents["state.json"]))).encode()
        files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
        manifest: Any = {"format": 1, "files": files}
        if what == "manifest":
            manifest = mutated_json(rng, manifest)
        if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and rng.random() < 0.9:
            contents["manifest.json"] = resigned({"format": 1, **manifest})
        else:
            contents["manifest.json"] = json.dumps(manifest).encode()
        for name, content in contents.items():
            (place / name).write_bytes(content)
        try:
            found = read_checkpoint(place)
            outcomes["read"] += 1
            if number % 5:  # the slow part
                continue
            restored = found.restore(LIKE)
        except CheckpointError as error:
            outcomes["refused" if str(place) in str(error) else "unnamed"] += 1
            continue
        outcomes["restored"] += 1
        assert jax.tree.map(jnp.shape, restored) == jax.tree.map(jnp.shape, STATE)
    return outcomes


@pytest.fixture
def in_memory():
    """A folder in memory, where the system has that: ten thousand checkpoints on a disk take their time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def test_fuzz(in_memory):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = fuzz(in_memory, 3000, seed=0)
    assert outcomes["refused"] > 1500
    assert outcomes["unnamed"] == 0
    assert outcomes["restored"] > 9  # the gates are not simply closed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 2**10


@pytest.mark.slow
def test_fuzz_for_long(in_memory):
    assert fuzz(in_memory, 100_000, seed=1)["refused"] > 50_000


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measures memory as POSIX systems do")
