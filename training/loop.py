"""`fit`: steps, evaluations, the best model, early stopping, and a clear end when a number is not finite."""

import dataclasses
import math
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from training.devices.execution import Execution
from training.devices.precision import in_precision
from training.devices.processes import AnyProcess, watched
from training.devices.sharding import Sharding
from training.errors import NonFiniteError
from training.evaluation import Evaluation, Evaluator, check_counts
from training.launch.allocator import keep_freed_memory
from training.launch.stop_signals import StopSignals
from training.losses import Batch, Loss, readable
from training.reporting.progress import PhaseTimer, ProgressBar
from training.reporting.recorder import Log, MetricsRecorder
from training.reporting.run import Run
from training.saving.checkpointer import Checkpointer, Checkpoints
from training.saving.data_position import BatchStream
from training.state import FitResult, LoopState, TrainState, copy_arrays, init_state, with_best
from training.step import make_step

keep_freed_memory()  # not in `fit`: XLA's threads start with the first computation, which may be the model's making


def fit(
    model: PyTree | TrainState,
    batches: Iterable[Batch],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    steps: int | None,
    key: PRNGKeyArray | None = None,
    evaluation: Evaluation | None = None,
    execution: Execution | None = None,
    checkpoints: Checkpoints | None = None,
    run: Run | None = None,
    log: Log | None = None,
    log_every: int | None = None,
) -> FitResult:
    """Train a model, or an ensemble of them at once, and keep the best.

    The arguments survive: everything that a step donates is a copy. All members of an ensemble see the same
    batches; member i draws from `fold_in(key, i)`, every value becomes a list, each keeps its own best, and
    one that is no longer finite stops the run only when all are.

    Args:
        model: any pytree that `loss` takes; or a `TrainState`, to continue from, or as `init_state` makes it for
            whatever is more than a model and a key: a carry, an ensemble, leaves that are not trained. A state brings
            along the number of steps made, the optimiser's state, the carry, its key, and the best model with its
            validation loss, which is compared with those to come even if they are of other data: for other validation
            data replace `best` by None (`dataclasses.replace(state, best=None)`).
        batches: pytrees of arrays of one shape; `steps` of them are read.
        loss: (model, batch, carry, key) -> (sums, carry). What a function finds in globals is read once for all calls
            of `fit` and `evaluate`, as by `jax.jit`; one that closes over something, or an object that may change, is
            compiled anew by each of them.
        optimiser: an Optax transformation.
        steps: the number of the last step, at least 1; None for as long as there are batches.
        key: source of all randomness; a `TrainState` brings its own.
        evaluation: what to measure the validation loss on, and how often; None for never.
        execution: micro-batches, precision and devices; None for whole batches, the model's own types and one device.
        checkpoints: where and how often to save, and whether to resume from there; None for neither. On a CPU a run
            that resumes makes the very numbers that it would have made without a break; all arguments are given
            anew, `batches` from their beginning; optimiser and loss are not compared with those before. While `fit`
            saves, SIGTERM and Ctrl-C do what they always do only after the step is done and saved; a second one does
            it at once.
        run: where metrics, times and samples are written.
        log: called as log(step, figures) after every step and every evaluation, whose figures are named
            `validation_...`, in each process: for TensorBoard, Weights & Biases and the like.
        log_every: steps between plain lines; None for a twentieth of `steps`, or half a minute where that is sooner.

    Returns:
        The best model, the last state, and all that was measured.

    Raises:
        ValueError: an argument is out of its range, there are 0 batches, or the run to resume is another one.
        TypeError: a loss or a batch that is none.
        ProcessLostError: another process of this run is gone.
        CheckpointError: there is nothing to resume from, or a checkpoint can't be written.
        NonFiniteError: a loss, gradient, weight or validation loss is not finite. The result so far, with the
            best model before it, is in the error's `result`.

    Example:
        >>> import jax.numpy as jnp
        >>> from training import Sums
        >>> def squared_error(model, batch, carry, key):
        ...     return Sums.of(jnp.sum((model["w"] * batch["x"] - batch["y"]) ** 2), batch["x"].size), carry
        >>> batches = [{"x": np.array([1.0, 2.0]), "y": np.array([3.0, 6.0])}] * 20
        >>> seen = []
        >>> result = fit(  # doctest: +ELLIPSIS
        ...     {"w": jnp.zeros(())},
        ...     batches,
        ...     squared_error,
        ...     optax.sgd(0.1),
        ...     steps=20,
        ...     key=jax.random.key(0),
        ...     evaluation=Evaluation(batches[:1], every=10),
        ...     log=lambda step, figures: seen.append(step),
        ... )
        step  1/20  loss ...
        >>> round(float(result.model["w"]), 3), result.best_step, len(seen)
        (3.0, 20, 22)
    """
    check_counts(steps=steps, log_every=log_every)
    execution = execution or Execution()
    sharding, timer = execution.sharding, PhaseTimer()
    state = _first_state(model, optimiser, key, sharding)
    evaluator = None
    if evaluation is not None:
        validation_loss = in_precision(evaluation.loss or loss, execution.precision)
        evaluator = Evaluator(evaluation, state, validation_loss, steps, sharding)
        state = sharding.put_state(with_best(state))
    stream, checkpointer = BatchStream(batches, sharding), Checkpointer(checkpoints, run, steps)
    with timer("data"):
        options = {
            "steps": steps,
            "evaluation": evaluator and {"every": evaluator.every, "patience": evaluator.patience},
            "execution": {"accumulate": execution.accumulate, "precision": execution.precision},
        }
        state, loop = checkpointer.start(state, stream, evaluation, options)
    if steps is not None and steps < loop.step:
        raise ValueError(f"steps is the number of the last step, and the state has made {loop.step}; got {steps}")
    timer.add(loop.seconds)
    state = sharding.put_state(state)

    first = loop.step
    progress = ProgressBar(
        steps, timer, start=first, log_every=log_every or max((steps or 2000) // 20, 1),
        patience=math.inf if log_every else 30.0, timing=run.timing if run else None,
    )  # fmt: skip
    recorder = MetricsRecorder(state, progress, loop.history, run, log)
    if checkpointer.resumed:
        progress.write(f"resumed after step {first}")
    train_loss = in_precision(loss, execution.precision)
    one_step = make_step(train_loss, optimiser, accumulate=execution.accumulate, sharding=sharding)
    any_process = AnyProcess(sharding)

    def result() -> FitResult:
        checkpointer.finish()
        return _result(state, loop, timer, sharding)

    with closing(progress), _adding(result), StopSignals(active=checkpoints is not None) as signals, watched():
        while not loop.stopped_early:
            with timer("data"):
                batch = stream.next() if steps is None or loop.step < steps else None
            if batch is not None:
                compiles = loop.step == first
                with (
                    timer("compile" if compiles else "train"),
                    progress.phase("compiling") if compiles else nullcontext(),
                ):
                    state, report = one_step(batch, state)
                    report = jax.block_until_ready(report) if compiles else report
                loop.step += 1
                recorder.add(loop.step, report, batch)  # reads the step before, while the device computes this one
            elif not stream.count and loop.step != steps:
                raise ValueError("0 batches: there is nothing to train on")

            if evaluator is not None and evaluator.due(loop, ended=batch is None):
                recorder.read(line=False)
                with timer("evaluate"), progress.phase("evaluating"):
                    state, figures, better, finite = evaluator.evaluate(state)
                recorder.evaluated(loop.step, figures, better, finite, evaluator.batches())
                with timer("evaluate"), progress.phase("sampling"):
                    recorder.sample(loop.step, evaluator.sample(loop.step, state, figures))
                loop.evaluated, loop.stopped_early = loop.step, evaluator.out_of_patience(loop.step, state)

            # Asked once: a signal may come at any time.
            stop, save = any_process((signals.received is not None, checkpointer.due(loop.step)))
            if stop:
                signals.received = signals.received or signal.SIGTERM
            stop = stop or batch is None or loop.stopped_early
            if stop:
                recorder.read()
                progress.line(loop.step)
                if batch is None and steps is not None and loop.step < steps:
                    progress.write(f"the batches ended after {loop.step} of {steps} steps")
            if stop or save:
                recorder.read()
                with timer("save"):
                    loop.seconds = timer.seconds()
                    checkpointer.save(state, stream, loop)
            if stop:
                break
        with timer("save"):
            checkpointer.finish()
        if signals.received is not None:
            progress.write(f"stopped after step {loop.step}, which is saved")
        with _noting(run):
            signals.deliver()
    return result()


@contextmanager
def _noting(run: Run | None) -> Iterator[None]:
    """Puts the option that resumes a run into the note of what stops it, for the command line's last words."""
    try:
        yield
    except BaseException as stop:
        if run is not None:
            stop.add_note(f"--resume {shlex.quote(str(run.folder))}")
        raise


@contextmanager
def _adding(result: Callable[[], FitResult]) -> Iterator[None]:
    """Puts the result so far into the error that ends a run; a model that was never evaluated is not one to use."""
    try:
        yield
    except NonFiniteError as error:
        so_far = result()
        error.result = so_far if so_far.state.best is not None else dataclasses.replace(so_far, model=None)
        raise


def _first_state(model: Any, optimiser: Any, key: PRNGKeyArray | None, sharding: Sharding) -> TrainState:
    if isinstance(model, TrainState):
        if key is not None:
            raise ValueError("key must not be given with a TrainState, which brings its own")
        return sharding.put_state(copy_arrays(model))
    if key is None:
        raise ValueError("key must be given; only a TrainState brings its own")
    return init_state(model, optimiser, key=key, sharding=sharding)


def _result(state: TrainState, loop: LoopState, timer: PhaseTimer, sharding: Sharding) -> FitResult:
    best = state.best
    last = sharding.gather(state.model)
    return FitResult(
        model=last if best is None else sharding.gather(best.model),
        last=last,
        state=state,
        history=loop.history,
        best_step=None if best is None else np.asarray(best.step).tolist(),
        best_value=None if best is None else readable(np.asarray(best.value)),
        stopped_early=loop.stopped_early,
        steps=loop.step,
        seconds=timer.seconds(),
    )
