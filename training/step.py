"""One training step: pure, so that it can be vmapped over an ensemble, and then compiled once."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from training.losses import Batch, Loss, Sums
from training.state import Trainable, TrainState


class StepReport(eqx.Module):
    """What a step says of itself; the host reads it one step late.

    Attributes:
        sums: the loss's sums over the batch, before the update.
        grad_norm: global norm of the gradient, before any clipping.
        leaf_norms: norm of the gradient of each trained array, in the order of the model's leaves.
    """

    sums: Sums
    grad_norm: Float[Array, "*members"]
    leaf_norms: Float[Array, "*members leaves"]


Step = Callable[[Batch, TrainState], tuple[TrainState, StepReport]]


def train_step(
    loss: Loss, optimiser: optax.GradientTransformation, *, trainable: Trainable = eqx.is_inexact_array
) -> Step:
    """The pure, uncompiled step (batch, state) -> (state, report).

    The gradient is that of the mean loss, `sums.loss / sums.weight`; leaves that are not trained come out as
    they went in.

    Args:
        loss: (model, batch, carry, key) -> (sums, carry).
        optimiser: an Optax transformation.
        trainable: which leaves of the model are trained.
    """

    def step(batch: Batch, state: TrainState) -> tuple[TrainState, StepReport]:
        trained, frozen = eqx.partition(state.model, trainable)
        key = jax.random.fold_in(state.key, state.step)

        @eqx.filter_value_and_grad(has_aux=True)
        def mean_loss(trained: PyTree) -> tuple[Float[Array, ""], tuple[Sums, Any]]:
            sums, carry = loss(eqx.combine(trained, frozen), batch, state.carry, key)
            return sums.mean(), (sums, carry)

        (_, (sums, carry)), gradient = mean_loss(trained)
        # The carry is data for the next step: no gradient goes back through it.
        carry = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, carry)
        squares = [jnp.sum(jnp.square(jnp.abs(g).astype(jnp.float32))) for g in jax.tree.leaves(gradient)]
        squares = jnp.stack(squares)
        updates, opt_state = optimiser.update(gradient, state.opt_state, trained)
        model = eqx.combine(eqx.apply_updates(trained, updates), frozen)
        report = StepReport(sums, jnp.sqrt(jnp.sum(squares)), jnp.sqrt(squares))
        return TrainState(model, opt_state, state.step + 1, state.key, carry, state.best), report

    return step


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    members: int | None = None,
    trainable: Trainable = eqx.is_inexact_array,
) -> Step:
    """The compiled step. The state is donated: its buffers become those of the new state, so use only that.

    Args:
        loss: as for `train_step`.
        optimiser: as for `train_step`.
        members: size of an ensemble whose members all see the same batch, or None for a single model.
        trainable: as for `train_step`.
    """
    try:
        hash((loss, optimiser, trainable))
    except TypeError:  # a loss with arrays in it, or a pytree of what is trainable
        return _compiled.__wrapped__(loss, optimiser, members, trainable)
    return _compiled(loss, optimiser, members, trainable)


@functools.lru_cache(maxsize=8)
def _compiled(loss: Loss, optimiser: optax.GradientTransformation, members: int | None, trainable: Trainable) -> Step:
    """Kept, so that a second `fit` with the same loss and optimiser needs no second compilation."""
    step = train_step(loss, optimiser, trainable=trainable)
    if members is not None:
        step = eqx.filter_vmap(step, in_axes=(None, eqx.if_array(0)), axis_size=members)
    return eqx.filter_jit(step, donate="all-except-first")
