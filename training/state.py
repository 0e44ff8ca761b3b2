"""The states of a run: what a step maps to the next, how far the loop around it is, and what comes out in the end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Key, PRNGKeyArray, PyTree

from training.devices.sharding import Sharding

Trainable = Any
"""Which leaves are trained: a function of a leaf, or a pytree of Bools that is a prefix of the model. What is no
array of floating-point numbers never is."""


class Best(eqx.Module):
    """A copy of the best model so far, with its validation loss and the step that made it."""

    model: PyTree
    value: Float[Array, "*ensemble"]
    step: Int[Array, "*ensemble"]


class TrainState(eqx.Module):
    """Everything that a run needs to continue, besides the position in its data; `init_state` makes one.

    Attributes:
        model: the model after `step` steps.
        opt_state: the optimiser's state.
        step: number of steps made.
        key: never used itself; step t draws from `fold_in(key, t)`, t counted from 0.
        carry: what the loss hands on from batch to batch; opaque.
        best: the best model so far, if one is kept. No array is shared with `model`, because a donated step
            destroys the buffers it was given.
        trainable: whether each leaf of the model is trained, in the order of `jax.tree.leaves`; None for all
            arrays of floating-point numbers.
        ensemble_size: the leading axis of every array, if these are the states of so many models.
    """

    model: PyTree
    opt_state: PyTree
    step: Int[Array, "*ensemble"]
    key: Key[Array, "*ensemble"] | PRNGKeyArray
    carry: PyTree
    best: Best | None
    trainable: tuple[bool, ...] | None = eqx.field(static=True, default=None)
    ensemble_size: int | None = eqx.field(static=True, default=None)

    def split_model(self) -> tuple[PyTree, PyTree]:
        """The model's trained leaves, and the frozen ones; `eqx.combine` joins them."""
        if self.trainable is None:
            return eqx.partition(self.model, eqx.is_inexact_array)
        return eqx.partition(self.model, jax.tree.unflatten(jax.tree.structure(self.model), self.trainable))


@dataclasses.dataclass
class LoopState:
    """How far a run is, besides its train state and its data.

    Attributes:
        step: number of steps made.
        evaluated: the step of the last evaluation.
        stopped_early: whether patience has ended the run.
        history: a record of each step and each evaluation.
        seconds: by phase.
    """

    step: int
    evaluated: int
    stopped_early: bool
    history: list[dict[str, Any]]
    seconds: dict[str, float]


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


def init_state(
    model: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    key: PRNGKeyArray,
    carry: PyTree = None,
    ensemble_size: int | None = None,
    learning_rates: Float[np.ndarray, " ensemble"] | Sequence[float] | None = None,
    trainable: Trainable = eqx.is_inexact_array,
    sharding: Sharding | None = None,
) -> TrainState:
    """The state before the first step. Every array is copied, so the arguments survive donation.

    Args:
        model: any pytree; for an ensemble every array of it has a leading axis of `ensemble_size`, as
            `eqx.filter_vmap(make_model)(keys)` makes it.
        optimiser: an Optax transformation.
        key: source of all randomness; member i of an ensemble gets `fold_in(key, i)`.
        carry: the loss's carry before the first batch; for an ensemble, one member's (all start alike).
        ensemble_size: number of models that are trained together; None for a single model.
        learning_rates: one for each member, put where the optimiser keeps `learning_rate` in its state
            (`training.adamw` and `optax.inject_hyperparams` do).
        trainable: which leaves of the model are trained. Those of 16 bits lose small updates: load them with
            `dtype=jnp.float32`, and train with `Execution(precision="bfloat16")`.
        sharding: where the state lies, None for one device; it is made there, so that no device ever has all of it.

    Raises:
        ValueError: nothing is trained, an array of the model lacks the axis of the ensemble, or there is no learning
            rate to set.
    """
    sharding = sharding or Sharding.single()
    if ensemble_size is not None:
        check_ensemble(model, ensemble_size)
        key = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(ensemble_size))
    elif learning_rates is not None:
        raise ValueError("learning_rates are for an ensemble; pass ensemble_size too")
    frozen = object()
    kept = jax.tree.leaves(eqx.filter(model, trainable, replace=frozen))
    trained = tuple(leaf is not frozen and eqx.is_inexact_array(leaf) for leaf in kept)
    if not any(trained):
        left = any(map(eqx.is_inexact_array, jax.tree.leaves(model)))
        why = "trainable leaves out every array" if left else "the model has no array of floating-point numbers"
        raise ValueError(f"there is nothing to train: {why}")
    state = _start(
        sharding.put(model, sharding.for_params),
        sharding.put(key, sharding.replicated),
        optimiser,
        sharding.put(carry, sharding.for_batch),
        trained,
        ensemble_size,
        sharding,
    )
    return state if learning_rates is None else _with_learning_rates(state, np.asarray(learning_rates))


