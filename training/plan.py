"""What fits: bytes on each device and floating-point operations of a training step, from shapes alone.

Nothing is computed and no weight is made: the step is traced, and what it says is counted. Weights, gradients and
optimiser state are exact. Activations are the most bytes that are alive at once when the traced operations run in
their order, where chains of elementwise operations are one, as XLA makes them.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from training.devices.precision import Precision, in_precision
from training.devices.sharding import splits
from training.losses import Batch, Carry, Loss
from training.state import TrainState, init_state
from training.step import make_step, train_step
from training.traced_costs import bytes_of, flops, peak_bytes


@dataclasses.dataclass(frozen=True)
class Share:
    """Bytes on one device: weights, gradients, optimiser state, and all else that is alive at the fullest moment."""

    weights: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimiser + self.activations


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step needs.

    Attributes:
        parameters: how many numbers are trained.
        flops: floating-point operations of one device in a step, exponentials and their like left out, as XLA counts.
        activations: bytes on each device besides weights, gradients and optimiser state.
    """

    parameters: int
    flops: float
    activations: int
    _weights: PyTree
    _trained: PyTree
    _optimiser: PyTree

    def on(self, devices: int = 1, *, fully: bool = False) -> Share:
        """What lies on each of some devices.

        Args:
            devices: how many.
            fully: whether they share weights and optimiser state, as `training.devices.sharding` splits them.
        """
        parts = (self._weights, self._trained, self._optimiser)
        weights, gradients, opt_state = (_bytes_held(tree, devices, fully) for tree in parts)
        return Share(weights, gradients, opt_state, self.activations)


def plan(
    make_model: Any,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    *,
    carry: Carry = None,
    accumulate: int = 1,
    precision: Precision | None = None,
) -> Plan:
    """What a training step of a model needs, without making it.

    Right to a few percent by XLA's own `memory_analysis` and `cost_analysis` (tests/training/test_plan.py), but a
    fifth too low for a large vocabulary whose head has a bias, or for dropout in a stack of up to four layers.

    Args:
        make_model: makes the model when called with `key=`; or the model itself.
        loss: as for `fit`.
        optimiser: an Optax transformation.
        batch: one device's rows of a batch, or their shapes (`jax.ShapeDtypeStruct`).
        carry: the loss's carry for these rows, or its shapes.
        accumulate, precision: as for `fit`.

    Example:
        >>> from training import adamw, next_token_loss
        >>> from zoo import TransformerLM
        >>> ids = jax.ShapeDtypeStruct((8, 2048), jnp.int32)
        >>> batch = {"inputs": ids, "targets": ids, "weights": jax.ShapeDtypeStruct((8, 2048), jnp.float32)}
        >>> make_model = lambda key: TransformerLM(50257, 8192, 100, 64, 32768, 2048, key=key)
        >>> large = plan(make_model, next_token_loss, adamw(1e-3, total_steps=1), batch)
        >>> f"{large.parameters:.3g} parameters, {large.on(1024, fully=True).weights / 1e9:.2f} GB of them on each"
        '8.14e+10 parameters, 0.32 GB of them on each'
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = make_model if isinstance(make_model, eqx.Module) else eqx.filter_eval_shape(make_model, key=key)
    shapes = eqx.filter(model, _is_shape)
    trained = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, shapes)
    opt_state = eqx.filter_eval_shape(optimiser.init, trained)
    arrays, rest = eqx.partition((model, opt_state, carry), _is_shape)
    step = train_step(in_precision(loss, precision), optimiser, accumulate=accumulate)

    def arrays_of_step(batch: Batch, arrays: PyTree, key: Any) -> PyTree:
        model, opt_state, carry = eqx.combine(arrays, rest)
        new, report = step(batch, TrainState(model, opt_state, jnp.zeros((), jnp.int32), key, carry, None))
        return eqx.filter(new, eqx.is_array), report

    jaxpr = jax.make_jaxpr(arrays_of_step)(dict(batch), arrays, key).jaxpr
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained)),
        flops=flops(jaxpr),
        activations=max(peak_bytes(jaxpr) - _bytes_held(trained, 1, False), 0),
        _weights=shapes,
        _trained=trained,
        _optimiser=eqx.filter(opt_state, _is_shape),
    )


def xla_says(
    model: Any,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    *,
    accumulate: int = 1,
    precision: Precision | None = None,
) -> tuple[int, float]:
    """Bytes and floating-point operations of a step by XLA's own count: it is compiled, which takes seconds.

    XLA counts the operations of a loop once, so those of a stack of many layers are too few.

    Args:
        model: the model itself.
        loss, optimiser, batch, accumulate, precision: as for `plan`; the batch itself.
    """
    state = init_state(model, optimiser, key=jax.random.key(0))
    step: Any = make_step(in_precision(loss, precision), optimiser, accumulate=accumulate)
    compiled = step.lower(batch, state).compile().compiled
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes, costs["flops"]


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _bytes_held(tree: PyTree, devices: int, fully: bool) -> int:
    return sum(
        bytes_of(leaf) // (devices if fully and splits(leaf.shape, devices) is not None else 1)
        for leaf in jax.tree.leaves(tree)
    )
