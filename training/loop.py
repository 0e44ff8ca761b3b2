"""`fit`: steps, evaluations, the best model, early stopping, and a clear end when a number is not finite."""

import dataclasses
import signal
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray, PyTree

from training.allocator import keep_freed_memory
from training.batch_stream import BatchStream
from training.bookkeeping import Book
from training.evaluation import Batches, evaluate, readable
from training.identity import identify
from training.losses import Batch, Carry, Loss
from training.non_finite import NonFiniteError
from training.precision import Precision, in_precision
from training.processes import Agreement, check_alike, watched
from training.progress import Clock, Progress
from training.resume import Checkpoints, Progressed, Saver
from training.run import Run
from training.sharding import Sharding
from training.state import Trainable, TrainState, copy_arrays, first_best, init_state, keep_best
from training.step import make_step
from training.stop_signals import StopSignals

keep_freed_memory()  # not in `fit`: XLA's threads start with the first computation, which may be the model's making

OnEval = Callable[[int, Any, dict[str, Any]], str | None]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What came out of a run.

    Attributes:
        model: the best model if there was an evaluation, else the last one. With the mode flags it came with.
        last: the model after the last step.
        state: the state after the last step.
        history: one dictionary for each step and each evaluation, the lines of `metrics.jsonl`.
        best_step: the step that made the best model; a list for an ensemble; None without evaluation.
        best_value: its validation loss; a list for an ensemble; None without evaluation.
        stopped_early: whether patience ended the run.
        steps: number of steps made in all.
        seconds: `total`, and of it `compile` (the first step), `data` (waiting), `evaluate`, `save` and `train`.
    """

    model: Any
    last: Any
    state: TrainState
    history: list[dict[str, Any]]
    best_step: Any
    best_value: Any
    stopped_early: bool
    steps: int
    seconds: dict[str, float]


def fit(
    model: PyTree,
    batches: Iterable[Batch],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int | None,
    key: PRNGKeyArray | None = None,
    evaluation: Batches | None = None,
    evaluation_loss: Loss | None = None,
    eval_every: int | None = None,
    patience: int | None = None,
    run: Run | None = None,
    on_eval: OnEval | None = None,
    members: int | None = None,
    learning_rates: Float[np.ndarray, " members"] | None = None,
    carry: Carry = None,
    evaluation_carry: Carry = None,
    log_every: int | None = None,
    trainable: Trainable = eqx.is_inexact_array,
    checkpoints: Checkpoints | None = None,
    accumulate: int = 1,
    precision: Precision | None = None,
    sharding: Sharding | None = None,
) -> FitResult:
    """Train a model, or an ensemble of them at once, and keep the best.

    The arguments survive: everything that a step donates is a copy. All members of an ensemble see the same
    batches; member i draws from `fold_in(key, i)`, every value becomes a list, each keeps its own best, and
    one that is no longer finite stops the run only when all are.

    Args:
        model: any pytree that `loss` takes (for an ensemble with a leading axis of `members` on every array,
            as `eqx.filter_vmap(make_model)(keys)` makes it), or a `TrainState` to go on from.
        batches: pytrees of arrays of one shape; `steps` of them are read.
        loss: (model, batch, carry, key) -> (sums, carry).
        optimiser: an Optax transformation.
        steps: the number of the last step, at least 1; None for as long as there are batches.
        key: source of all randomness; needed unless a `TrainState` brings its own.
        evaluation: batches to measure the validation loss on, read whole each time.
        evaluation_loss: the loss for it; None for `loss`.
        eval_every: steps between evaluations (there is one at the end, too); None for a tenth of `steps`.
        patience: stop when so many evaluations in a row brought no better validation loss; None for never.
        run: where metrics, times and samples are written.
        on_eval: called after each evaluation with the step, the model in inference mode and the evaluation's
            figures. A text that it returns is shown and added to `samples.txt`. It must not keep the model,
            whose buffers the next step reuses.
        members: size of an ensemble; None for a single model.
        learning_rates: one for each member, as for `init_state`.
        carry: the loss's carry before the first batch.
        evaluation_carry: the same for an evaluation; None for `carry`.
        log_every: steps between plain lines; None for a twentieth of `steps`.
        trainable: which leaves of the model are trained.
        checkpoints: where and how often to save, and whether to go on from there; None for neither. On a CPU a run
            that goes on makes the very numbers that it would have made without a break; all arguments are given
            anew, `batches` from their beginning. While `fit` saves, SIGTERM and Ctrl-C do what they always do only
            after the step is done and saved; a second one does it at once.
        accumulate: parts that each batch is worked off in, as for `train_step`.
        precision: what the model computes in, see `training.precision`; None for its own types.
        sharding: the devices to train on; None for one. Each process of several runs the same program, brings its
            part of each batch, equally often, and gets the same result; `on_eval` and the result have models that lie
            whole on one device, and the first process alone writes.

    Raises:
        ValueError: an argument is out of its range, there are 0 batches, or the run to go on from is another one.
        ProcessLostError: another process of this run is gone.
        CheckpointError: nothing to go on from, or a checkpoint can't be written.
        NonFiniteError: a loss, gradient, weight or validation loss is not finite. The result so far, with the
            best model before it, is in the error's `result`.
    """
    _check_arguments(steps, eval_every, patience, log_every, evaluation, on_eval)
    eval_every = eval_every or max((steps or 0) // 10, 1)
    log_every = log_every or max((steps or 2000) // 20, 1)
    if isinstance(model, TrainState):
        state = copy_arrays(model)
    elif key is None:
        raise ValueError("key must be given; only a TrainState brings its own")
    else:
        state = init_state(
            model,
            optimiser,
            key=key,
            carry=carry,
            members=members,
            learning_rates=learning_rates,
            trainable=trainable,
            sharding=sharding,
        )
    if evaluation is not None and state.best is None:
        state = dataclasses.replace(state, best=first_best(state.model, members))
    evaluation_carry = copy_arrays(carry if evaluation_carry is None else evaluation_carry)
    if sharding is not None:
        state, evaluation_carry = sharding.place_state(state), sharding.place(evaluation_carry, sharding.of_rows)
    loss, evaluation_loss = in_precision(loss, precision), in_precision(evaluation_loss or loss, precision)

    stream, clock = BatchStream(batches, sharding), Clock()
    done = Progressed(int(np.max(state.step)), False, [], {})
    saver = None
    if checkpoints is not None:
        with clock("data"):
            arguments = {
                "steps": steps, "eval_every": eval_every, "patience": patience, "members": members,
                "learning_rates": learning_rates, "accumulate": accumulate, "precision": precision,
            }  # fmt: skip
            identity = identify(checkpoints.configuration, state, stream, evaluation, arguments)
        saver = Saver(checkpoints, identity, steps, run, members)
        if checkpoints.resume:
            state, done = saver.resume(state, stream)
            check_alike(int(np.max(state.step)), "the newest checkpoint")
            state = state if sharding is None else sharding.place_state(state)
            clock.add(done.seconds)

    start = step = int(np.max(state.step))
    progress = Progress(steps, clock, start=start, log_every=log_every, timing=run.timing if run else None)
    book = Book(state, trainable, run, progress, done.history)
    if checkpoints is not None and checkpoints.resume:
        progress.write(f"going on after step {step}")
    one_step = make_step(
        loss, optimiser, members=members, trainable=trainable, accumulate=accumulate, sharding=sharding
    )
    agreement = Agreement(sharding) if sharding is not None and jax.process_count() > 1 else None
    try:
        with StopSignals(active=saver is not None) as signals, watched():
            while not done.stopped_early:
                with clock("data"):
                    batch = stream.next() if steps is None or step < steps else None
                    if batch is not None and sharding is not None:
                        batch = sharding.rows(batch)
                if batch is not None:
                    with clock("compile" if step == start else "train"):
                        state, report = one_step(batch, state)
                        if step == start:
                            jax.block_until_ready(report)
                    step += 1
                    book.add(step, report)  # reads the step before, while the device computes this one
                elif not stream.count and step != steps:
                    raise ValueError("0 batches: there is nothing to train on")
                # Evaluate now and then, and once more when there are no more steps to make.
                if evaluation is not None and step > done.evaluated and (batch is None or step % eval_every == 0):
                    book.read(line=False)
                    with clock("evaluate"):
                        figures = evaluate(
                            state.model,
                            evaluation,
                            evaluation_loss,
                            carry=evaluation_carry,
                            members=members,
                            sharding=sharding,
                        )
                        state, better, finite = keep_best(np.asarray(figures["loss"], np.float32), state, sharding)
                    book.evaluated(step, figures, np.asarray(better), np.asarray(finite))
                    with clock("evaluate"):
                        text = None
                        if on_eval is not None:
                            text = on_eval(step, eqx.nn.inference_mode(_whole(state.model, sharding)), figures)
                    if text:
                        progress.write(text)
                        if run is not None:
                            run.sample(step, text)
                    assert state.best is not None
                    waited = step - np.asarray(state.best.step)
                    done.evaluated = step
                    done.stopped_early = patience is not None and bool(np.all(waited >= patience * eval_every))
                ended = batch is None or done.stopped_early
                # Asked once: a signal may come at any time.
                stop, due = signals.received is not None, saver is not None and saver.due(step)
                if agreement is not None:
                    stop, due = agreement((stop, due))
                    signals.received = signals.received or (signal.SIGTERM if stop else None)
                stopping = ended or stop
                if stopping:
                    book.read()
                    progress.line(step)
                if saver is not None and (stopping or due):
                    book.read()
                    with clock("save"):
                        done.seconds = clock.seconds()
                        saver.save(step, state, stream, done)
                if stopping:
                    break
            if saver is not None:
                with clock("save"):
                    saver.finish()
            if signals.received is not None:
                progress.write(f"stopped after step {step}, which is saved")
            signals.deliver()
    except NonFiniteError as error:
        if saver is not None:
            saver.finish()
        so_far = _result(state, step, book, clock, False, sharding)
        error.result = so_far if state.best is not None else dataclasses.replace(so_far, model=None)
        raise
    finally:
        progress.close()
    return _result(state, step, book, clock, done.stopped_early, sharding)


def _whole(model: Any, sharding: Sharding | None) -> Any:
    return model if sharding is None else sharding.whole(model)


def _result(
    state: TrainState, step: int, book: Book, clock: Clock, stopped_early: bool, sharding: Sharding | None
) -> FitResult:
    best = state.best
    last = _whole(state.model, sharding)
    return FitResult(
        model=last if best is None else _whole(best.model, sharding),
        last=last,
        state=state,
        history=book.history,
        best_step=None if best is None else np.asarray(best.step).tolist(),
        best_value=None if best is None else readable(np.asarray(best.value)),
        stopped_early=stopped_early,
        steps=step,
        seconds=clock.seconds(),
    )


def _check_arguments(
    steps: int | None,
    eval_every: int | None,
    patience: int | None,
    log_every: int | None,
    evaluation: Batches | None,
    on_eval: OnEval | None,
) -> None:
    numbers = {"steps": steps, "eval_every": eval_every, "patience": patience, "log_every": log_every}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}")
    if evaluation is None:
        if eval_every or patience or on_eval:
            raise ValueError("eval_every, patience and on_eval need an evaluation")
    elif not callable(evaluation) and iter(evaluation) is evaluation:
        raise ValueError(
            "evaluation is an iterator, which can be read only once; pass a list, a data set, or a function "
            "that gives one"
        )
    elif eval_every is None and steps is None:
        raise ValueError("eval_every must be given when steps is None")
