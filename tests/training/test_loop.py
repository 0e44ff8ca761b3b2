import dataclasses
import json
import math
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import (
    Checkpoints,
    Evaluation,
    Execution,
    NonFiniteError,
    Run,
    SequenceToSequenceLoss,
    Sums,
    adamw,
    evaluate,
    fit,
    in_precision,
    init_state,
    next_token_loss,
)
from training.reporting.progress import PhaseTimer, ProgressBar
from training.shared_compilation import as_it_is_now


def numbers(tree):
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def equal(a, b, **tolerances):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerances)


optimiser = adamw(3e-2, total_steps=30, schedule="constant", clip_norm=1.0)


def misleading(batches):
    """Batches with other targets: the better a model gets at the real ones, the worse at these."""
    return [{**batch, "targets": (batch["inputs"] + 3) % 11} for batch in batches]


def test_learns_and_reports(tiny, make_batches, tmp_path, capsys):
    model, validation = tiny(key=jax.random.key(0)), make_batches(3, seed=1)
    run = Run("test", tmp_path / "out")
    seen, logged = [], []

    def on_eval(step, model, metrics):
        assert model.dropout.inference
        seen.append((step, metrics["loss"]))
        return f"answers after {step}"

    result = fit(
        model,
        make_batches(200),
        next_token_loss,
        optimiser,
        steps=150,
        key=jax.random.key(1),
        evaluation=Evaluation(validation, every=60, on_eval=on_eval),
        run=run,
        log=lambda step, figures: logged.append({"step": step, **figures}),
        log_every=40,
    )
    assert result.steps == 150
    assert not result.stopped_early
    assert not result.model.dropout.inference  # flags as they came
    assert [step for step, _ in seen] == [60, 120, 150]
    assert result.best_value < 0.5 < result.history[0]["loss"]
    figures = evaluate(result.model, validation, next_token_loss)
    assert figures["loss"] == pytest.approx(result.best_value, rel=1e-5)
    assert dict(seen)[result.best_step] == figures["loss"]
    assert figures["weight"] == sum(b["weights"].sum() for b in validation)

    lines = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    assert lines == result.history == logged
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 151))
    assert set(steps[0]) == {"step", "loss", "accuracy", "weight", "grad_norm"}
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [(e["step"], e["validation_loss"]) for e in evaluations] == seen
    timing = [json.loads(line) for line in run.path("timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == [40, 60, 80, 120, 150]
    assert "--- step 60\nanswers after 60\n" in run.path("samples.txt").read_text()

    printed = capsys.readouterr().out.splitlines()
    assert printed.count("answers after 120") == 1
    assert sum(line.startswith("step") for line in printed) == 5
    assert sum("validation loss" in line for line in printed) == 3
    assert result.seconds["total"] == pytest.approx(sum(result.seconds.values()) / 2, abs=1e-3)


def test_same_key_same_run_and_the_arguments_survive(tiny, make_batches):
    model, batches = tiny(key=jax.random.key(0), dropout_p=0.3), make_batches(5)
    before = numbers(model)
    runs = [fit(model, batches, next_token_loss, optimiser, steps=5, key=jax.random.key(k)) for k in (1, 1, 2)]
    assert runs[0].history == runs[1].history
    equal(runs[0].model, runs[1].model, rtol=0)
    assert runs[0].history != runs[2].history
    for x, y in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(x, y)
    assert runs[0].best_step is None


def test_continues_from_a_state(tiny, make_batches):
    model, batches = tiny(key=jax.random.key(0)), make_batches(6)
    evaluation = Evaluation(make_batches(1, seed=1), every=2)
    whole = fit(model, batches, next_token_loss, optimiser, steps=6, key=jax.random.key(1), evaluation=evaluation)
    half = fit(model, batches, next_token_loss, optimiser, steps=4, key=jax.random.key(1), evaluation=evaluation)
    rest = fit(half.state, batches[4:], next_token_loss, optimiser, steps=6, evaluation=evaluation)
    equal(rest.state, whole.state, rtol=0)
    assert half.history + rest.history == whole.history
    assert all(np.all(np.isfinite(x)) for x in numbers((half.model, half.state)))  # the first result is alive


def test_best_model_is_a_copy_that_later_steps_leave_alone(tiny, make_batches):
    """With validation data that contradict the training data, an early model is the best."""
    model, batches = tiny(key=jax.random.key(0)), make_batches(40)
    evaluation = Evaluation(misleading(make_batches(2, seed=1)), every=2)
    arguments = {"key": jax.random.key(1), "evaluation": evaluation}
    result = fit(model, batches, next_token_loss, optimiser, steps=40, **arguments)
    assert 2 <= result.best_step < 30
    short = fit(model, batches, next_token_loss, optimiser, steps=result.best_step, key=jax.random.key(1))
    equal(result.model, short.model, rtol=0)
    with pytest.raises(AssertionError):
        equal(result.last, result.model, rtol=1e-3)
    values = {e["step"]: e["validation_loss"] for e in result.history if "validation_loss" in e}
    assert min(values, key=values.__getitem__) == result.best_step


def test_patience_stops(tiny, make_batches):
    model, batches = tiny(key=jax.random.key(0)), make_batches(40)
    evaluation = Evaluation(misleading(make_batches(2, seed=1)), every=2, patience=3)
    arguments = {"key": jax.random.key(1), "evaluation": evaluation}
    result = fit(model, batches, next_token_loss, optimiser, steps=40, **arguments)
    assert result.stopped_early
    assert result.steps == result.best_step + 3 * 2
    assert len([e for e in result.history if "loss" in e]) == result.steps


def test_evaluation_is_of_the_whole_not_a_mean_of_means(tiny, make_batches):
    model = tiny(key=jax.random.key(0))
    batches = make_batches(3)
    batches[1]["weights"][:, 1:] = 0
    batches[2]["weights"] *= 0
    joined = jax.tree.map(lambda *x: np.concatenate(x), *batches)
    parts, whole = (evaluate(model, b, next_token_loss) for b in (batches, [joined]))
    assert parts["weight"] == whole["weight"]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert parts["accuracy"] == pytest.approx(whole["accuracy"], rel=1e-6)
    assert evaluate(model, lambda: iter(batches), next_token_loss) == parts  # a function gives them anew
    with pytest.raises(ValueError, match="the evaluation has 0 batches"):
        evaluate(model, [], next_token_loss)
    with pytest.raises(ValueError, match="nothing in the evaluation has a weight above 0"):
        evaluate(model, batches[2:], next_token_loss)


def test_ensemble_is_its_members(tiny, make_batches):
    keys, key = jax.random.split(jax.random.key(0), 3), jax.random.key(7)
    batches = make_batches(16)
    arguments = {"evaluation": Evaluation(misleading(make_batches(2, seed=1)), every=4), "steps": 16}
    models = eqx.filter_vmap(lambda k: tiny(key=k))(keys)
    rates = np.array([1e-3, 3e-2, 3e-1], np.float32)
    start = init_state(models, optimiser, key=key, ensemble_size=3, learning_rates=rates)
    ensemble = fit(start, batches, next_token_loss, optimiser, **arguments)
    assert len(set(ensemble.best_step)) > 1  # each keeps its own best
    for i, rate in enumerate(rates):
        model = jax.tree.map(lambda x, i=i: x[i] if eqx.is_array(x) else x, models)
        state = init_state(model, optimiser, key=jax.random.fold_in(key, i))
        opt_state = optax.tree_utils.tree_set(state.opt_state, learning_rate=jnp.asarray(rate))
        alone = fit(dataclasses.replace(state, opt_state=opt_state), batches, next_token_loss, optimiser, **arguments)
        assert alone.best_step == ensemble.best_step[i]
        assert alone.best_value == pytest.approx(ensemble.best_value[i], rel=1e-3)
        for mine, all_of_them in zip(alone.history, ensemble.history, strict=True):
            for name in mine.keys() - {"step"}:
                assert mine[name] == pytest.approx(all_of_them[name][i], rel=5e-3, abs=1e-3)
        for x, y in zip(numbers(alone.model), numbers(ensemble.model), strict=True):
            np.testing.assert_allclose(x, y[i], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("every", [2, 3])
def test_not_a_number_stops_with_step_and_leaf_and_the_best_survives(tiny, make_batches, tmp_path, every):
    model, batches = tiny(key=jax.random.key(0)), make_batches(9)
    batches[6]["weights"][0, 0] = np.nan
    evaluation = Evaluation(make_batches(1, seed=1), every=every)
    arguments = {"steps": 9, "key": jax.random.key(1), "evaluation": evaluation}
    run = Run("test", tmp_path / "out")
    with pytest.raises(NonFiniteError, match=r"^step 7: the loss is nan \(first in table\)$") as caught:
        fit(model, batches, next_token_loss, optimiser, run=run, **arguments)
    error = caught.value
    assert (error.step, error.what, error.leaf) == (7, "the loss is nan", "table")
    good = fit(model, batches, next_token_loss, optimiser, **{**arguments, "steps": 6})
    assert error.result.best_step == good.best_step == 6
    equal(error.result.model, good.model, rtol=0)
    steps = [r for r in error.result.history if "grad_norm" in r]
    assert [r["step"] for r in steps] == list(range(1, 8))
    lines = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 7
    assert lines[-1]["loss"] is None  # JSON has no nan


def test_gradient_that_is_not_finite_stops_though_the_loss_is(make_batches):
    def loss(model, batch, carry, key):
        return Sums.of(jnp.sqrt(model["b"]) + jnp.sum(model["a"]), 1.0), carry

    model = {"a": jnp.ones(2), "b": jnp.zeros(())}
    with pytest.raises(NonFiniteError, match=r"^step 1: the norm of the gradient is inf \(first in b\)$") as caught:
        fit(model, make_batches(3), loss, optax.sgd(0.1), steps=3, key=jax.random.key(0))
    assert caught.value.result.model is None  # nothing that could be used by mistake


def test_weight_that_is_not_finite_is_never_the_best(make_batches):
    """Loss and gradient are finite, but the update overflows a weight that the validation does not use."""

    def loss(model, batch, carry, key):
        return Sums.of(jnp.sum(model["used"] ** 2) + 0 * jnp.sum(jnp.minimum(model["unused"], 1.0)), 1.0), carry

    def overflow(updates, state, params=None):
        return {**updates, "unused": jnp.full(2, jnp.inf)}, state

    model = {"unused": jnp.ones(2), "used": jnp.ones(())}
    broken = optax.GradientTransformation(lambda params: (), overflow)
    with pytest.raises(NonFiniteError, match=r"^step 1: a weight is not finite \(first in unused\)$") as caught:
        fit(
            model,
            make_batches(3),
            loss,
            broken,
            steps=3,
            key=jax.random.key(0),
            evaluation=Evaluation(make_batches(1), every=1),
        )
    assert caught.value.result.best_step == 0  # the model it began with
    assert caught.value.result.model["unused"].tolist() == [1.0, 1.0]


def test_member_that_diverges_stops_nobody_else(tiny, make_batches, capsys):
    models = eqx.filter_vmap(lambda k: tiny(key=k))(jax.random.split(jax.random.key(0), 3))

    def train(rates):
        rates = np.array(rates, np.float32)
        state = init_state(models, optimiser, key=jax.random.key(0), ensemble_size=3, learning_rates=rates)
        evaluation = Evaluation(make_batches(2, seed=1), every=2)
        return fit(state, make_batches(6), next_token_loss, optimiser, steps=6, evaluation=evaluation)

    result = train([1e30, 1e-2, 1e-2])
    assert result.best_step == [0, 6, 6]
    assert not np.isfinite(result.history[-1]["validation_loss"][0])
    assert all(np.all(np.isfinite(x)) for x in numbers(result.model))
    assert capsys.readouterr().out.count("member 0 is not finite; the others continue") == 1
    with pytest.raises(NonFiniteError):
        train([1e30] * 3)


def test_carry_reaches_the_loss_and_evaluation_starts_from_its_own(make_batches):
    def loss(model, batch, carry, key):
        return Sums.of(model * carry, 1.0), carry + 1

    optimiser = optax.sgd(0.0)
    state = init_state(jnp.array(1.0), optimiser, key=jax.random.key(0), carry=jnp.array(10.0))

    def train(carry):
        evaluation = Evaluation(make_batches(3), carry=carry, every=2)
        return fit(state, make_batches(4), loss, optimiser, steps=4, evaluation=evaluation)

    result = train(jnp.array(0.0))
    losses = [r["loss"] for r in result.history if "loss" in r]
    assert losses == [10.0, 11.0, 12.0, 13.0]
    assert float(result.state.carry) == 14.0
    assert [r["validation_loss"] for r in result.history if "validation_loss" in r] == [1.0, 1.0]  # (0 + 1 + 2) / 3
    own = train(None)  # the one that training starts from
    assert [r["validation_loss"] for r in own.history if "validation_loss" in r] == [11.0, 11.0]


def test_only_what_is_trainable_changes_and_that_is_said_once(tiny, make_batches):
    model = tiny(key=jax.random.key(0))
    only_table = eqx.tree_at(lambda m: m.table, jax.tree.map(lambda _: False, model), True)
    state = init_state(model, optimiser, key=jax.random.key(0), trainable=only_table)
    result = fit(state, make_batches(3), next_token_loss, optimiser, steps=3)
    assert not np.array_equal(result.model.table, model.table)
    equal(result.model.mlp, model.mlp, rtol=0)


@pytest.mark.parametrize(
    ("steps", "evaluated"), [(3, [1, 2, 3]), (10, [*range(1, 11)]), (19, [*range(2, 20, 2), 19])]
)
def test_there_are_at_most_ten_evaluations_by_default(tiny, make_batches, steps, evaluated):
    arguments = {"key": jax.random.key(0), "evaluation": Evaluation(make_batches(1))}
    result = fit(
        tiny(key=jax.random.key(0)), make_batches(steps), next_token_loss, optimiser, steps=steps, **arguments
    )
    assert [r["step"] for r in result.history if "validation_loss" in r] == evaluated


def test_ends_where_the_data_end_and_evaluates_there(tiny, make_batches):
    model = tiny(key=jax.random.key(0))
    arguments = {"key": jax.random.key(0), "evaluation": Evaluation(make_batches(1), every=3)}
    result = fit(model, make_batches(5), next_token_loss, optimiser, steps=None, **arguments)
    assert result.steps == 5
    assert [r["step"] for r in result.history if "validation_loss" in r] == [3, 5]
    result = fit(model, make_batches(6), next_token_loss, optimiser, steps=100, **arguments)
    assert result.steps == 6
    assert [r["step"] for r in result.history if "validation_loss" in r] == [3, 6]


def test_wrong_arguments(tiny, make_batches):
    model, batches = tiny(key=jax.random.key(0)), make_batches(2)

    def refused(message, **arguments):
        with pytest.raises(ValueError, match=message):
            fit(model, batches, next_token_loss, optimiser, **{"steps": 2, "key": jax.random.key(0), **arguments})

    refused("steps must be at least 1; got 0", steps=0)
    refused("log_every must be at least 1; got 0", log_every=0)
    refused("Evaluation.every must be given when steps is None", steps=None, evaluation=Evaluation(batches))
    refused("key must be given", key=None)
    for message, options in (
        ("every must be at least 1; got -1", {"batches": batches, "every": -1}),
        ("patience must be at least 1; got 0", {"batches": batches, "patience": 0}),
        ("can be read only once", {"batches": iter(batches)}),
    ):
        with pytest.raises(ValueError, match=message):
            Evaluation(**options)
    state = init_state(model, optimiser, key=jax.random.key(0))
    with pytest.raises(ValueError, match="key must not be given with a TrainState"):
        fit(state, batches, next_token_loss, optimiser, steps=2, key=jax.random.key(0))
    with pytest.raises(ValueError, match="0 batches: there is nothing to train on"):
        fit(model, [], next_token_loss, optimiser, steps=2, key=jax.random.key(0))


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        progress = ProgressBar(4, PhaseTimer(), start=0, log_every=2, timing=None)
        for step in range(1, 5):
            progress.step(float(step))
            if step % 2 == 0:
                progress.line(step, "  validation loss 9.0000" if step == 4 else "")
        progress.close()
        out, err = capsys.readouterr()
        assert ("4/4" in err) == terminal
        assert ("step 2/4  loss 1.5000" in out) == (not terminal)  # the bar shows the loss already
        assert "step 4/4  loss 3.5000  validation loss 9.0000" in out


def test_a_line_is_due_by_steps_or_after_a_while():
    patient, soon = (
        ProgressBar(9, PhaseTimer(), start=0, log_every=3, patience=p, timing=None) for p in (math.inf, 0.0)
    )
    assert [patient.is_due(step) for step in (1, 2, 3)] == [False, False, True]
    assert [soon.is_due(step) for step in (1, 2, 3)] == [True, True, True]


def test_state_has_no_room_for_a_best_without_evaluation(tiny):
    state = init_state(tiny(key=jax.random.key(0)), optimiser, key=jax.random.key(0))
    assert state.best is None


def test_what_takes_long_is_said(capsys, monkeypatch):
    """At once here; by default after seconds of silence."""
    progress = ProgressBar(4, PhaseTimer(), start=0, log_every=2, timing=None)
    said = threading.Event()
    write = progress.write
    monkeypatch.setattr(progress, "write", lambda text: (write(text), said.set()))
    with progress.phase("compiling", patience=0.0):
        assert said.wait(60)
    with progress.phase("evaluating"):
        pass
    assert capsys.readouterr().out == "compiling ...\n"


class Scaled:
    """A loss that may change from one call to the next."""

    scale = 1.0

    def __call__(self, model, batch, carry, key):
        return Sums.of(self.scale * model["w"] ** 2 + 0 * jnp.sum(batch["x"]), 1.0), carry


def plain_loss(model, batch, carry, key):
    return Scaled()(model, batch, carry, key)


W, SGD, ROWS = {"w": jnp.ones(())}, optax.sgd(0.1), [{"x": np.ones(2, np.float32)}] * 5


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_loss_that_changed_is_compiled_anew(precision):
    loss, given = Scaled(), {"steps": 1, "key": jax.random.key(0), "execution": Execution(precision=precision)}
    for loss.scale in (1.0, 100.0):
        result = fit(W, ROWS, loss, SGD, evaluation=Evaluation(ROWS), **given)
        assert result.history[0]["loss"] == evaluate(W, ROWS, loss)["loss"] == loss.scale
        assert result.best_value == pytest.approx(loss.scale * float(result.model["w"]) ** 2, rel=0.02)


@pytest.mark.parametrize("loss", [plain_loss, SequenceToSequenceLoss(0.1), in_precision(plain_loss, "bfloat16")])
def test_a_loss_that_cannot_change_shares_what_is_compiled(loss):
    assert as_it_is_now(loss) is loss
    assert as_it_is_now(lambda *args: loss(*args)) != as_it_is_now(lambda *args: loss(*args))


def test_a_number_in_a_batch_compiles_nothing_anew():
    traces = []

    def loss(model, batch, carry, key):
        traces.append(key)
        return Sums.of(model["w"] * batch["by"] + jnp.sum(batch["x"]), 1.0), carry

    result = fit(W, [{**ROWS[0], "by": 0.5 * i} for i in range(3)], loss, SGD, steps=3, key=jax.random.key(0))
    assert len(traces) == 1
    assert [r["loss"] for r in result.history] == pytest.approx([2.0, 2.5, 2.95])


def test_a_frozen_mask_of_infinities_is_no_divergence(tmp_path):
    model = {**W, "mask": jnp.array([0.0, -jnp.inf])}
    state = init_state(model, SGD, key=jax.random.key(0), trainable={"w": True, "mask": False})
    evaluation, checkpoints = Evaluation(ROWS[:1], every=1), Checkpoints(folder=tmp_path)
    result = fit(state, ROWS, plain_loss, SGD, steps=2, evaluation=evaluation, checkpoints=checkpoints)
    assert result.best_step == 2
    other = init_state(model, SGD, key=jax.random.key(0), trainable={"w": True, "mask": True})
    with pytest.raises(ValueError, match=r"not trained was \['mask'\] and is \[\]"):
        fit(
            other, ROWS, plain_loss, SGD, steps=2, evaluation=evaluation,
            checkpoints=Checkpoints(folder=tmp_path, resume=True),
        )  # fmt: skip


def test_the_last_step_of_a_state_that_goes_on():
    state = fit(W, ROWS, plain_loss, SGD, steps=2, key=jax.random.key(0)).state
    with pytest.raises(ValueError, match="steps is the number of the last step, and the state has made 2; got 1"):
        fit(state, ROWS, plain_loss, SGD, steps=1)
    result = fit(state, ROWS, plain_loss, SGD, steps=2, evaluation=Evaluation(ROWS))
    assert (result.steps, result.best_step, len(result.history)) == (2, 2, 1)


def test_a_carry_that_begins_as_none_in_bfloat16():
    def loss(model, batch, carry, key):
        sums, _ = plain_loss(model, batch, None, key)
        return sums, jnp.ones(2) if carry is None else carry + 1

    result = fit(W, ROWS, loss, SGD, steps=3, key=jax.random.key(0), execution=Execution(precision="bfloat16"))
    assert result.state.carry.tolist() == [3.0, 3.0]
