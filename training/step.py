"""One training step: pure, so that it can be vmapped over an ensemble, and then compiled once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, PyTree

from training.devices.sharding import Sharding
from training.losses import Batch, Carry, Loss, Sums, call_loss, means, readable
from training.shared_compilation import cannot_change
from training.state import TrainState, named_leaves


class StepReport(eqx.Module):
    """Metrics of one step; the host reads them one step late.

    Attributes:
        sums: the loss's sums over the batch, before the update.
        grad_norm: global norm of the gradient, before any clipping.
        leaf_norms: norm of the gradient of each trained array, in the order of the model's leaves.
    """

    sums: Sums
    grad_norm: Float[Array, "*ensemble"]
    leaf_norms: Float[Array, "*ensemble leaves"]

    def figures(self) -> dict[str, Any]:
        """What people read of it: numbers, or lists of numbers for an ensemble. Waits for the step."""
        return {**means(self.sums.totals()), "grad_norm": readable(np.asarray(self.grad_norm))}


Step = Callable[[Batch, TrainState], tuple[TrainState, StepReport]]


def train_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    sharding: Sharding | None = None,
) -> Step:
    """The pure, uncompiled step (batch, state) -> (state, report).

    The gradient is that of the mean loss, `sums.loss / sums.weight`; leaves that are not trained come out as
    they went in. All members of an ensemble see the same batch.

    Args:
        loss: (model, batch, carry, key) -> (sums, carry).
        optimiser: an Optax transformation; one that takes a loss, such as `optax.contrib.reduce_on_plateau`, gets
            its mean as `value`.
        accumulate: Gradient accumulation: micro-batches per step. Losses and weights are summed over all before
            anything is divided, so unequal micro-batches count as in one batch. Row r is in micro-batch
            r % accumulate; micro-batch i draws from its own key. Every array of the batch and of the carry has these
            rows, but for numbers in the batch, which all micro-batches get.
        sharding: where the state is held; None for one device.

    Raises:
        ValueError: `accumulate` is less than 1, or (when called) does not divide the rows, or an array has others; an
            ensemble is sharded.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1; got {accumulate}")
    layout = sharding or Sharding.single()

    def one_model(batch: Batch, state: TrainState) -> tuple[TrainState, StepReport]:
        trained, frozen = state.split_model()
        # A sum over many rows can leave float16 where their mean does not: its parts' gradients are those of means.
        of_mean = accumulate == 1 or _any_narrow(trained)
        key = jax.random.fold_in(state.key, state.step)

        @eqx.filter_value_and_grad(has_aux=True)
        def objective(trained: PyTree, batch: Batch, carry: Carry, key: Any) -> tuple[Float[Array, ""], Any]:
            sums, carry = call_loss(loss, eqx.combine(trained, frozen), batch, carry, key)
            return (sums.mean() if of_mean else sums.loss), (sums, carry)

        def gradient_of(batch: Batch, carry: Carry, key: Any) -> tuple[PyTree, Sums, Carry]:
            (_, (sums, carry)), gradient = objective(trained, batch, carry, key)
            # The carry is data for the next step: no gradient goes back through it.
            carry = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, carry)
            return layout.constrain(gradient, layout.for_params), sums, carry

        if accumulate == 1:
            gradient, sums, carry = gradient_of(batch, state.carry, key)
        else:
            gradient, sums, carry = _accumulated(gradient_of, accumulate, trained, batch, state.carry, key, of_mean)
            weight = jnp.where(sums.weight > 0, sums.weight, 1.0)
            mean = lambda total, leaf: (total / weight.astype(total.dtype)).astype(leaf.dtype)  # noqa: E731
            gradient = jax.tree.map(mean, gradient, eqx.filter(trained, eqx.is_inexact_array))
        squares = [jnp.sum(jnp.square(jnp.abs(g).astype(jnp.float32))) for g in jax.tree.leaves(gradient)]
        squares = jnp.stack(squares)
        update = optax.with_extra_args_support(optimiser).update
        updates, opt_state = update(gradient, state.opt_state, trained, value=sums.mean())
        # An optimiser may work in a wider type than that of the weights, who keep theirs.
        updated = jax.tree.map(lambda new, old: new.astype(old.dtype), eqx.apply_updates(trained, updates), trained)
        model = eqx.combine(updated, frozen)
        report = StepReport(sums, jnp.sqrt(jnp.sum(squares)), jnp.sqrt(squares))
        state = dataclasses.replace(state, model=model, opt_state=opt_state, step=state.step + 1, carry=carry)
        return layout.constrain_state(state), layout.constrain(report, layout.replicated)

    def step(batch: Batch, state: TrainState) -> tuple[TrainState, StepReport]:
        if state.ensemble_size is None:
            return one_model(batch, state)
        if layout.mesh is not None:
            raise ValueError("an ensemble trains on one device; give either ensemble_size or sharding")
        vmapped = eqx.filter_vmap(one_model, in_axes=(None, eqx.if_array(0)), axis_size=state.ensemble_size)
        return vmapped(batch, state)

    return step


