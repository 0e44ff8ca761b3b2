"""Evaluation: sums over all batches, whole, with the model in inference mode and no key."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from training.losses import Batch, Carry, Loss, Sums
from training.sharding import Sharding
from training.state import check_members

Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]
"""Something that can be read again and again (a list, a Grain data set), or a function that gives it."""


def evaluate(
    model: PyTree,
    batches: Batches,
    loss: Loss,
    *,
    carry: Carry = None,
    members: int | None = None,
    sharding: Sharding | None = None,
) -> dict[str, Any]:
    """Mean loss and accuracy over all targets of all batches, each target by its weight.

    Args:
        model: put into inference mode here; for an ensemble with a leading axis of `members`.
        batches: what to evaluate on; all of one shape, or the loss is compiled for each shape.
        loss: (model, batch, carry, key) -> (sums, carry), called with key None.
        carry: the loss's carry before the first batch.
        members: size of an ensemble; None for a single model.
        sharding: where the model lies and the rows of batches go; each process brings its own part of them, and all
            equally many batches.

    Returns:
        `loss` (nats), `accuracy` (0..1) and `weight` (the sum of weights), lists of numbers for an ensemble.

    Raises:
        ValueError: there is no batch, or nothing in the batches has any weight.
    """
    model = eqx.nn.inference_mode(model)
    if members is not None:
        check_members(model, members)
        carry = jax.tree.map(lambda x: jnp.stack([x] * members) if eqx.is_array(x) else x, carry)
    if sharding is not None:
        model, carry = sharding.place(model, sharding.of_weight), sharding.place(carry, sharding.of_rows)
    total = np.zeros(3 if members is None else (3, members))
    previous = None
    for batch in iter(batches() if callable(batches) else batches):
        batch = batch if sharding is None else sharding.rows(batch)
        sums, carry = _evaluate_batch(batch, model, carry, loss, members, sharding)
        if previous is not None:
            total += on_host(previous)  # while the device computes the next one
        previous = sums
    if previous is None:
        raise ValueError("the evaluation has 0 batches")
    total += on_host(previous)
    if not np.all(total[1] > 0):
        raise ValueError("nothing in the evaluation has a weight above 0")
    return means(total)


@eqx.filter_jit
def _evaluate_batch(
    batch: Batch, model: PyTree, carry: Carry, loss: Loss, members: int | None, sharding: Sharding | None
) -> tuple[Sums, Carry]:
    def one(model: PyTree, carry: Carry) -> tuple[Sums, Carry]:
        return loss(model, batch, carry, None)

    sums, carry = one(model, carry) if members is None else eqx.filter_vmap(one)(model, carry)
    return (
        (sums, carry)
        if sharding is None
        else (sharding.keep(sums, sharding.everywhere), sharding.keep(carry, sharding.of_rows))
    )


def on_host(sums: Sums) -> Float[np.ndarray, "3 *members"]:
    """Loss, weight and correct as float64, in which sums over many batches lose nothing."""
    return np.stack([np.asarray(s, np.float64) for s in (sums.loss, sums.weight, sums.correct)])


def means(sums: Float[np.ndarray, "3 *members"]) -> dict[str, Any]:
    """The figures that people read, from sums on the host: numbers, or lists of numbers for an ensemble."""
    loss, weight, correct = sums
    divisor = np.where(weight > 0, weight, 1.0)
    figures = {"loss": loss / divisor, "accuracy": correct / divisor, "weight": weight}
    return {name: readable(value) for name, value in figures.items()}


def readable(value: Any) -> Any:
    """A number, or a list of them, of nine digits: all that float32 has, and no more to read or to store."""
    return [readable(v) for v in value] if np.ndim(value) else float(f"{float(value):.9g}")
