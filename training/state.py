"""The train state: everything a run needs to go on, as one pytree."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Key, PRNGKeyArray, PyTree

from training.sharding import Sharding

Trainable = Any
"""Which leaves are trained: a function of a leaf, or a pytree of Bools that is a prefix of the model."""


class Best(eqx.Module):
    """A copy of the best model so far, with its validation loss and the step that made it."""

    model: PyTree
    value: Float[Array, "*members"]
    step: Int[Array, "*members"]


class TrainState(eqx.Module):
    """Everything a run needs to go on, besides the position in its data.

    Attributes:
        model: the model after `step` steps.
        opt_state: the optimiser's state.
        step: number of steps made.
        key: never used itself; step t draws from `fold_in(key, t)`, t counted from 0.
        carry: what the loss hands on from batch to batch; opaque.
        best: the best model so far, if one is kept. No array is shared with `model`, because a donated step
            destroys the buffers it was given.
    """

    model: PyTree
    opt_state: PyTree
    step: Int[Array, "*members"]
    key: Key[Array, "*members"] | PRNGKeyArray
    carry: PyTree
    best: Best | None


def init_state(
    model: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    key: PRNGKeyArray,
    carry: PyTree = None,
    members: int | None = None,
    learning_rates: Float[np.ndarray, " members"] | None = None,
    trainable: Trainable = eqx.is_inexact_array,
    sharding: Sharding | None = None,
) -> TrainState:
    """The state before the first step. Every array is copied, so the arguments survive donation.

    Args:
        model: any pytree; for an ensemble every array of it has a leading axis of `members`, as
            `eqx.filter_vmap(make_model)(keys)` makes it.
        optimiser: an Optax transformation.
        key: source of all randomness; member i of an ensemble gets `fold_in(key, i)`.
        carry: the loss's carry before the first batch; for an ensemble, one member's (all start alike).
        members: size of an ensemble; None for a single model.
        learning_rates: one for each member, put where the optimiser keeps `learning_rate` in its state
            (`training.adamw` and `optax.inject_hyperparams` do).
        trainable: which leaves of the model are trained.
        sharding: where the state lies; it is made there, so that no device ever has all of it.

    Raises:
        ValueError: an array of the model lacks the axis of the members, or there is no learning rate to set.
    """
    if members is None:
        if learning_rates is not None:
            raise ValueError("learning_rates are for an ensemble; pass members too")
        if sharding is None:
            return copy_arrays(_start(model, key, optimiser, carry, trainable))
        model = sharding.place(copy_arrays(model), sharding.of_weight)
        carry = sharding.place(copy_arrays(carry), sharding.of_rows)
        key = sharding.place(key, sharding.everywhere)
        return _start(model, key, optimiser, carry, trainable, sharding=sharding)
    check_members(model, members)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(members))
    state = _start(model, keys, optimiser, carry, trainable, ensemble=True)
    if learning_rates is not None:
        if learning_rates.shape != (members,):
            raise ValueError(f"learning_rates must be {members} numbers; got shape {learning_rates.shape}")
        try:
            rates = jnp.asarray(learning_rates, jnp.float32)
            opt_state = optax.tree_utils.tree_set(state.opt_state, learning_rate=rates)
        except KeyError:
            raise ValueError(
                "learning_rates need an optimiser that keeps `learning_rate` in its state, such as "
                "training.adamw or optax.inject_hyperparams(...)"
            ) from None
        state = dataclasses.replace(state, opt_state=opt_state)
    return copy_arrays(state)


@eqx.filter_jit
def _start(
    model: PyTree,
    key: Key[Array, "*members"] | PRNGKeyArray,
    optimiser: optax.GradientTransformation,
    carry: PyTree,
    trainable: Trainable,
    *,
    sharding: Sharding | None = None,
    ensemble: bool = False,
) -> TrainState:
    """A function of its own, so that a second start of the same kind compiles nothing."""

    def start(model: PyTree, key: PRNGKeyArray) -> TrainState:
        opt_state = optimiser.init(eqx.filter(model, trainable))
        state = TrainState(model, opt_state, jnp.zeros((), jnp.int32), key, carry, None)
        return state if sharding is None else sharding.keep_state(state)

    return eqx.filter_vmap(start)(model, key) if ensemble else start(model, key)


def first_best(model: PyTree, members: int | None) -> Best:
    """Room for the best model: any finite validation loss will be better than this one."""
    shape = () if members is None else (members,)
    return Best(copy_arrays(model), jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))


def member(model: Any, index: int, members: int | None) -> Any:
    """One model of an ensemble of `members`, counted from 0; the model itself if there is no ensemble (None)."""
    if members is None:
        return model
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, model)


def check_members(model: PyTree, members: int) -> None:
    """Raise a ValueError unless every array of a model has a leading axis of that length."""
    if members < 1:
        raise ValueError(f"members must be at least 1; got {members}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array)):
        if leaf.ndim == 0 or leaf.shape[0] != members:
            raise ValueError(
                f"every array of an ensemble of {members} has a leading axis of {members}, but "
                f"{leaf_name(path)} is of shape {leaf.shape}; make the models with eqx.filter_vmap"
            )


@eqx.filter_jit
def copy_arrays(tree: PyTree) -> PyTree:
    """The same pytree with new buffers, and without JAX's weak types, which would compile a step twice."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True) if eqx.is_array(x) else x, tree)


def leaf_name(path: Any) -> str:
    """A leaf's path as people write it: `blocks.attention.query.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


@eqx.filter_jit(donate="all-except-first")
def keep_best(
    value: Float[Array | np.ndarray, "*members"], state: TrainState, sharding: Sharding | None = None
) -> tuple[TrainState, Bool[Array, "*members"], Bool[Array, "leaves *members"]]:
    """Keep a copy of the model if its validation loss is a new minimum and all of it is finite.

    Members of an ensemble each keep their own best.

    Args:
        value: validation loss; what is not finite is never the best.
        state: donated; one with room for the best model.
        sharding: where the state lies.

    Returns:
        The state, whether the model is the new best, and for every inexact array of the model (in the order
        of its leaves) whether it is finite.
    """
    best = state.best
    assert best is not None
    value = value.astype(jnp.float32)

    def whole(leaf: Array) -> Bool[Array, "*members"]:
        return jnp.all(jnp.isfinite(leaf), axis=tuple(range(value.ndim, leaf.ndim)))

    leaves = jax.tree.leaves(eqx.filter(state.model, eqx.is_inexact_array))
    finite = jnp.stack([whole(leaf) for leaf in leaves])
    better = jnp.isfinite(value) & (value < best.value) & jnp.all(finite, axis=0)

    def choose(new: Any, old: Any) -> Any:
        if not eqx.is_array(new):
            return new
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    kept = Best(
        jax.tree.map(choose, state.model, best.model),
        jnp.where(better, value, best.value),
        jnp.where(better, state.step, best.step),
    )
    state = dataclasses.replace(state, best=kept)
    if sharding is None:
        return state, better, finite
    return sharding.keep_state(state), *sharding.keep((better, finite), sharding.everywhere)
