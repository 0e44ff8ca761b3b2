"""Losses as weighted sums: sums of batches add up to the sum of the whole, means of batches don't."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

Batch = Mapping[str, Any]
Carry = Any
"""State that a model carries from batch to batch, such as a recurrent network's hidden state; None for most."""


class Sums(eqx.Module):
    """Sums over targets of loss (nats), weight, and weight of the correctly predicted ones, in float32.

    Sums of batches, micro-batches or devices are added; only at the end is anything divided. Under
    `vmap` each has a leading axis.

    Example:
        >>> one, two = Sums.of(loss=2.0, weight=1.0), Sums.of(loss=1.0, weight=3.0)
        >>> float((one + two).mean())
        0.75
    """

    loss: Float[Array, "*ensemble"]
    weight: Float[Array, "*ensemble"]
    correct: Float[Array, "*ensemble"]

    @classmethod
    def of(cls, loss: Any, weight: Any, correct: Any = 0.0) -> "Sums":
        """Sums from numbers or arrays, in float32; a loss of one's own may leave out `correct`."""
        loss = jnp.asarray(loss, jnp.float32)
        for name, value in (("weight", weight), ("correct", correct)):
            if jnp.ndim(value) > loss.ndim:
                raise ValueError(f"{name} has shape {jnp.shape(value)}, and the loss {loss.shape}: sum it, too")
        return cls(
            loss,
            jnp.broadcast_to(jnp.asarray(weight, jnp.float32), loss.shape),
            jnp.broadcast_to(jnp.asarray(correct, jnp.float32), loss.shape),
        )

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    def totals(self) -> Float[np.ndarray, "3 *ensemble"]:
        """Loss, weight and correct on the host, as float64, in which sums over many batches lose nothing."""
        return np.stack([np.asarray(s, np.float64) for s in (self.loss, self.weight, self.correct)])

    def mean(self) -> Float[Array, "*ensemble"]:
        """Loss per unit of weight, in nats; 0 where nothing has any weight."""
        return _per_weight(self.loss, self.weight)

    def accuracy(self) -> Float[Array, "*ensemble"]:
        """Correct predictions per unit of weight, in 0..1; 0 where nothing has any weight."""
        return _per_weight(self.correct, self.weight)


def means(totals: Float[np.ndarray, "3 *ensemble"]) -> dict[str, Any]:
    """The figures that people read, from `Sums.totals`: numbers, or lists of numbers for an ensemble."""
    loss, weight, correct = totals
    divisor = np.where(weight > 0, weight, 1.0)
    figures = {"loss": loss / divisor, "accuracy": correct / divisor, "weight": weight}
    return {name: readable(value) for name, value in figures.items()}


def readable(value: Any) -> Any:
    """A number, or a list of them, of nine digits: all that float32 has, and no more to read or to store."""
    return [readable(v) for v in value] if np.ndim(value) else float(f"{float(value):.9g}")


Loss = Callable[[Any, Batch, Carry, PRNGKeyArray | None], tuple[Sums, Carry]]
"""(model, batch, carry, key) -> (sums over the batch, carry for the next one); no key in evaluation."""


