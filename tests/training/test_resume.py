"""A run that resumes makes the very bits that it would have made without a break."""

import dataclasses
import json
import shutil
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.pipeline import pipeline
from tests.training.test_checkpoint import names, same_bits
from training import (
    CheckpointError,
    Checkpoints,
    Execution,
    NonFiniteError,
    Options,
    Run,
    RunFolderError,
    Sharding,
    adamw,
    fit,
    init_state,
    next_token_loss,
    read_checkpoint,
    save_checkpoint,
)
from training.saving.data_position import BatchStream, batch_digest

optimiser = adamw(3e-2, total_steps=30, schedule="constant", clip_norm=1.0)


def copied(folder, to, step):
    """A run's folder as it was when it died after a step: its files are further, its checkpoints are not."""
    shutil.copytree(folder, to, ignore=lambda _, files: [f for f in files if f.startswith("step_")])
    shutil.copytree(folder / "checkpoints" / step, to / "checkpoints" / step)


def assert_same(result, whole, folder, other):
    same_bits(result.state, whole.state)
    same_bits(result.model, whole.model)
    for name in ("history", "best_step", "best_value", "steps", "stopped_early"):
        assert getattr(result, name) == getattr(whole, name), name
    for file in ("metrics.jsonl", "samples.txt"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("patience", [None, 2])
def test_from_every_step_twice_in_a_row_zero_bits_differ(train, tmp_path, patience):
    """Three epochs, shuffled anew in each; evaluations in between, a carry, dropout, early stopping."""
    whole = train(tmp_path / "whole", patience=patience)
    assert whole.stopped_early == (patience is not None)
    assert (whole.best_step, whole.steps) == ((14, 14) if patience is None else (4, 12))
    steps = names(tmp_path / "whole" / "checkpoints")
    assert len(steps) == whole.steps + (whole.steps % 4 != 0)  # the last one twice: before and after an evaluation
    for step in steps:
        once, twice = tmp_path / f"{step}.1", tmp_path / f"{step}.2"
        copied(tmp_path / "whole", once, step)
        assert_same(train(once, resume=True, patience=patience), whole, once, tmp_path / "whole")
        later = names(once / "checkpoints")
        later = later[len(later) // 2]
        copied(once, twice, later)
        assert_same(train(twice, resume=True, patience=patience), whole, twice, tmp_path / "whole")


def test_any_batches_that_begin_anew_will_do(train, make_batches, tmp_path):
    """Not only Grain's: lists, and generators that are given anew."""
    batches = make_batches(9)
    whole = train(tmp_path / "whole", batches=batches, patience=None)
    for step in ("step_00000001", "step_00000005", "step_00000009"):
        for kind in (list, iter):
            folder = tmp_path / f"{step}{kind.__name__}"
            copied(tmp_path / "whole", folder, step)
            result = train(folder, resume=True, batches=kind(batches), patience=None)
            assert_same(result, whole, folder, tmp_path / "whole")


def test_resumes_from_a_state_that_was_not_new(train, tiny, tmp_path):
    """The position in the data is not the number of steps when `fit` began with a train state."""
    model = tiny(key=jax.random.key(0), dropout_p=0.2)
    state = init_state(model, optimiser, key=jax.random.key(1), carry=jnp.zeros(()))
    state = dataclasses.replace(state, step=jnp.asarray(100, jnp.int32))
    whole = train(tmp_path / "whole", model=state, patience=None)
    assert whole.steps == 114
    copied(tmp_path / "whole", tmp_path / "part", "step_00000105")
    part = train(tmp_path / "part", resume=True, model=state, patience=None)
    assert_same(part, whole, tmp_path / "part", tmp_path / "whole")


def test_other_learning_rates_are_another_run(train, tiny, tmp_path):
    """They come with the state, and would be those of the checkpoint without a word."""
    models = eqx.filter_vmap(lambda k: tiny(key=k))(jax.random.split(jax.random.key(0), 2))
    rates = np.array([1e-2, 1e-3], np.float32)
    train(tmp_path, model=models, ensemble_size=2, learning_rates=rates)
    with pytest.raises(ValueError, match=r"learning rates was .* and is "):
        train(tmp_path, resume=True, model=models, ensemble_size=2, learning_rates=2 * rates)


def test_an_ensemble_of_which_one_is_lost(train, tiny, make_batches, tmp_path, capsys):
    models = eqx.filter_vmap(lambda k: tiny(key=k))(jax.random.split(jax.random.key(0), 3))
    arguments = {
        "model": models,
        "ensemble_size": 3,
        "learning_rates": np.array([1e30, 1e-2, 1e-3], np.float32),
        "patience": None,
    }
    whole = train(tmp_path / "whole", **arguments)
    copied(tmp_path / "whole", tmp_path / "part", "step_00000006")
    part = train(tmp_path / "part", resume=True, **arguments)
    same_bits(part.state, whole.state)
    assert part.best_step == whole.best_step == [0, 14, 14]
    np.testing.assert_equal(part.history, whole.history)  # as equal as what is not a number can be
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("part", "whole")]
    assert metrics[0] == metrics[1]


def test_without_a_run_the_history_is_in_the_checkpoint(tiny, make_batches, tmp_path):
    model, batches = tiny(key=jax.random.key(0)), make_batches(6)
    plan = Checkpoints(folder=tmp_path, every=2)
    arguments = {"steps": 6, "key": jax.random.key(1)}
    whole = fit(model, batches, next_token_loss, optimiser, checkpoints=plan, **arguments)
    assert names(tmp_path) == ["step_00000004", "step_00000006"]
    shutil.rmtree(tmp_path / "step_00000006")
    plan = dataclasses.replace(plan, resume=True)
    part = fit(model, batches, next_token_loss, optimiser, checkpoints=plan, **arguments)
    same_bits(part.state, whole.state)
    assert part.history == whole.history
    assert part.seconds["total"] > 0


def test_how_often_is_saved(train, tmp_path, monkeypatch):
    train(tmp_path / "a", checkpoints={"every": 5}, patience=None)
    assert names(tmp_path / "a" / "checkpoints") == [f"step_{s:08d}" for s in (5, 10, 14)]
    # A tenth of the run by default, as long as that costs nothing worth mentioning.
    monkeypatch.setattr("training.saving.checkpointer._COST", 1e9)
    train(tmp_path / "b", checkpoints={"every": None}, patience=None, steps=30)
    assert names(tmp_path / "b" / "checkpoints") == [f"step_{s:08d}" for s in (3, 6, 9, 12, 14)]
    # With a budget that the first save has used up, there is only one more, at the end.
    monkeypatch.setattr("training.saving.checkpointer._COST", 1e-9)
    train(tmp_path / "c", checkpoints={"every": None}, patience=None, steps=30)
    assert names(tmp_path / "c" / "checkpoints") == [f"step_{s:08d}" for s in (3, 14)]
    with pytest.raises(ValueError, match="every must be at least 1 or None; got 0"):
        Checkpoints(folder=tmp_path, every=0)
    with pytest.raises(ValueError, match="keep must be at least 1 or None; got -1"):
        Checkpoints(folder=tmp_path, keep=-1)


def test_nothing_that_is_not_finite_is_saved(tiny, make_batches, tmp_path):
    """Not after a loss that is not a number, and not when loss and gradient are finite but a weight is not."""
    model, batches = tiny(key=jax.random.key(0)), make_batches(9)
    batches[6]["weights"][0, 0] = np.nan
    plan = Checkpoints(folder=tmp_path / "loss", every=1)
    with pytest.raises(NonFiniteError, match=r"^step 7: the loss is nan"):
        fit(model, batches, next_token_loss, optimiser, steps=9, key=jax.random.key(0), checkpoints=plan)
    assert names(plan.folder) == ["step_00000005", "step_00000006"]

    import optax

    for what, leaf, value in (
        ("a weight is not finite", "table", jnp.inf),
        ("the optimiser's state is not a number", "", jnp.nan),
        ("the carry is not a number", "", jnp.nan),
    ):

        def update(updates, state, params=None, what=what, value=value):
            bad = jax.tree.map(lambda u: jnp.full_like(u, jnp.where(state > 1, value, 0.0)), updates)
            grows = state * value if what.startswith("the opt") else state + 1
            return bad if what.startswith("a weight") else updates, grows

        def loss(model, batch, carry, key, what=what):
            sums, _ = next_token_loss(model, batch, None, key)
            return sums, carry * (jnp.nan if what.startswith("the carry") else 1)

        broken = optax.GradientTransformation(lambda params: jnp.ones(()), update)
        plan = Checkpoints(folder=tmp_path / what, every=1)
        state = init_state(model, broken, key=jax.random.key(0), carry=jnp.ones(()))
        with pytest.raises(NonFiniteError, match=rf"^step \d: {what}.*{leaf}"):
            fit(state, make_batches(9), loss, broken, steps=9, checkpoints=plan)
        for path in plan.folder.glob("*"):
            assert path.name == "step_00000001"


def test_the_position_of_a_stream(make_batches):
    batches = make_batches(5)
    rows = [{name: array[i] for name, array in batch.items()} for batch in batches for i in range(4)]
    for given in (lambda: batches, lambda: iter(batches), lambda: pipeline(rows, 4, seed=3, epochs=1)):
        for count in range(5):
            stream = BatchStream(given())
            digest = stream.first_digest()
            for _ in range(count):
                stream.next()
            position = json.loads(json.dumps(stream.position()))
            again = BatchStream(given())
            assert again.first_digest() == digest
            again.go_to(position)
            while (batch := stream.next()) is not None:
                other = again.next()
                assert other is not None
                assert batch_digest(other) == batch_digest(batch)
            assert again.next() is None
            assert again.count == stream.count == 5
    assert BatchStream([]).first_digest() is None
    short = BatchStream(batches[:2])
    with pytest.raises(CheckpointError, match="the data end after 2 batches, but 3 were read before"):
        short.go_to({"batches": 3, "iterator": None})
    for position in ({}, {"batches": "x", "iterator": None}, {"batches": None, "iterator": None}):
        with pytest.raises(CheckpointError, match="not a position in the data"):
            short.go_to(position)
    with pytest.raises(CheckpointError, match="the data can't go to"):
        BatchStream(pipeline(rows, 4, seed=3)).go_to({"batches": 1, "iterator": {"other": 1}})


def test_digests_tell_batches_apart():
    batch = {"a": np.arange(4, dtype=np.int32), "b": np.ones((2, 3), np.float32)}
    others = [
        {**batch, "a": np.arange(1, 5, dtype=np.int32)},
        {**batch, "a": np.arange(4, dtype=np.int64)},
        {**batch, "b": np.ones((3, 2), np.float32)},
        {"a": batch["a"], "c": batch["b"]},
        {"a": batch["a"]},
    ]
    digests = [batch_digest(b) for b in (batch, *others)]
    assert len(set(digests)) == len(digests)
    assert batch_digest({name: jnp.asarray(array) for name, array in batch.items()}) == digests[0]
    assert batch_digest({"b": np.asfortranarray(batch["b"]), "a": batch["a"]}) == digests[0]


def test_the_options_of_every_example(tmp_path):
    """`--resume` and `--save-every` reach `fit`; what can't change the outcome may change when a run resumes."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments(Options):
        rate: float = 0.1

    with pytest.raises(ValueError, match="--save-every must be at least 1; got 0"):
        Options(save_every=0)
    with pytest.raises(ValueError, match="give either --out or --resume"):
        Options(out=tmp_path, resume=tmp_path)
    run = Run("test", tmp_path / "run")
    one = Sharding.single()
    given = Arguments(out=tmp_path / "run", save_every=3, accumulate=1).fit_options(run, one, characters=7)
    assert (given.pop("run"), given.pop("execution")) == (run, Execution())
    first = given.pop("checkpoints")
    assert not given
    assert first == Checkpoints(
        folder=tmp_path / "run" / "checkpoints",
        every=3,
        configuration={"seed": 0, "smoke": False, "accumulate": 1, "precision": None, "rate": 0.1, "characters": 7},
    )
    again = Arguments(resume=tmp_path / "run", debug=True, devices=2, fsdp=True)
    again = again.fit_options(run, one, characters=7)["checkpoints"]
    assert again == dataclasses.replace(first, every=None, resume=True)
    assert Arguments(rate=0.2).fit_options(run, one)["checkpoints"].configuration["rate"] == 0.2
    half = Arguments(precision="float32", accumulate=2).fit_options(run, one, precision="bfloat16")["execution"]
    assert half == Execution(2, "float32")
    assert Arguments().fit_options(run, one, precision="bfloat16")["execution"] == Execution(1, "bfloat16")


@pytest.mark.slow  # so does the character RNN past a damaged checkpoint, in tests/examples/test_bad_inputs.py
def test_an_example_resumes(tmp_path, monkeypatch):
    """A whole example with its model file, from a checkpoint in the middle: the same bytes in every file."""
    from examples.sequence_tasks import Arguments, main

    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    small = {"task": "copy", "length": 3, "max_value": 5, "smoke": True, "steps": 6}
    main(Arguments(**small, out=tmp_path / "whole", save_every=2))
    copied(tmp_path / "whole", tmp_path / "part", "step_00000004")
    (tmp_path / "part" / "model.safetensors").unlink()
    main(Arguments(**small, resume=tmp_path / "part"))
    for file in ("model.safetensors", "metrics.jsonl", "samples.txt"):
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with pytest.raises(ValueError, match=r"configuration\.seed was 0 and is 1"):
        main(Arguments(**small, resume=tmp_path / "part", seed=1))


def test_more_steps_than_were_planned(train, tmp_path, monkeypatch):
    """The schedule is constant, so it is as if all of them had been planned."""
    whole = train(tmp_path / "whole", steps=8, patience=None)
    train(tmp_path / "part", steps=4, patience=None, checkpoints={"extensible": True})
    longer = {"steps": 8, "patience": None, "resume": True}
    with pytest.raises(ValueError, match=r"run of 4 steps, with which the schedule of .* can't go on to 8: begin a"):
        train(tmp_path / "part", **longer)
    with pytest.raises(ValueError, match=r"fit\.steps was 4 and is 3"):
        train(tmp_path / "part", **longer | {"steps": 3}, checkpoints={"extensible": True})
    part = train(tmp_path / "part", **longer, checkpoints={"extensible": True})
    assert_same(part, whole, tmp_path / "part", tmp_path / "whole")


def test_the_best_model_of_an_example_outlives_ctrl_c(tmp_path, monkeypatch, capsys):
    """And an example whose schedule has no end goes on for longer than was planned."""
    from examples import sequence_tasks
    from examples.sequence_tasks import Arguments, main

    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    small = {"preset": "seed", "task": "copy", "length": 3, "max_value": 5, "smoke": True}
    once = iter([signal.SIGINT])
    with monkeypatch.context() as patch:
        patch.setattr(sequence_tasks, "_verdict", lambda *row: str([signal.raise_signal(number) for number in once]))
        with pytest.raises(KeyboardInterrupt):
            main(Arguments(**small, steps=6, out=tmp_path / "run"))
    assert "stopped after step 1, which is saved" in capsys.readouterr().out
    answer = main(Arguments(checkpoint=tmp_path / "run/model.safetensors", prompt="0 1 2 3 0", max_new_tokens=3))
    assert len(answer["answer"]) == 3
    main(Arguments(**small, steps=6, resume=tmp_path / "run"))
    main(Arguments(**small, steps=8, resume=tmp_path / "run"))
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 8


def test_a_broken_checkpoint_is_passed_over_and_stays(train, tmp_path, capsys):
    whole = train(tmp_path / "whole")
    copied(tmp_path / "whole", tmp_path / "part", "step_00000003")
    for step in ("step_00000004", "step_00000005"):
        shutil.copytree(tmp_path / "whole" / "checkpoints" / step, tmp_path / "part" / "checkpoints" / step)
    broken = tmp_path / "part" / "checkpoints" / "step_00000005" / "state.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"\xff")
    part = train(tmp_path / "part", resume=True, checkpoints={"keep": 1})
    assert_same(part, whole, tmp_path / "part", tmp_path / "whole")
    assert "warning: passed over a broken checkpoint: sha256 mismatch in" in capsys.readouterr().err
    assert names(tmp_path / "part" / "checkpoints") == ["step_00000005", f"step_{whole.steps:08d}"]
    assert read_checkpoint(tmp_path / "part" / "checkpoints").step == whole.steps
    assert broken.read_bytes()[-1:] == b"\xff"


def test_a_new_run_in_an_old_folder_never_resumes_from_the_old_checkpoints(train, tmp_path):
    train(tmp_path)
    assert "step_00000008" in names(tmp_path / "checkpoints")
    Run("test", tmp_path, overwrite=True).path("model.safetensors")
    train(tmp_path, patience=None, steps=2)
    assert names(tmp_path / "checkpoints") == ["step_00000001", "step_00000002"]


def test_checkpoints_of_an_earlier_run_are_not_deleted_unasked(tiny, make_batches, tmp_path):
    """Also without a run folder around them."""

    def train(**options):
        plan = Checkpoints(folder=tmp_path, every=1, **options)
        fit(tiny(key=jax.random.key(0)), make_batches(2), next_token_loss, optimiser, steps=2, key=jax.random.key(1),
            checkpoints=plan)  # fmt: skip

    train()
    with pytest.raises(RunFolderError, match=r"checkpoints of an earlier run: .*resume=True, or replace it with o"):
        train()
    assert names(tmp_path) == ["step_00000001", "step_00000002"]
    train(resume=True)
    train(overwrite=True)


def test_seconds_are_those_of_all_processes(train, tmp_path):
    """Also those before `fit`, which the summary's total has."""
    train(tmp_path / "whole", patience=None)
    copied(tmp_path / "whole", tmp_path / "part", "step_00000008")
    found = read_checkpoint(tmp_path / "part" / "checkpoints")
    earlier = 10_000.0 + found.info["seconds"]["total"]
    info = {**found.info, "run_seconds": earlier}
    state = {name: jnp.asarray(array) for name, array in found._arrays.items()}
    state["key"] = jax.random.wrap_key_data(state["key"])
    save_checkpoint(tmp_path / "part" / "checkpoints", 8, state, info, files=found.files)
    train(tmp_path / "part", resume=True, patience=None)
    seconds = json.loads((tmp_path / "part" / "summary.json").read_text())["seconds"]
    assert seconds["total"] > earlier
    assert read_checkpoint(tmp_path / "part" / "checkpoints").info["run_seconds"] > earlier
    run = Run("test", resume=tmp_path / "part")
    run.restore({}, earlier)
    assert earlier < run.seconds() < earlier + 10_000
