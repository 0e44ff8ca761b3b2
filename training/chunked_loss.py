"""Softmax cross-entropy over a large vocabulary that never holds all logits, and a loss that uses it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from training.losses import (
    Batch,
    Carry,
    Sums,
    check_label_smoothing,
    check_shapes,
    columns,
    is_argmax,
    softmax_cross_entropy,
)

CHUNK_SIZE = 256


def chunked_softmax_cross_entropy(
    hidden: Float[Array, "*shape embed"],
    weight: Float[Array, "vocab embed"],
    bias: Float[Array, " vocab"] | None,
    targets: Int[Array | np.ndarray, "*shape"],
    weights: Float[Array | np.ndarray, "*shape"],
    *,
    chunk_size: int = CHUNK_SIZE,
    label_smoothing: float | int = 0.0,
) -> Sums:
    """`softmax_cross_entropy(hidden @ weight.T + bias, targets, weights)` with `chunk_size` rows of logits at a time.

    The gradient is computed along with the loss while a chunk's logits are there: less memory by the number of
    chunks, and less time, since no logits are kept, written again or computed twice. Rows of weight 0 are left out
    altogether, so padding costs nothing. In bfloat16 the gradient of the logits is rounded to it before the products.

    Works under `jit`, `vmap`, `shard_map` and reverse-mode differentiation, once; not under `jvp`.

    Args:
        hidden: the vectors that a head projects to logits.
        weight, bias: of that head.
        targets, weights, label_smoothing: as in `softmax_cross_entropy`.
        chunk_size: rows whose logits are held at a time, at least 1.

    Raises:
        ValueError: `chunk_size` or `label_smoothing` out of range, or not one target and one weight for each vector.

    Example:
        >>> hidden, weight = jnp.ones((6, 4)), jnp.zeros((10, 4))
        >>> sums = chunked_softmax_cross_entropy(hidden, weight, None, jnp.arange(6), jnp.ones(6), chunk_size=4)
        >>> round(float(sums.mean()), 4)  # ln(10)
        2.3026
    """
    check_chunk_size(chunk_size)
    check_label_smoothing(label_smoothing)
    check_shapes(hidden.shape[:-1], jnp.shape(targets), jnp.shape(weights))
    hidden = hidden.reshape(-1, hidden.shape[-1])
    targets, weights = jnp.ravel(targets), jnp.ravel(weights).astype(jnp.float32)
    if len(hidden) == 0:
        return Sums.of(0.0, 0.0)
    chunk_size = min(chunk_size, len(hidden))
    # In `jax.shard_map` a head that all devices share meets rows of each device's own. Made to vary like them out
    # here, its gradient is summed over the devices by JAX, which knows nothing of what a rule of ours computes.
    hidden, weight, bias, targets, weights = _vary_like((hidden, weight, bias, targets, weights))
    sums: Any = _loss(chunk_size, float(label_smoothing), hidden, weight, bias, targets, weights)
    loss, correct = sums
    return Sums(loss, jnp.sum(weights), jnp.sum(jnp.where(correct, weights, 0.0)))


def check_chunk_size(chunk_size: int) -> None:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be a whole number of at least 1, got {chunk_size!r}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(chunk_size: int, smoothing: float, *inputs: Any) -> tuple[Float32[Array, ""], Bool[Array, " rows"]]:
    """The weighted sum, and which rows are predicted correctly."""
    losses, correct, _ = _by_chunk(chunk_size, smoothing, *inputs, with_gradient=False)
    return jnp.sum(losses * inputs[-1]), correct


def _forward(chunk_size: int, smoothing: float, *inputs: Any) -> tuple[tuple[Array, Array], Any]:
    values: Any = custom_vjp_primal_tree_values(inputs)
    hidden, weight, bias, targets, weights = values
    one: Any = jnp.ones_like(weights)
    losses, correct, gradient = _by_chunk(
        chunk_size, smoothing, hidden, weight, bias, targets, weights, with_gradient=True
    )
    total = jnp.sum(losses * weights)
    if inputs[-1].perturbed:  # somebody differentiates by the weights: then rows of weight 0 need their loss, too
        every, _, _ = _by_chunk(chunk_size, smoothing, hidden, weight, bias, targets, one, with_gradient=False)
        losses = jnp.where(weights != 0, losses, jnp.where(jnp.isfinite(every), every, 0.0))
    return (total, correct), (losses, gradient)


def _backward(chunk_size: int, smoothing: float, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    (losses, gradient), (scale, _) = kept, cotangents
    scale = jnp.zeros((), jnp.float32) if isinstance(scale, SymbolicZero) else scale
    for_inputs = jax.tree.map(lambda g: g * scale.astype(g.dtype), gradient)
    return *for_inputs, None, losses * scale


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _by_chunk(
    chunk_size: int,
    smoothing: float,
    hidden: Float[Array, "rows embed"],
    weight: Float[Array, "vocab embed"],
    bias: Float[Array, " vocab"] | None,
    targets: Int[Array, " rows"],
    weights: Float32[Array, " rows"],
    *,
    with_gradient: bool,
) -> tuple[Float32[Array, " rows"], Bool[Array, " rows"], Any]:
    """Each row's loss, whether it is predicted correctly, and the weighted sum's gradient for hidden, weight, bias.

    The rows that count come first, and the loop ends after them.
    """
    rows, vocab_size = len(hidden), len(weight)
    counted = weights != 0
    order = jnp.argsort(~counted, stable=True)
    chunks = -(-rows // chunk_size)
    padded = jnp.pad(order, (0, chunks * chunk_size - rows), constant_values=rows)  # no row: filled with zeros
    ids = jnp.arange(vocab_size)[None, :]

    def body(chunk: Int[Array, ""], sums: Any) -> Any:
        losses, correct, gradient = sums
        start = chunk * chunk_size
        here = lax.dynamic_slice(padded, (start,), (chunk_size,))
        h, target, w = (x.at[here].get(mode="fill", fill_value=0) for x in (hidden, targets, weights))
        h = jnp.where((w != 0)[:, None], h, 0)
        logits = _product(h, weight, (1, 1))
        logits = logits if bias is None else logits + bias.astype(jnp.float32)[None, :]
        known = (target >= 0) & (target < vocab_size)
        chosen = jnp.take_along_axis(logits, jnp.clip(target, 0, vocab_size - 1)[:, None], axis=1)
        best = jnp.max(logits, axis=1, keepdims=True)
        exp = jnp.exp(logits - best)
        total = jnp.sum(exp, axis=1, keepdims=True)
        loss = (jnp.log(total) + best - chosen)[:, 0]
        if smoothing:
            loss = loss + smoothing * (chosen[:, 0] - jnp.mean(logits, axis=1))
        losses = lax.dynamic_update_slice(losses, jnp.where(known | (w == 0), loss, jnp.nan), (start,))
        correct = lax.dynamic_update_slice(correct, is_argmax(logits, target, chosen[:, 0]), (start,))
        if not with_gradient:
            return losses, correct, None
        w = jnp.where(known, w, 0.0)[:, None]
        for_logits = exp * (w / total) - jnp.where(ids == target[:, None], (1 - smoothing) * w, 0.0)
        if smoothing:
            for_logits = for_logits - w * (smoothing / vocab_size)
        for_hidden, for_weight, for_bias = gradient
        for_hidden = lax.dynamic_update_slice(
            for_hidden,
            _product(for_logits.astype(weight.dtype), weight, (1, 0)).astype(hidden.dtype),
            (start, jnp.zeros_like(start)),
        )
        for_weight = for_weight + _product(for_logits.astype(h.dtype), h, (0, 0))
        for_bias = None if bias is None else for_bias + jnp.sum(for_logits, axis=0)
        return losses, correct, (for_hidden, for_weight, for_bias)

    size, gradient = chunks * chunk_size, None
    if with_gradient:
        for_bias = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
        gradient = jnp.zeros((size, hidden.shape[1]), hidden.dtype), jnp.zeros(weight.shape, jnp.float32), for_bias
    needed = -(-jnp.sum(counted) // chunk_size)
    nothing = jnp.zeros(size, jnp.float32), jnp.zeros(size, bool), gradient
    losses, correct, gradient = lax.fori_loop(0, needed, body, _vary_like(nothing, hidden))
    place = jnp.argsort(order)  # of each row among the ordered ones
    if with_gradient:
        for_hidden, for_weight, for_bias = gradient
        for_bias = None if bias is None else for_bias.astype(bias.dtype)
        gradient = for_hidden[place], for_weight.astype(weight.dtype), for_bias
    return jnp.where(counted, losses[place], 0.0), correct[place] & counted, gradient


def _vary_like(tree: Any, *others: Any) -> Any:
    """The same arrays, each with the type that varies over every axis over which one of all these does.

    Only in `jax.shard_map` is there such an axis. As `zoo.varying`, of which `training` knows nothing.
    """
    axes_of = lambda leaf: jax.typeof(leaf).manual_axis_type.varying  # noqa: E731
    axes = frozenset().union(*map(axes_of, jax.tree.leaves((tree, others))))

    def widen(leaf: Array) -> Array:
        missing = axes - axes_of(leaf)
        return lax.pcast(leaf, tuple(sorted(missing, key=str)), to="varying") if missing else leaf

    return jax.tree.map(widen, tree)


def _product(a: Array, b: Array, over: tuple[int, int]) -> Float32[Array, "x y"]:
    """The sum of products over one axis of each matrix, in float32 whatever the types."""
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceLoss:
    """Cross-entropy of a model from sources to targets, such as `zoo.EncoderDecoder`, without all its logits.

    A loss for `fit` and `evaluate`; two with the same options are equal, so a step is compiled once for both. The
    model has `hidden(source, target_inputs, source_length=..., key=...)`, `head_weights()` and, where these are None,
    `project(hidden)`. A batch has `source`, `source_length`, `inputs`, `targets` and `weights`, each with a leading
    batch axis.

    Args:
        label_smoothing, chunk_size: as in `chunked_softmax_cross_entropy`. Evaluate without smoothing.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> SequenceToSequenceLoss(label_smoothing=0.1) == SequenceToSequenceLoss(label_smoothing=0.1)
        True
    """

    label_smoothing: float | int = 0.0
    chunk_size: int = CHUNK_SIZE

    def __post_init__(self) -> None:
        check_label_smoothing(self.label_smoothing)
        check_chunk_size(self.chunk_size)

    def __call__(self, model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
        def hidden(source: Array, length: Array, inputs: Array, key: PRNGKeyArray | None) -> Array:
            return model.hidden(source, inputs, source_length=length, key=key)

        *read, targets, weights = columns(batch, "source", "source_length", "inputs", "targets", "weights")
        source, length, inputs = map(jnp.asarray, read)
        keys = None if key is None else jax.random.split(key, len(source))
        vectors = jax.vmap(hidden, in_axes=(0, 0, 0, None if key is None else 0))(source, length, inputs, keys)
        smoothing, head = self.label_smoothing, model.head_weights()
        if head is None:  # an adapter, say, that only `project` knows: all logits at once, but the right ones
            logits = model.project(vectors)
            return softmax_cross_entropy(logits, targets, weights, label_smoothing=smoothing), carry
        weight, bias = head
        sums = chunked_softmax_cross_entropy(
            vectors, weight, bias, targets, weights, chunk_size=self.chunk_size, label_smoothing=smoothing
        )
        return sums, carry
