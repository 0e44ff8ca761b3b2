"""Evaluation: exact sums over all batches, with the model in inference mode and without a key."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, PyTree

from training.batches import as_arrays, check_batch, check_batches
from training.devices.sharding import Sharding
from training.losses import Batch, Carry, Loss, Sums, call_loss, means
from training.saving.fingerprint import data_fingerprint
from training.shared_compilation import as_it_is_now
from training.state import LoopState, TrainState, check_ensemble, copy_arrays, keep_best, member

Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]
"""Something that can be read again and again (a list, a Grain data set), or a function that gives it."""
_NO_BATCHES = "the evaluation has 0 batches"
OnEval = Callable[[int, Any, dict[str, Any]], str | None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `fit` measures the validation loss on, how often, and what follows from it.

    Attributes:
        batches: read whole each time.
        loss: the loss to measure; None for the one that is trained on.
        carry: its carry before the first batch, for an ensemble one member's; None for the one that training starts
            from.
        every: steps between evaluations (there is one at the end, too); None for a tenth of the steps,
            rounded up: so there are never more than ten.
        patience: stop when so many evaluations in a row brought no better validation loss; None for never.
        on_eval: called after each evaluation with the step, the model in inference mode and the evaluation's
            figures. A text that it returns is shown and added to `samples.txt`. It must not keep the model,
            whose buffers the next step reuses.
        on_best: called with the best model whenever there is a better one (of an ensemble: with the best of each
            member, when one of them is better), in each process, to save it: whatever ends the run, it is there. It
            must not keep the model, either.

    Raises:
        ValueError: a number below 1, or batches that can be read only once.
        TypeError: a number that is not whole, or one batch in the place of many.
    """

    batches: Batches
    loss: Loss | None = None
    carry: Carry = None
    every: int | None = None
    patience: int | None = None
    on_eval: OnEval | None = None
    on_best: Callable[[Any], None] | None = None

    def __post_init__(self):
        check_counts(every=self.every, patience=self.patience)
        check_batches(self.batches)
        if not callable(self.batches) and iter(self.batches) is self.batches:
            raise ValueError(
                "batches to evaluate on are an iterator, which can be read only once; pass a list, a data set, or a "
                "function that gives one"
            )

    def fingerprint(self) -> str:
        """What tells all of the batches from others; those that a function gives one by one are read."""
        batches: Any = self.batches() if callable(self.batches) else self.batches
        return data_fingerprint(list(map(data_fingerprint, batches)) if iter(batches) is batches else batches)

    def first(self) -> Batch | None:
        """The first of the batches; None if there are none."""
        return next(iter(self.batches() if callable(self.batches) else self.batches), None)


def check_counts(**counts: int | None) -> None:
    """Raises `TypeError` or `ValueError` unless each is None or a whole number of at least 1."""
    for name, number in counts.items():
        if number is not None and not isinstance(number, int | np.integer):
            raise TypeError(f"{name} must be a whole number; got {number!r}")
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}")