def _accumulated(
    gradient_of: Callable[..., tuple[PyTree, Sums, Carry]],
    parts: int,
    trained: PyTree,
    batch: Batch,
    carry: Carry,
    key: Any,
    of_mean: bool,
) -> tuple[PyTree, Sums, Carry]:
    """Sums of gradients and losses over the micro-batches, and the carry of all rows.

    Gradients are summed in float32 at least: in the type of narrow weights, what is added to a large sum is lost.
    """

    batch = jax.tree.map(jnp.asarray, batch)
    carry_arrays, carry_rest = eqx.partition(carry, eqx.is_array)
    rows = {name: len(leaf) for name, leaf in named_leaves({"batch": batch, "carry": carry_arrays}) if leaf.ndim}
    if len(set(rows.values())) > 1:
        (first, count), *others = rows.items()
        name, other = next((name, other) for name, other in others if other != count)
        raise ValueError(f"accumulate cuts all arrays by rows; {first} has {count} of them and {name} has {other}")

    def split(leaf: Any) -> Any:
        if not leaf.ndim:
            return jnp.broadcast_to(leaf, (parts,))
        if len(leaf) % parts:
            raise ValueError(f"accumulate must divide the rows of a batch; got {parts} parts of {len(leaf)} rows")
        # Strided, so that on many devices the rows of each part lie evenly on all of them, where they are.
        return jnp.swapaxes(leaf.reshape(len(leaf) // parts, parts, *leaf.shape[1:]), 0, 1)

    def merge(leaf: Array) -> Array:
        if leaf.ndim < 2:
            raise ValueError("with accumulate a carry must have rows as the batch has; in this one is a number")
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    def add(total: Any, part: Any) -> Any:
        rows, carry, i = part
        gradient, sums, carry = gradient_of(rows, eqx.combine(carry, carry_rest), jax.random.fold_in(key, i))
        gradient = jax.tree.map(lambda g: g.astype(_wide(g.dtype)), gradient)
        if of_mean:
            gradient = jax.tree.map(lambda g: g * sums.weight.astype(g.dtype), gradient)
        total = jax.tree.map(jnp.add, total, (gradient, sums))
        return total, eqx.filter(carry, eqx.is_array)

    zeros = lambda leaf: jnp.zeros_like(leaf, dtype=_wide(leaf.dtype))  # noqa: E731
    nothing = jax.tree.map(zeros, eqx.filter(trained, eqx.is_inexact_array)), Sums.of(0.0, 0.0)
    every = jax.tree.map(split, (batch, carry_arrays))
    (gradient, sums), carries = jax.lax.scan(add, nothing, (*every, jnp.arange(parts)))
    return gradient, sums, eqx.combine(jax.tree.map(merge, carries), carry_rest)


def _wide(dtype: Any) -> Any:
    """The type to sum numbers of this one in."""
    return jnp.promote_types(dtype, jnp.float32)


def _any_narrow(trained: PyTree) -> bool:
    leaves = jax.tree.leaves(eqx.filter(trained, eqx.is_inexact_array))
    return any(_wide(leaf.dtype) != leaf.dtype for leaf in leaves)


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    sharding: Sharding | None = None,
) -> Step:
    """The compiled step. The state is donated: its buffers become those of the new state, so use only that.

    Args:
        loss, optimiser, accumulate, sharding: as for `train_step`.
    """
    arguments = (loss, optimiser, accumulate, sharding)
    try:
        hash(arguments)
    except TypeError:  # a loss with arrays in it
        return _compiled.__wrapped__(*arguments)
    return (_compiled if cannot_change(loss) else _compiled.__wrapped__)(*arguments)


@functools.lru_cache(maxsize=8)
def _compiled(
    loss: Loss, optimiser: optax.GradientTransformation, accumulate: int, sharding: Sharding | None
) -> Step:
    """Kept, so that a second `fit` with the same loss and optimiser needs no second compilation, unless the loss may
    have changed."""
    step = train_step(loss, optimiser, accumulate=accumulate, sharding=sharding)
    return eqx.filter_jit(step, donate="all-except-first")
