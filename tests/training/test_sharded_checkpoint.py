"""Checkpoints that processes write together: what comes back, and what is said when something is wrong with them."""

import importlib.util
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import CheckpointError, Checkpoints, read_checkpoint, save_checkpoint
from training.saving.sharded import ShardedWriter

FILES = {"metrics.jsonl": b"\x00\xff\n", "text": "ü\n".encode()}


def state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "weight": jnp.asarray(rng.normal(size=(300, 40)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "none": jnp.zeros((0, 3)),
        "host": np.arange(4),
        "step": jnp.asarray(seed, jnp.int32),
        "key": jax.random.key(seed + 1),
        "rate": 0.1,
    }


def plain(tree):
    return [
        np.asarray(jax.random.key_data(leaf) if hasattr(leaf, "dtype") and "key" in str(leaf.dtype) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def same(found, expected):
    for one, other in zip(plain(found), plain(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 1 to 3, of which two are kept."""
    writer = ShardedWriter()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "run", step, state(step), {"best": step}, files=FILES, keep=2, writer=writer)
    writer.wait()
    return tmp_path / "run"


def test_all_comes_back(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000002", "step_00000003"]
    for like in (state(), jax.eval_shape(state)):
        found = read_checkpoint(folder, like=like)
        assert (found.step, found.info, found.files) == (3, {"best": 3}, FILES)
        if like["rate"] == 0.1:
            same(found.restore(like), state(3))
    same(read_checkpoint(folder).restore(state()), state(3))
    same(read_checkpoint(folder / "step_00000002").restore(state()), state(2))


def test_a_step_may_reuse_the_memory_while_it_is_written(tmp_path):
    writer, grow = ShardedWriter(), jax.jit(lambda x: x + 1, donate_argnums=0)
    weight = jnp.zeros((1000, 1000))
    save_checkpoint(tmp_path, 1, {"weight": weight}, {}, writer=writer)
    for _ in range(20):
        weight = grow(weight)
    writer.wait()
    assert not np.any(read_checkpoint(tmp_path).restore({"weight": weight})["weight"])


def test_a_step_may_be_saved_again_while_it_is_written(tmp_path):
    """As before and after the last evaluation."""
    writer = ShardedWriter()
    places = [save_checkpoint(tmp_path, 1, state(1), {"best": i}, writer=writer) for i in range(2)]
    writer.wait()
    assert [place.name for place in places] == ["step_00000001", "step_00000001_2"]
    assert read_checkpoint(tmp_path).info == {"best": 1}


def test_what_does_not_fit_is_named(folder):
    like = state() | {"half": jnp.zeros(8, jnp.bfloat16)}
    with pytest.raises(CheckpointError, match=r"half was bfloat16\[7\] and is bfloat16\[8\]"):
        read_checkpoint(folder, like=like).restore(like)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's, of what it can't read
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # of what it gave up for it
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("description/description.json", None),
        ("description/description.json", b"{"),
        ("description/description.json", b"[]"),
        ("description/description.json", b'{"arrays": {"weight": ["float99", [2]]}}'),
        ("description/description.json", b'{"arrays": {}}'),
        ("description/description.json", b'{"arrays": {}, "files": {"a": 1}}'),
        ("description/description.json", b'{"arrays": {}, "files": {"a": "\\ud800"}}'),
        ("description/description.json", b'{"arrays": {}, "files": {}, "format": 1, "step": 3}'),
        ("arrays", None),
        ("arrays/manifest.ocdbt", b"\x00" * 100),
    ],
    ids=["gone", "cut", "list", "type", "no files", "number", "surrogate", "step", "no arrays", "zeros"],
)
def test_a_damaged_one_is_passed_over(folder, file, content):
    place = folder / "step_00000003" / file
    if content is not None:
        place.write_bytes(content)
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    broken = []
    found = read_checkpoint(folder, like=state(), on_broken=lambda path, error: broken.append(str(error)))
    assert found.step == 2
    assert len(broken) == 1
    assert "step_00000003" in broken[0]
    same(found.restore(state()), state(2))


def test_another_steps_description_is_refused(folder):
    file = folder / "step_00000003" / "description" / "description.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 4}))
    with pytest.warns(UserWarning, match="is of step 4, the folder's name says otherwise"):
        assert read_checkpoint(folder).step == 2


def test_what_cannot_be_written_is_said_and_the_older_ones_stay(folder):
    (folder / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="older checkpoints are as they were"):
        save_checkpoint(folder / "file", 4, state(), {}, writer=ShardedWriter())
    assert read_checkpoint(folder).step == 3


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(folder):
    left = folder / "step_00000009.orbax-checkpoint-tmp"
    shutil.copytree(folder / "step_00000003", left)
    assert read_checkpoint(folder).step == 3
    save_checkpoint(folder, 10, state(), {}, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step_00000010"]


def test_without_orbax_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "pytree-zoo\[sharded\]"'):
        Checkpoints(folder=tmp_path, sharded=True)