@eqx.filter_jit
def _start(
    model: PyTree,
    key: Key[Array, "*ensemble"] | PRNGKeyArray,
    optimiser: optax.GradientTransformation,
    carry: PyTree,
    trainable: tuple[bool, ...],
    ensemble_size: int | None,
    sharding: Sharding,
) -> TrainState:
    """A function of its own, so that a second start of the same kind compiles nothing."""

    def start(model: PyTree, key: PRNGKeyArray) -> TrainState:
        state = TrainState(model, None, jnp.zeros((), jnp.int32), key, carry, None, trainable, ensemble_size)
        return dataclasses.replace(state, opt_state=optimiser.init(state.split_model()[0]))

    state = start(model, key) if ensemble_size is None else eqx.filter_vmap(start)(model, key)
    return sharding.constrain_state(_copied(state))


def _with_learning_rates(state: TrainState, learning_rates: Float[np.ndarray, " ensemble"]) -> TrainState:
    if learning_rates.shape != (state.ensemble_size,):
        raise ValueError(f"learning_rates must be {state.ensemble_size} numbers; got shape {learning_rates.shape}")
    try:
        rates = jnp.array(learning_rates, jnp.float32)
        opt_state = optax.tree_utils.tree_set(state.opt_state, learning_rate=rates)
    except KeyError:
        raise ValueError(
            "learning_rates need an optimiser that keeps `learning_rate` in its state, such as "
            "training.adamw or optax.inject_hyperparams(...)"
        ) from None
    return dataclasses.replace(state, opt_state=opt_state)


def with_best(state: TrainState) -> TrainState:
    """The state with room for the best model: any finite validation loss will be better than the first one there."""
    if state.best is not None:
        return state
    shape = () if state.ensemble_size is None else (state.ensemble_size,)
    best = Best(copy_arrays(state.model), jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
    return dataclasses.replace(state, best=best)


def member(model: Any, index: int, ensemble_size: int | None) -> Any:
    """One model of an ensemble, counted from 0 (from the end if negative, else `IndexError`); the model itself if
    there is no ensemble (None)."""
    if ensemble_size is None:
        return model
    if not -ensemble_size <= index < ensemble_size:
        raise IndexError(f"index must be less than {ensemble_size}, the size of the ensemble; got {index}")
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, model)


def check_ensemble(model: PyTree, ensemble_size: int) -> None:
    """Raise a ValueError unless every array of a model has a leading axis of that length."""
    if ensemble_size < 1:
        raise ValueError(f"ensemble_size must be at least 1; got {ensemble_size}")
    for name, leaf in named_leaves(eqx.filter(model, eqx.is_array)):
        if leaf.ndim == 0 or leaf.shape[0] != ensemble_size:
            raise ValueError(
                f"every array of an ensemble of {ensemble_size} has a leading axis of {ensemble_size}, but "
                f"{name} is of shape {leaf.shape}; make the models with eqx.filter_vmap"
            )


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True) if eqx.is_array(x) else x, tree)


copy_arrays = eqx.filter_jit(_copied)
"""The same pytree with new buffers, and without JAX's weak types, which would compile a step twice."""


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a tree by their paths as people write them: `blocks.attention.query.weight`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


@eqx.filter_jit(donate="all-except-first")
def keep_best(
    value: Float[Array | np.ndarray, "*ensemble"], state: TrainState, sharding: Sharding
) -> tuple[TrainState, Bool[Array, "*ensemble"], Bool[Array, "leaves *ensemble"]]:
    """Keep a copy of the model if its validation loss is a new minimum and all that is trained of it is finite.

    Members of an ensemble each keep their own best.

    Args:
        value: validation loss; what is not finite is never the best.
        state: donated; one with room for the best model.
        sharding: where the state lies.

    Returns:
        The state, whether the model is the new best, and for every trained array (in the order of the model's
        leaves) whether it is finite; a frozen one may be a mask of infinities.
    """
    best = state.best
    assert best is not None
    value = value.astype(jnp.float32)

    def whole(leaf: Array) -> Bool[Array, "*ensemble"]:
        return jnp.all(jnp.isfinite(leaf), axis=tuple(range(value.ndim, leaf.ndim)))

    leaves = jax.tree.leaves(eqx.filter(state.split_model()[0], eqx.is_inexact_array))
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
    state = sharding.constrain_state(dataclasses.replace(state, best=kept))
    return state, *sharding.constrain((better, finite), sharding.replicated)
