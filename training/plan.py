"""What fits: bytes on each device and floating-point operations of a training step, from shapes alone.

Nothing is computed and no weight is made: the step is compiled for shapes, and XLA says what it needs besides what it
is given. Weights, gradients and optimiser state are arithmetic, for any number of devices. To tell what the update of
the weights needs, which devices share as well, from what the rows need, the gradient is compiled once more by itself.
"""

import dataclasses
import math
from collections.abc import Iterator
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

# One operation for each number that comes out, as XLA counts; exponentials and their like are none.
_ELEMENTWISE = {
    "add", "add_any", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "square", "integer_pow", "clamp", "eq",
    "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "shift_left", "shift_right_logical", "rem",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device: weights, gradients, optimiser state, and what else XLA needs at the fullest moment."""

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
        backend: where the step was compiled; another one needs other temporary arrays.
        parameters: how many numbers are trained.
        flops: floating-point operations of one device in a step, as XLA counts, but loops with all their rounds.
        activations: bytes on each device besides the gradients, while they are computed.
        is_upper_estimate: whether the backend the model is for will need less: XLA has no bfloat16 on most CPUs and
            asks there for more than for float32.
    """

    backend: str
    parameters: int
    flops: float
    activations: int
    is_upper_estimate: bool
    _weights: PyTree
    _trained: PyTree
    _optimiser: PyTree
    _temporaries: int

    def on(self, devices: int = 1, *, fsdp: bool = False) -> DeviceMemory:
        """What lies on each of some devices.

        Args:
            devices: how many, at least 1; each has the rows that were planned for.
            fsdp: whether they share weights, gradients and optimiser state, split as by `training.devices.sharding`.

        Raises:
            ValueError: no device.
        """
        if devices < 1:
            raise ValueError(f"devices must be at least 1; got {devices}")
        parts = (self._weights, self._trained, self._optimiser)
        weights, gradients, opt_state = (_bytes_held(tree, devices if fsdp else 1) for tree in parts)
        whole = _bytes_held(self._trained, 1)
        others = self._temporaries - gradients
        if gradients < whole:  # the fullest moment may be another one: the update is shared, the rows are not
            others = max(self.activations, self._temporaries * gradients // whole - gradients)
        return DeviceMemory(weights, gradients, opt_state, max(others, 0))


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
    """What a training step of a model needs, without making it. It is compiled, twice, which takes seconds.

    Args:
        make_model: makes the model when called with `key=`; or the model itself.
        loss: as for `fit`.
        optimiser: an Optax transformation.
        batch: one device's rows of a batch, or their shapes (`jax.ShapeDtypeStruct`).
        carry: the loss's carry for these rows, or its shapes.
        accumulate, precision: as for `fit`.

    Raises:
        ValueError: no such precision, or rows that can't be accumulated so.

    Example:
        >>> from training import adamw, next_token_loss
        >>> from zoo import TransformerLM, TransformerLMConfig
        >>> ids = jax.ShapeDtypeStruct((8, 2048), jnp.int32)
        >>> batch = {"inputs": ids, "targets": ids, "weights": jax.ShapeDtypeStruct((8, 2048), jnp.float32)}
        >>> config = TransformerLMConfig.gpt2(
        ...     embed_size=8192, num_layers=100, num_heads=64, max_length=2048, tie_embeddings=False
        ... )
        >>> make_model = lambda key: TransformerLM(config, key=key)
        >>> large = plan(make_model, next_token_loss, adamw(1e-3, total_steps=1), batch)
        >>> f"{large.parameters:.3g} parameters, {large.on(1024, fsdp=True).weights / 1e9:.2f} GB of them on each"
        '8.14e+10 parameters, 0.32 GB of them on each'
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = make_model
    if callable(make_model) and not isinstance(make_model, eqx.Module):
        model = eqx.filter_eval_shape(make_model, key=key)
    weights = eqx.filter(model, _is_shape)
    trained = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, weights)
    opt_state = eqx.filter_eval_shape(optimiser.init, trained)

    def compiled(optimiser: optax.GradientTransformation, opt_state: PyTree) -> tuple[int, float]:
        """Bytes of temporary arrays, and operations."""
        arrays, rest = eqx.partition((model, opt_state, carry), _is_shape)
        step = train_step(in_precision(loss, precision), optimiser, accumulate=accumulate)

        def arrays_of_step(batch: Batch, arrays: PyTree, key: Any) -> PyTree:
            model, opt_state, carry = eqx.combine(arrays, rest)
            new, report = step(batch, TrainState(model, opt_state, jnp.zeros((), jnp.int32), key, carry, None))
            return eqx.filter((new.model, new.opt_state, new.carry), eqx.is_array), report

        # Donated, as `make_step` has it: the new state takes the place of the old one.
        traced = jax.jit(arrays_of_step, donate_argnums=1).trace(dict(batch), arrays, key)
        memory: Any = traced.lower().compile().memory_analysis()
        return memory.temp_size_in_bytes, _flops(traced.jaxpr.jaxpr)

    temporaries, flops = compiled(optimiser, opt_state)
    activations, _ = compiled(optax.GradientTransformation(optax.init_empty_state, _hand_out), None)
    backend = jax.default_backend()
    return Plan(
        backend=backend,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained)),
        flops=flops,
        activations=activations,
        is_upper_estimate=backend == "cpu" and precision == "bfloat16",
        _weights=weights,
        _trained=trained,
        _optimiser=eqx.filter(opt_state, _is_shape),
        _temporaries=temporaries,
    )


def xla_cost_analysis(
    model: Any,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    *,
    accumulate: int = 1,
    precision: Precision | None = None,
) -> tuple[int, float]:
    """Bytes and floating-point operations by XLA's own count of the very step that `fit` compiles.

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


def _hand_out(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    """Of an optimiser that leaves the weights as they are; its state is the gradient, then no temporary array."""
    return jax.tree.map(lambda _: None, updates), updates


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)


def _bytes_held(tree: PyTree, devices: int) -> int:
    """On each device, where as many share what can be split."""
    return sum(
        leaf.size * leaf.dtype.itemsize // (1 if splits(leaf.shape, devices) is None else devices)
        for leaf in jax.tree.leaves(tree)
    )


def _flops(jaxpr: Any) -> float:
    """Floating-point operations of a traced function, loops of known length with all their rounds."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        ins, outs = ([var.aval for var in side] for side in (equation.invars, equation.outvars))
        inner = sum(map(_flops, _functions_in(parameters)))
        if inner:
            total += inner * (parameters["length"] if name == "scan" else 1)
        elif name == "rows_times_matrix":  # of zoo.nn.products
            total += 2.0 * outs[0].size * ins[0].shape[-1]
        elif name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            total += 2.0 * outs[0].size * math.prod(ins[0].shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            total += 2.0 * outs[0].size * ins[1].size / ins[1].shape[parameters["dimension_numbers"].rhs_spec[0]]
        elif name in _ELEMENTWISE:
            total += outs[0].size
        elif name.startswith("reduce_") or name in ("argmax", "cumsum", "scatter-add"):
            total += ins[-1].size
    return total


def _functions_in(parameters: dict[str, Any]) -> Iterator[Any]:
    """The traced functions that an operation calls."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            function = getattr(one, "jaxpr", one)
            if hasattr(function, "eqns"):
                yield function
