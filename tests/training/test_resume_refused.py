"""What a run can't resume from, and what is said then."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from training import (
    CheckpointError,
    Checkpoints,
    Run,
    adamw,
    fit,
    next_token_loss,
    read_checkpoint,
    save_checkpoint,
)

optimiser = adamw(3e-2, total_steps=30, schedule="constant", clip_norm=1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checkpoints": {"configuration": {"rate": 0.1, "new": 1}}}, "configuration.rate was None and is 0.1; "),
        (
            {"every": 2, "patience": 3},
            r"fit\.evaluation\.every was 4 and is 2; fit\.evaluation\.patience was 2 and is 3$",
        ),
        ({"steps": 20}, "fit.steps was None and is 20$"),
        ({"key": jax.random.key(2)}, r"key was \[0, 1\] and is \[0, 2\]$"),
        ({"batches": "other"}, "data.first batch was '[0-9a-f]{16}' and is '[0-9a-f]{16}'$"),
        ({"evaluate_on": "other"}, "data.first to evaluate on was"),
    ],
)
def test_another_run_is_refused_with_what_differs(train, make_batches, tmp_path, changed, message):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = {name: make_batches(3, seed=9) if value == "other" else value for name, value in changed.items()}
    with pytest.raises(ValueError, match=message) as caught:
        train(tmp_path, resume=True, **changed)
    assert not isinstance(caught.value, CheckpointError)
    assert str(max((tmp_path / "checkpoints").iterdir())) in str(caught.value)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.lock"}
    assert after == before


def test_another_model_is_refused_with_arguments_and_arrays(tmp_path, make_batches):
    class Wide(eqx.Module):
        size: int
        weight: jax.Array

        def __init__(self, size, *, key):
            self.size, self.weight = size, jax.random.normal(key, (11, size))

        def __call__(self, tokens, key=None):
            return jax.vmap(lambda t: self.weight @ self.weight[t])(tokens)

    def train(size, resume):
        plan = Checkpoints(folder=tmp_path, resume=resume)
        model, arguments = Wide(size, key=jax.random.key(0)), {"steps": 2, "key": jax.random.key(0)}
        fit(model, make_batches(2), next_token_loss, optimiser, checkpoints=plan, **arguments)

    train(4, False)
    train(4, True)
    with pytest.raises(CheckpointError, match=r"model\.arguments\.size was 4 and is 6; .*weight was float32.11, 4"):
        train(6, True)


def test_nothing_to_resume_from(train, tmp_path):
    with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*: it is not the folder of a run"):
        train(tmp_path, resume=True)
    Run("test", tmp_path / "run").log(1, {})
    with pytest.raises(CheckpointError, match=f"no usable checkpoint in {tmp_path / 'run' / 'checkpoints'}"):
        train(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"model\.pkl is a file, not the folder of a run .pickle files are"):
        Run("test", resume=pickled)
    with pytest.raises(ValueError, match="out must be new, empty or of an earlier run of other"):
        Run("other", resume=tmp_path / "run")
    with pytest.raises(ValueError, match="give either out or resume"):
        Run("test", tmp_path / "a", resume=tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", []),
        ("evaluated", "4"),
        ("evaluated", None),
        ("stopped_early", 0),
        ("seconds", {"total": "1"}),
        ("data", None),
        ("data", {"batches": -1, "iterator": None}),
        ("data", {"batches": 10**15, "iterator": None}),
        ("data", {"batches": 1}),
        ("data", {"batches": 1, "iterator": {"next_index": "one"}}),
        ("history", b"[1]\n"),
        ("history", b"\xff\n"),
        ("history", b"{"),
        ("history", None),
    ],
)
def test_a_checkpoint_that_fit_did_not_save(train, tmp_path, name, value):
    """One that verifies, and whose arrays fit, but that says what `fit` never says."""
    train(tmp_path / "run", patience=None, steps=2)
    found = read_checkpoint(tmp_path / "run" / "checkpoints")
    files = dict(found.files)
    info = found.info if name == "history" else {**found.info, name: value}
    if name == "history" and value is None:
        del files["history.jsonl"]
    elif name == "history":
        files["history.jsonl"] = value
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    state = {name: jnp.asarray(array) for name, array in found._arrays.items()}
    state["key"] = jax.random.wrap_key_data(state["key"])
    save_checkpoint(tmp_path / "run" / "checkpoints", 2, state, info, files=files)
    with pytest.raises(CheckpointError, match=r"step_00000002_2|not a position in the data|the data can't go to"):
        train(tmp_path / "run", resume=True, patience=None, steps=2)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