class Evaluator:
    """Evaluates while `fit` trains: knows when, keeps the best model, and says when patience is over.

    Args:
        evaluation: what to evaluate.
        state: before training.
        loss: as it is computed, in whatever precision.
        steps: the number of the last step, or None if that is not known.
        sharding: where the state lies.
    """

    def __init__(self, evaluation: Evaluation, state: TrainState, loss: Loss, steps: int | None, sharding: Sharding):
        if evaluation.every is None and steps is None:
            raise ValueError("Evaluation.every must be given when steps is None")
        if not callable(evaluation.batches) and evaluation.first() is None:  # a function may give the same only once
            raise ValueError(_NO_BATCHES)
        self._evaluation, self._loss, self._sharding = evaluation, as_it_is_now(loss), sharding
        self.every = evaluation.every or -(-(steps or 10) // 10)
        self.patience = evaluation.patience
        carry = member(state.carry, 0, state.ensemble_size) if evaluation.carry is None else evaluation.carry
        self._carry = sharding.put(copy_arrays(carry), sharding.for_batch)

    def due(self, loop: LoopState, *, ended: bool) -> bool:
        """Whether to evaluate now: every so many steps, and once more when there are no more steps to make."""
        return loop.step > loop.evaluated and (ended or loop.step % self.every == 0)

    def evaluate(
        self, state: TrainState
    ) -> tuple[TrainState, dict[str, Any], Bool[Array, "*ensemble"], Bool[Array, "leaves *ensemble"]]:
        """Measure the state's model, and keep the best one.

        Args:
            state: donated.

        Returns:
            The state, the figures of `evaluate`, and as for `keep_best` whether the model is the best and which of
            its arrays are finite.
        """
        figures = evaluate(
            state.model,
            self._evaluation.batches,
            self._loss,
            carry=self._carry,
            ensemble_size=state.ensemble_size,
            sharding=self._sharding,
        )
        state, better, finite = keep_best(np.asarray(figures["loss"], np.float32), state, self._sharding)
        if self._evaluation.on_best is not None and np.any(better):
            assert state.best is not None
            self._evaluation.on_best(self._sharding.gather(state.best.model))
        return state, figures, better, finite

    def batches(self) -> Iterable[Batch]:
        """What is evaluated on, from its beginning."""
        return self._evaluation.batches() if callable(self._evaluation.batches) else self._evaluation.batches

    def sample(self, step: int, state: TrainState, figures: dict[str, Any]) -> str | None:
        """What the user's `on_eval` says of the model."""
        if self._evaluation.on_eval is None:
            return None
        text = self._evaluation.on_eval(step, self._sharding.gather(eqx.nn.inference_mode(state.model)), figures)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"on_eval must return a text or None; it returned a {type(text).__name__}")
        return text

    def out_of_patience(self, step: int, state: TrainState) -> bool:
        """Whether so many evaluations in a row brought nothing better."""
        if self.patience is None or state.best is None:
            return False
        waited = step - np.asarray(state.best.step)
        return bool(np.all(waited >= self.patience * self.every))


def evaluate(
    model: PyTree,
    batches: Batches,
    loss: Loss,
    *,
    carry: Carry = None,
    ensemble_size: int | None = None,
    sharding: Sharding | None = None,
) -> dict[str, Any]:
    """Mean loss and accuracy over all targets of all batches, each target by its weight.

    Args:
        model: put into inference mode here; for an ensemble with a leading axis of `ensemble_size`.
        batches: what to evaluate on; all of one shape, or the loss is compiled for each shape.
        loss: (model, batch, carry, key) -> (sums, carry), called with key None; compiled as by `fit`.
        carry: the loss's carry before the first batch.
        ensemble_size: number of models; None for a single one.
        sharding: where the model lies and the rows of batches go, None for one device; each process brings its own
            part of them, and all equally many batches.

    Returns:
        `loss` (nats), `accuracy` (0..1) and `weight` (the sum of weights), lists of numbers for an ensemble.

    Raises:
        ValueError: there is no batch, or nothing in the batches has any weight.
    """
    sharding, loss = sharding or Sharding.single(), as_it_is_now(loss)
    check_batches(batches)
    model = eqx.nn.inference_mode(model)
    if ensemble_size is not None:
        check_ensemble(model, ensemble_size)
        carry = jax.tree.map(lambda x: jnp.stack([x] * ensemble_size) if eqx.is_array(x) else x, carry)
    model, carry = sharding.put(model, sharding.for_params), sharding.put(carry, sharding.for_batch)
    total = np.zeros(3 if ensemble_size is None else (3, ensemble_size))
    previous = None
    for batch in iter(batches() if callable(batches) else batches):
        if previous is None:
            check_batch(batch)
        sums, carry = _evaluate_batch(sharding.rows(as_arrays(batch)), model, carry, loss, ensemble_size, sharding)
        if previous is not None:
            total += previous.totals()  # while the device computes the next one
        previous = sums
    if previous is None:
        raise ValueError(_NO_BATCHES)
    total += previous.totals()
    if not np.all(total[1] > 0):
        raise ValueError("nothing in the evaluation has a weight above 0")
    return means(total)


@eqx.filter_jit
def _evaluate_batch(
    batch: Batch, model: PyTree, carry: Carry, loss: Loss, ensemble_size: int | None, sharding: Sharding
) -> tuple[Sums, Carry]:
    def one(model: PyTree, carry: Carry) -> tuple[Sums, Carry]:
        return call_loss(loss, model, batch, carry, None)

    sums, carry = one(model, carry) if ensemble_size is None else eqx.filter_vmap(one)(model, carry)
    return sharding.constrain(sums, sharding.replicated), sharding.constrain(carry, sharding.for_batch)
