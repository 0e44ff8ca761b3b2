"""Many devices, emulated in a process of their own: the numbers of one device, a part of its memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from training import Execution, Sharding, adamw, fit, init_state, make_step, next_token_loss
from zoo import TransformerLM, TransformerLMConfig

SCRIPT = Path(__file__).with_name("sharded_training.py")


def trained(steps, *names):
    command = [sys.executable, str(SCRIPT), str(steps), *names]
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(losses, *, first, all_of_them):
    """Every layout has the losses of one device, relatively, over ten steps and over all."""
    for name, values in losses.items():
        one = np.array(losses[name.split()[0] + " one"])
        difference = np.abs(np.array(values) - one) / one
        assert np.all(one > 0.1)
        assert difference[:10].max() < first, name
        assert difference.max() < all_of_them, name


def test_eight_devices_train_as_one_and_hold_an_eighth_each():
    out = trained(10, "TransformerLM")
    check(out["losses"], first=1e-5, all_of_them=1e-5)
    assert len(out["losses"]) == 3
    assert out["bytes data"] == out["bytes one"]
    assert out["bytes fsdp"] <= out["bytes one"] / 6
    assert out["whole data"]
    assert out["whole fsdp"]


@pytest.mark.slow
def test_eight_devices_train_every_kind_of_model_as_one():
    """And they write the same tokens as one; tests/sampling has that with fewer devices."""
    out = trained(50, "TransformerLM", "EncoderDecoder", "CharRNN", "accumulated", "written")
    assert len(out["losses"]) == 11
    check(out["losses"], first=1e-5, all_of_them=1e-4)
    assert out["written"]["devices"] == 8
    assert out["written"]["many"] == out["written"]["one"]


@pytest.mark.slow
@pytest.mark.parametrize("saving", [[], ["--sharded-saving"]])
def test_one_and_two_devices_resume_from_what_eight_saved(tmp_path, saving):
    script = SCRIPT.parents[2] / "examples" / "sequence_tasks.py"

    def run(*options):
        command = [sys.executable, str(script), "--smoke", "--steps", "40", "--save-every", "10", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]

    def losses(folder):
        records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [record["loss"] for record in records if "loss" in record]

    run("--devices", "8", "--fsdp", "--out", str(tmp_path / "8"), *saving)
    expected = losses(tmp_path / "8")
    shutil.rmtree(tmp_path / "8" / "checkpoints" / "step_00000040")
    for devices in ("1", "2"):
        shutil.copytree(tmp_path / "8", tmp_path / devices)
        run("--devices", devices, "--resume", str(tmp_path / devices))
        assert losses(tmp_path / devices) == pytest.approx(expected, rel=1e-4)
        assert losses(tmp_path / devices)[:30] == expected[:30]


def lm_batch(rows, length=8, vocab=16, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, length + 1)).astype(np.int32)
    weights = (np.arange(length)[None, :] < rng.integers(1, length + 1, (rows, 1))).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


@pytest.fixture(scope="module")
def model():
    config = TransformerLMConfig(vocab_size=16, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=8)
    return eqx.filter_jit(TransformerLM)(config, key=jax.random.key(0))


# Updates nothing, and keeps the gradient in its state.
KEEPS = optax.GradientTransformation(
    lambda params: params, lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates)
)


def test_a_gradient_in_parts_is_that_of_the_whole_however_unequal_the_parts(model):
    batch = lm_batch(64)
    assert len({batch["weights"][i::4].sum() for i in range(4)}) == 4
    gradients, sums = [], []
    for accumulate in (1, 4):
        step = make_step(next_token_loss, KEEPS, accumulate=accumulate)
        state = init_state(model, KEEPS, key=jax.random.key(1))
        state, report = step(batch, state)
        gradients.append(jax.tree.leaves(eqx.filter(state.opt_state, eqx.is_inexact_array)))
        sums.append(np.array(jax.tree.leaves(report.sums)))
    square = sum(float(np.sum(np.square(g))) for g in gradients[0])
    difference = sum(float(np.sum(np.square(np.subtract(a, b)))) for a, b in zip(*gradients, strict=True))
    assert (difference / square) ** 0.5 < 1e-6
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-6)


def test_parts_of_a_stream_keep_their_states():
    """Each row's carry comes back in its own place."""

    def loss(model, batch, carry, key):
        from training import Sums

        return Sums.of(jnp.sum(model["w"] * batch["x"] * carry), 1.0), carry + batch["x"]

    step = make_step(loss, adamw(0.1, total_steps=2), accumulate=3)
    x = np.arange(6, dtype=np.float32)
    state = init_state({"w": jnp.ones(())}, adamw(0.1, total_steps=2), key=jax.random.key(0), carry=jnp.full(6, 10.0))
    state, _ = step({"x": x}, state)
    np.testing.assert_array_equal(state.carry, 10 + x)


def test_parts_must_be_equal(model):
    with pytest.raises(ValueError, match="accumulate must divide the rows of a batch; got 3 parts of 4 rows"):
        fit(model, [lm_batch(4)], next_token_loss, adamw(0.1, total_steps=1), steps=1, key=jax.random.key(0),
            execution=Execution(3))  # fmt: skip
    with pytest.raises(ValueError, match="accumulate must be at least 1; got 0"):
        make_step(next_token_loss, adamw(0.1, total_steps=1), accumulate=0)


def test_an_ensemble_is_not_sharded():
    optimiser, batch = adamw(0.1, total_steps=1), lm_batch(4)
    state = init_state({"w": jnp.zeros((2, 3))}, optimiser, key=jax.random.key(0), ensemble_size=2)
    with pytest.raises(ValueError, match="either ensemble_size or sharding"):
        make_step(next_token_loss, optimiser, sharding=Sharding.over())(batch, state)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((6, 64, 24), (None, "data", None)), ((64, 64), (None, "data")), ((7, 63), ()), ((16, 8), ()), ((), ())],
)
def test_arrays_are_split_along_their_longest_axis_if_that_is_worth_it(shape, spec):
    class Eight(Sharding):
        num_devices = 8  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert Eight.over(fsdp=True).for_params(leaf).spec == PartitionSpec(*spec)
    assert Eight.over(fsdp=False).for_params(leaf).spec == PartitionSpec()


def test_bfloat16_is_close_and_leaves_weights_alone(model):
    losses = {}
    for precision in ("float32", "bfloat16"):
        result = fit(model, [lm_batch(16)] * 20, next_token_loss, adamw(1e-2, total_steps=20), steps=20,
                     key=jax.random.key(1), execution=Execution(precision=precision))  # fmt: skip
        losses[precision] = np.array([record["loss"] for record in result.history])
        assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(result.model, eqx.is_array))} == {
            jnp.dtype("float32")
        }
    assert losses["float32"][-1] < losses["float32"][0] - 0.1
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert np.any(losses["bfloat16"] != losses["float32"])