def columns(batch: Batch, *names: str) -> tuple[Any, ...]:
    """Columns of a batch.

    Raises:
        TypeError: the batch has no names.
        ValueError: one of the columns is missing.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch must be a mapping with {', '.join(names)}; got a {type(batch).__name__}")
    missing = [name for name in names if name not in batch]
    if missing:
        ones = "; weights of 1 count every target alike" if "weights" in missing else ""
        raise ValueError(f"a batch needs {', '.join(missing)}; this one has {', '.join(map(str, batch))}{ones}")
    return tuple(batch[name] for name in names)


def call_loss(loss: Loss, model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
    """What a loss gives, if that is what a loss has to give.

    Raises:
        TypeError: it is anything else, such as a mean.
        ValueError: its sums are not numbers.
    """
    given = loss(model, batch, carry, key)
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Sums)):
        raise TypeError(
            "a loss must return (sums, carry), for instance Sums.of(loss=total, weight=count), carry, not a mean; "
            f"{getattr(loss, '__name__', type(loss).__name__)} returned {_kind(given)}"
        )
    if type(given[0]) is not Sums:
        raise TypeError(f"a loss must return Sums; of a {type(given[0]).__name__} all further fields would be lost")
    if jnp.ndim(given[0].loss):
        raise ValueError(
            f"a loss must return the sum over the batch, a number; got shape {given[0].loss.shape}: sum it"
        )
    return given


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_kind, value))})"
    return f"an array of shape {value.shape}" if eqx.is_array(value) else f"a {type(value).__name__}"


def _per_weight(total: Float[Array, "*ensemble"], weight: Float[Array, "*ensemble"]) -> Float[Array, "*ensemble"]:
    return total / jnp.where(weight > 0, weight, 1.0)


def softmax_cross_entropy(
    logits: Float[Array, "*shape vocab"],
    targets: Int[Array | np.ndarray, "*shape"],
    weights: Float[Array | np.ndarray, "*shape"],
    *,
    label_smoothing: float | int = 0.0,
) -> Sums:
    """Weighted sums of -log softmax(logits)[target], computed in float32.

    Where the weight is 0 the target may be anything (-100, or an id beyond the vocabulary) and so may the
    logits: they add exactly 0 to the loss and to every gradient. Where it is not, a target outside
    0..vocab - 1 gives a loss of NaN, which stops `fit`, in place of JAX's silent choice of another class.

    Args:
        logits: unnormalised scores, of any float type.
        targets: one id for each row of logits.
        weights: how much each target counts, at least 0.
        label_smoothing: share of a target's probability, in [0, 1), that is spread evenly over the vocabulary:
            what the model should learn to be less sure of (Szegedy et al., 2015, arXiv:1512.00567).

    Raises:
        ValueError: not one target and one weight for each row of logits, or `label_smoothing` out of range.

    Example:
        >>> sums = softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([3, -100]), jnp.array([1.0, 0.0]))
        >>> round(float(sums.mean()), 4), float(sums.weight)
        (1.3863, 1.0)
    """
    check_label_smoothing(label_smoothing)
    targets, weights = jnp.asarray(targets), jnp.asarray(weights, jnp.float32)
    check_shapes(logits.shape[:-1], targets.shape, weights.shape)
    counts = weights != 0
    losses, correct = _cross_entropy(logits, targets, counts, label_smoothing)
    total = _weighted_sum(label_smoothing, losses, weights, logits, targets)
    return Sums(total, jnp.sum(weights), jnp.sum(jnp.where(correct, weights, 0.0)))


def _cross_entropy(
    logits: Float[Array, "*shape vocab"],
    targets: Int[Array, "*shape"],
    counts: Bool[Array, "*shape"],
    label_smoothing: float | int,
) -> tuple[Float32[Array, "*shape"], Bool[Array, "*shape"]]:
    """Each row's loss, and whether it counts and is predicted correctly."""
    vocab_size = logits.shape[-1]
    # Both selections come before the arithmetic: after it, a NaN times 0 would still be a NaN gradient.
    logits = jnp.where(counts[..., None], logits.astype(jnp.float32), 0.0)
    target = jnp.where(counts, targets, 0)
    known = (target >= 0) & (target < vocab_size)
    chosen = jnp.take_along_axis(logits, jnp.clip(target, 0, vocab_size - 1)[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - chosen
    if label_smoothing:
        loss = loss + label_smoothing * (chosen - jnp.mean(logits, axis=-1))
    return jnp.where(known, loss, jnp.nan), is_argmax(logits, target, chosen) & counts


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _weighted_sum(
    label_smoothing: float | int,
    losses: Float32[Array, "*shape"],
    weights: Float32[Array, "*shape"],
    logits: Float[Array, "*shape vocab"],
    targets: Int[Array, "*shape"],
) -> Float32[Array, ""]:
    """`sum(losses * weights)`, whose gradient for a weight is the row's loss even where the weight is 0.

    There `losses` has a stand-in, which keeps what such a row holds out of all other gradients. Its own loss is
    computed only where somebody differentiates by the weights; one that is not finite, or has no target, counts as 0.
    """
    return jnp.sum(losses * weights)


def _weighted_sum_rule(label_smoothing: float | int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (losses, weights, logits, targets), (by_losses, by_weights, *_) = primals, tangents
    tangent = jnp.zeros((), jnp.float32)
    if not isinstance(by_losses, SymbolicZero):
        tangent = tangent + jnp.sum(by_losses * weights)
    if not isinstance(by_weights, SymbolicZero):
        every, _ = _cross_entropy(logits, targets, jnp.ones(weights.shape, bool), label_smoothing)
        own = jax.lax.stop_gradient(jnp.where(jnp.isfinite(every), every, 0.0))
        tangent = tangent + jnp.sum(jnp.where(weights != 0, losses, own) * by_weights)
    return _weighted_sum(label_smoothing, *primals), tangent


_weighted_sum.defjvp(_weighted_sum_rule, symbolic_zeros=True)


def is_argmax(
    logits: Float[Array, "*shape vocab"], target: Int[Array, "*shape"], chosen: Float[Array, "*shape"]
) -> Bool[Array, "*shape"]:
    """Whether the target, whose logit is `chosen`, is the argmax (the first of the largest), in a third of the time
    argmax takes."""
    ids = jnp.arange(logits.shape[-1]).reshape((1,) * target.ndim + (-1,))
    target = target.astype(ids.dtype)
    beaten = (logits < chosen[..., None]) | ((logits == chosen[..., None]) & (ids >= target[..., None]))
    return jnp.all(beaten, axis=-1)


def check_shapes(rows: tuple[int, ...], targets: tuple[int, ...], weights: tuple[int, ...]) -> None:
    """Raises `ValueError` unless targets and weights have the shape of the rows: JAX would repeat fewer."""
    if not rows == targets == weights:
        raise ValueError(
            f"targets and weights must have one entry for each row of logits, shape {rows}; got shapes {targets} and "
            f"{weights}"
        )


def check_label_smoothing(label_smoothing: float | int) -> None:
    """Raises `ValueError` unless it is in [0, 1)."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")


def next_token_loss(model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
    """Cross-entropy of a model called as `model(tokens, key=key) -> logits` on each row of a batch.

    Args:
        model: maps one row of `inputs` to logits, one row of them for each target.
        batch: `inputs`, `targets` and `weights`, each with a leading batch axis.
        carry: returned unchanged.
        key: split over the rows; None calls the model without randomness.
    """
    inputs, targets, weights = columns(batch, "inputs", "targets", "weights")
    inputs = jnp.asarray(inputs)
    if key is None:
        logits = jax.vmap(lambda tokens: model(tokens, key=None))(inputs)
    else:
        keys = jax.random.split(key, len(inputs))
        logits = jax.vmap(lambda tokens, key: model(tokens, key=key))(inputs, keys)
    return softmax_cross_entropy(logits, targets, weights), carry


def classification_loss(model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
    """Cross-entropy of a model called as `model(tokens, length, key=key) -> logits` on each row of a batch.

    Args:
        model: maps a text and its length to one logit per class.
        batch: `tokens`, `tokens_length`, `labels` and `weights`, each with a leading batch axis.
        carry: returned unchanged.
        key: split over the rows; None calls the model without randomness.
    """
    tokens, lengths, labels, weights = columns(batch, "tokens", "tokens_length", "labels", "weights")
    tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
    if key is None:
        logits = jax.vmap(lambda tokens, length: model(tokens, length, key=None))(tokens, lengths)
    else:
        keys = jax.random.split(key, len(tokens))
        logits = jax.vmap(lambda tokens, length, key: model(tokens, length, key=key))(tokens, lengths, keys)
    return softmax_cross_entropy(logits, labels, weights), carry
