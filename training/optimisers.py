"""AdamW with warm-up, a schedule and clipping, whose learning rate is a number in its state."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_schedule(
    schedule: Schedule, *, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """A function from the number of steps made so far to a fraction of the learning rate.

    It rises linearly over the warm-up (step 1 of w has the fraction 1/w, so no step is wasted on 0), then
    stays or falls to `final_fraction`, which it has in the last step and after it.

    Args:
        schedule: "constant", "linear" or "cosine" after the warm-up.
        total_steps: number of steps of the run, warm-up included; at least 1.
        warmup_steps: in 0..total_steps.
        final_fraction: in 0..1; for "constant" it has no meaning.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> fraction = learning_rate_schedule("linear", total_steps=6, warmup_steps=2, final_fraction=0.25)
        >>> [float(fraction(jnp.array(step))) for step in range(7)]
        [0.5, 1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25]
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}; got {schedule!r}")
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1; got {total_steps}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must be in 0..total_steps, {total_steps}; got {warmup_steps}")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction must be in 0..1; got {final_fraction}")
    first = max(warmup_steps - 1, 0)  # the step that has the whole learning rate
    last = max(total_steps - 1, first + 1)

    def fraction(count: Int[Array, ""]) -> Float[Array, ""]:
        warm = jnp.minimum((count + 1) / max(warmup_steps, 1), 1.0)
        gone = jnp.clip((count - first) / (last - first), 0.0, 1.0)
        if schedule == "constant":
            left = jnp.ones(())
        elif schedule == "linear":
            left = 1 - gone
        else:
            left = (1 + jnp.cos(jnp.pi * gone)) / 2
        if schedule != "constant":
            left = final_fraction + (1 - final_fraction) * left
        return warm * left

    return fraction


class LearningRateState(NamedTuple):
    """Steps made, and the learning rate before any schedule, which may differ between members."""

    step: Int[Array, "*ensemble"]
    learning_rate: Float[Array, "*ensemble"]


def _scale_by_learning_rate(
    learning_rate: float | Float[Array, ""], fraction: Callable[[Int[Array, ""]], Float[Array, ""]]
) -> optax.GradientTransformation:
    def init(params: Any) -> LearningRateState:
        del params
        return LearningRateState(jnp.zeros((), jnp.int32), jnp.asarray(learning_rate, jnp.float32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, LearningRateState]:
        del params
        rate = -state.learning_rate * fraction(state.step)
        updates = jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
        return updates, LearningRateState(state.step + 1, state.learning_rate)

    return optax.GradientTransformation(init, update)


def decay_matrices(params: PyTree) -> PyTree[bool]:
    """Which arrays weight decay should pull to 0: matrices and larger ones, embeddings among them.

    A vector does not decay (biases, scales of norms), nor does what is called a bias, a scale or a norm, of whatever
    shape. A module whose arrays are those of many equal ones stacked, such as `zoo.nn.stack.Stack`, says how many
    leading axes that takes with an attribute `stacked_axes`; they don't count. Nothing else depends on a name.

    To leave out embeddings, pass `adamw` a `decay_mask` of your own.

    Args:
        params: the trained arrays of a model.

    Example:
        >>> params = {"head": {"weight": jnp.ones((3, 2)), "bias": jnp.ones(3)}, "blocks": [jnp.ones((4, 3))]}
        >>> decay_matrices(params)
        {'blocks': [True], 'head': {'bias': False, 'weight': True}}
    """
    return _decayed(params, stacked_axes=getattr(params, "stacked_axes", 0))


def _decayed(tree: PyTree, *, stacked_axes: int, name: str = "") -> PyTree[bool]:
    def stacks(node: Any) -> bool:
        return node is not tree and hasattr(node, "stacked_axes")

    def decays(path: Any, node: Any) -> PyTree[bool]:
        last = jax.tree_util.keystr(path[-1:], simple=True) if path else name
        if stacks(node):
            return _decayed(node, stacked_axes=stacked_axes + node.stacked_axes, name=last)
        return node.ndim - stacked_axes >= 2 and last.split("_")[-1] not in ("bias", "scale", "norm")

    return jax.tree_util.tree_map_with_path(decays, tree, is_leaf=stacks)


def adamw(
    learning_rate: float | Float[Array, ""],
    *,
    total_steps: int,
    warmup_steps: int = 0,
    schedule: Schedule = "cosine",
    final_fraction: float = 0.0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay_mask: Callable[[PyTree], PyTree[bool]] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101).

    The learning rate lies in the optimiser's state as `learning_rate` and may be traced, so that every
    member of an ensemble can have its own. As in Optax, it also multiplies the decay of each step.

    Args:
        learning_rate: the largest one, which the schedule multiplies; more than 0.
        total_steps: number of steps of the run, for the schedule.
        warmup_steps: steps of linear rise, in 0..total_steps.
        schedule: "constant", "linear" or "cosine" after the warm-up.
        final_fraction: the last learning rate as a fraction of the largest, in 0..1.
        weight_decay: at least 0.
        clip_norm: gradients of a larger global norm are scaled down to it; by default none are.
        b1: decay of the mean of gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: added to the root in the denominator, more than 0.
        decay_mask: which arrays decay, from the trained arrays; None is `decay_matrices`: all matrices, also those
            of embeddings, and no bias, scale or norm.

    Raises:
        ValueError: an argument is out of its range.
    """
    if callable(learning_rate):
        raise ValueError(
            "learning_rate must be a number, which schedule, warmup_steps and final_fraction change; got a function"
        )
    if isinstance(learning_rate, float | int | np.generic) and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be finite and more than 0; got {learning_rate}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be finite and at least 0; got {weight_decay}")
    if clip_norm is not None and not 0 < clip_norm < float("inf"):
        raise ValueError(f"clip_norm must be finite and more than 0, or None; got {clip_norm}")
    if not 0 <= b1 < 1 or not 0 <= b2 < 1:
        raise ValueError(f"b1 and b2 must be in [0, 1); got {b1} and {b2}")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be finite and more than 0; got {eps}")
    fraction = learning_rate_schedule(
        schedule, total_steps=total_steps, warmup_steps=warmup_steps, final_fraction=final_fraction
    )
    parts = [optax.scale_by_adam(b1=b1, b2=b2, eps=eps), _scale_by_learning_rate(learning_rate, fraction)]
    if weight_decay > 0:
        parts.insert(1, optax.add_decayed_weights(weight_decay, mask=decay_mask or decay_matrices))
    if clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(clip_norm))
    return optax.chain(*parts)
