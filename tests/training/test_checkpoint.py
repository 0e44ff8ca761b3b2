"""What a checkpoint holds, how strict it is about what it is read into, and which ones are kept."""

import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from training import CheckpointError, adamw, init_state, read_checkpoint, save_checkpoint
from training.saving.files import atomic_folder
from training.state import with_best


def same_bits(a, b):
    """Whether two trees have equal structure and every array the same type, shape and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not eqx.is_array(x):
            assert x is y or x == y
            continue
        assert (x.dtype, x.shape, type(x)) == (y.dtype, y.shape, type(y))
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def blank(tree):
    """The same shapes, with nothing of the content."""

    def empty(leaf):
        if not eqx.is_array(leaf):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = jnp.zeros_like(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=str(jax.random.key_impl(leaf)))
        return jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else np.zeros_like(leaf)

    return jax.tree.map(empty, tree)


EVERY_TYPE = {
    name: jnp.asarray([[0, 1, 1], [1, 0, 1]], name)
    for name in ("float32", "float16", "bfloat16", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool")
} | {"complex64": jnp.asarray([1 + 2j]), "float8_e4m3fn": jnp.ones(3, "float8_e4m3fn")}
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)


@pytest.mark.parametrize(
    "state",
    [
        EVERY_TYPE,
        {"special": jnp.asarray(SPECIAL), "payload": jnp.asarray(np.array([0x7FC00001], np.uint32).view(np.float32))},
        {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(4, impl="rbg"), 3), "none": None},
        {"empty": jnp.zeros((0, 3)), "scalar": jnp.asarray(2.5), "numpy": np.arange(6).reshape(2, 3).T},
        (jnp.ones(2), [jnp.zeros(1), {"a": jnp.arange(3)}], jnp.tanh, "text", 3),
        {},
    ],
    ids=["types", "bits", "keys", "shapes", "structure", "nothing"],
)
def test_round_trip(tmp_path, state):
    place = save_checkpoint(tmp_path, 7, state, {"a": [1, None, "ü"]}, files={"metrics.jsonl": b"\x00\xff"})
    found = read_checkpoint(tmp_path)
    assert (found.folder, found.step) == (place, 7)
    assert found.info == {"a": [1, None, "ü"]}
    assert found.files == {"metrics.jsonl": b"\x00\xff"}
    assert found.differences(state) == []
    same_bits(found.restore(blank(state)), state)
    same_bits(read_checkpoint(place).restore(blank(state)), state)


@pytest.mark.parametrize(
    "optimiser",
    [
        adamw(1e-3, total_steps=10),
        optax.sgd(0.1, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(1.0, 0.0, 5))),
        optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
        optax.adafactor(1e-3),
        optax.contrib.reduce_on_plateau(),
        optax.partition(
            {"a": optax.adam(1.0), "b": optax.set_to_zero()}, lambda tree: jax.tree.map(lambda _: "a", tree)
        ),
    ],
    ids=["adamw", "momentum", "schedule", "multi-steps", "adafactor", "plateau", "partition"],
)
@pytest.mark.parametrize("ensemble_size", [None, 2])
def test_round_trip_of_train_states(tmp_path, tiny, optimiser, ensemble_size):
    keys = jax.random.key(0) if ensemble_size is None else jax.random.split(jax.random.key(0), 2)
    model = tiny(key=keys) if ensemble_size is None else eqx.filter_vmap(lambda key: tiny(key=key))(keys)
    carry = {"hidden": jnp.ones((3, 4), jnp.bfloat16), "count": jnp.asarray(3)}
    state = init_state(model, optimiser, key=jax.random.key(1), carry=carry, ensemble_size=ensemble_size)
    state = with_best(state)
    rng = np.random.default_rng(0)
    normal = lambda shape, dtype: np.asarray(rng.normal(size=shape), dtype)  # noqa: E731

    def draw(leaf):
        return leaf if not eqx.is_inexact_array(leaf) else jnp.asarray(normal(leaf.shape, leaf.dtype), leaf.dtype)

    state = jax.tree.map(draw, state)
    save_checkpoint(tmp_path, 0, state, {})
    same_bits(read_checkpoint(tmp_path).restore(blank(state)), state)
    shapes = eqx.filter_eval_shape(lambda: state)
    same_bits(read_checkpoint(tmp_path).restore(shapes), state)


def test_others_can_read_the_arrays(tmp_path):
    """The file is safetensors, by names that people write, and so is what a library of another make finds in it."""
    state = {"model": {"layers": [jnp.arange(6.0).reshape(2, 3).T]}}
    place = save_checkpoint(tmp_path, 1, state, {})
    found = safetensors.numpy.load_file(place / "state.safetensors")
    assert list(found) == ["model.layers.0"]
    np.testing.assert_array_equal(found["model.layers.0"], [[0, 3], [1, 4], [2, 5]])
    described = json.loads((place / "state.json").read_text())
    assert (described["format"], described["step"], described["keys"]) == (2, 1, {})


def test_another_format_is_refused_in_one_line_and_not_passed_over(tmp_path):
    """It is not broken: to fall back to an older checkpoint, or to start anew, would be a silent loss."""
    save_checkpoint(tmp_path, 1, {}, {})
    place = save_checkpoint(tmp_path, 2, {}, {})
    described = json.loads((place / "state.json").read_text())
    contents = {"state.json": json.dumps({**described, "format": 1}).encode()}
    contents["state.safetensors"] = (place / "state.safetensors").read_bytes()
    shutil.rmtree(place)
    atomic_folder(place, contents)
    for path in (tmp_path, place):
        with pytest.raises(CheckpointError, match=r"has format 1; this version of pytree-zoo reads format 2$"):
            read_checkpoint(path)


def test_fields_are_found_by_name_whatever_their_order(tmp_path):
    class One(eqx.Module):
        a: jax.Array
        b: jax.Array

    class Other(eqx.Module):
        b: jax.Array
        a: jax.Array

    save_checkpoint(tmp_path, 1, One(jnp.zeros(2), jnp.ones(2)), {})
    found = read_checkpoint(tmp_path).restore(Other(b=jnp.zeros(2), a=jnp.ones(2)))
    assert (found.a.tolist(), found.b.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.ones(2)}, r"1 unknown array\(s\): key"),
        ({"w": jnp.ones(2), "key": jax.random.key(0), "v": jnp.ones(1)}, r"1 missing array\(s\): v"),
        ({"w": jnp.ones(3), "key": jax.random.key(0)}, r"w was float32\[2\] and is float32\[3\]"),
        ({"w": jnp.ones(2, jnp.bfloat16), "key": jax.random.key(0)}, r"w was float32\[2\] and is bfloat16\[2\]"),
        ({"w": jnp.ones(2, jnp.int32), "key": jax.random.key(0)}, "w was float32"),
        ({"w": jnp.ones(2), "key": jax.random.key(0, impl="rbg")}, "of a threefry2x32 key and is .* of a rbg key"),
        ({"w": jnp.ones(2), "key": jnp.zeros(2, jnp.uint32)}, "key was .* of a threefry2x32 key and is uint32"),
        ({"w": jax.random.key(0), "key": jax.random.key(0)}, "w was float32"),
        ({"w": jnp.ones(2), "key": jax.random.split(jax.random.key(0))}, r"key was uint32\[2\]"),
        ({f"w{i}": jnp.ones(2) for i in range(9)}, r"9 missing array\(s\): w0, w1, w2, w3, w4; 2 unknown"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, like, message):
    place = save_checkpoint(tmp_path, 1, {"w": jnp.ones(2), "key": jax.random.key(0)}, {})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path).restore(like)
    assert str(place / "state.safetensors") in str(caught.value)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    for arguments, error, message in (
        ((1, {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {}), TypeError, "two arrays have the name 'a.b'"),
        ((1, {"a": jnp.ones(1, "int4")}, {}), TypeError, "a is of type int4, which can't be saved"),
        ((1, {}, {"a": object()}), TypeError, "info must be plain JSON"),
        ((1, {}, {"a": float("nan")}), TypeError, "info must be plain JSON"),
        ((-1, {}, {}), ValueError, "step must be at least 0"),
    ):
        with pytest.raises(error, match=message):
            save_checkpoint(tmp_path / "new", *arguments)
    for name in ("../x", "/x", "a/b", ".x", "", "manifest.json", "x" * 101, "a\0b"):
        with pytest.raises(ValueError, match="files must have plain names"):
            save_checkpoint(tmp_path / "new", 1, {}, {}, files={name: b""})
    with pytest.raises(ValueError, match="keep at least 1; got 1 and 0"):
        save_checkpoint(tmp_path / "new", 1, {}, {}, keep=0)
    assert list(tmp_path.iterdir()) == []


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, step, {"step": jnp.asarray(step)}, {})
    assert names(tmp_path) == ["step_00000003", "step_00000004"]
    for step in range(5, 8):
        save_checkpoint(tmp_path, step, {}, {}, keep=None)
    assert len(names(tmp_path)) == 5
    save_checkpoint(tmp_path, 100_000_000, {}, {}, keep=1)
    assert names(tmp_path) == ["step_100000000"]
    assert read_checkpoint(tmp_path).step == 100_000_000


def test_a_second_one_of_a_step_is_the_newer(tmp_path):
    for value in range(11):
        save_checkpoint(tmp_path, 3, {"value": jnp.asarray(value)}, {}, keep=None)
    assert names(tmp_path)[:3] == ["step_00000003", "step_00000003_10", "step_00000003_11"]
    assert int(read_checkpoint(tmp_path).restore({"value": jnp.asarray(0)})["value"]) == 10


def test_broken_ones_are_named_passed_over_and_spared(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": jnp.asarray(step)}, {}, keep=None)
    (tmp_path / "step_00000003" / "state.json").write_text("{}")
    (tmp_path / "step_00000002" / "manifest.json").unlink()
    broken = []
    found = read_checkpoint(tmp_path, on_broken=lambda path, error: broken.append((path, str(error))))
    assert found.step == 1
    assert [path.name for path, _ in broken] == ["step_00000003", "step_00000002"]
    assert "state.json has 2 bytes" in broken[0][1]
    assert "manifest.json can't be read: No such file" in broken[1][1]
    with pytest.warns(UserWarning, match="passed over a broken checkpoint") as warned:
        read_checkpoint(tmp_path)
    assert [str(one.message).removeprefix("passed over a broken checkpoint: ") for one in warned] == [
        text for _, text in broken
    ]
    spare = [path for path, _ in broken]
    again = save_checkpoint(tmp_path, 3, {"step": jnp.asarray(3)}, {}, keep=1, spare=spare)
    assert again.name == "step_00000003_2"
    assert names(tmp_path) == ["step_00000002", "step_00000003", "step_00000003_2"]
    assert read_checkpoint(tmp_path).folder == again


def test_nothing_usable(tmp_path):
    """As it is said, and with nothing touched: also what killed processes left may be of use to somebody."""
    for make in (
        lambda: None,
        lambda: (tmp_path / "run").mkdir(),
        lambda: (tmp_path / "run" / ".step_00000003.77.tmp").mkdir(),
        lambda: (tmp_path / "run" / "step_3").mkdir(),
        lambda: (tmp_path / "run" / "notes").write_text("mine"),
    ):
        make()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(CheckpointError, match=f"^no usable checkpoint in {tmp_path / 'run'}$"):
            read_checkpoint(tmp_path / "run")
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "run" / "step_00000003").mkdir()
    with (
        pytest.warns(UserWarning, match="passed over a broken"),
        pytest.raises(CheckpointError, match="no usable checkpoint in"),
    ):
        read_checkpoint(tmp_path / "run")


def test_what_killed_processes_left_goes_with_the_next_save(tmp_path):
    (tmp_path / ".step_00000003.77.tmp").mkdir()
    (tmp_path / ".step_00000003.77.tmp" / "state.safetensors").write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_text("mine")
    save_checkpoint(tmp_path, 1, {}, {})
    assert names(tmp_path) == [".mine.tmp", "step_00000001"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["save", "break", "restart"]), st.integers(1, 3)), max_size=12))
def test_the_newest_good_one_is_never_lost(tmp_path_factory, actions):
    """Any order of saves, damage and restarts, against a model that is a dictionary."""
    folder = tmp_path_factory.mktemp("checkpoints")
    good: dict[str, int] = {}
    bad: set[str] = set()
    spare, value, step = [], 0, 0
    for action, number in actions:
        if action == "save":
            value, step = value + 1, step + number
            place = save_checkpoint(folder, step, {"value": jnp.asarray(value)}, {}, keep=number, spare=spare)
            counted = [name for name in (*good, *bad) if folder / name not in spare] + [place.name]
            counted.sort(key=lambda name: [int(part) for part in name.split("_")[1:]], reverse=True)
            good[place.name] = value
            for name in counted[number:]:
                good.pop(name, None)
                bad.discard(name)
        elif action == "break" and len(good) > 1:
            name = list(good)[-1]
            with open(folder / name / "state.safetensors", "ab") as file:
                file.write(b"x")
            del good[name]
            bad.add(name)
        elif action == "restart" and good:
            spare = []
            found = read_checkpoint(folder, on_broken=lambda path, error, spare=spare: spare.append(path))
            assert found.folder.name == list(good)[-1]
            step, value = found.step, good[found.folder.name]
            assert int(found.restore({"value": jnp.asarray(0)})["value"]) == value
        assert sorted(path.name for path in folder.iterdir()) == sorted({*good, *bad})
