"""Parallel streams of text, through which a model carries its state from batch to batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from training.losses import Batch, Carry, Sums, columns, softmax_cross_entropy


def stream_carry(model: Any, num_streams: int) -> Carry:
    """The states of so many streams before any text: what `init_state`, `fit` and `evaluate` take as `carry` for
    `stream_loss`.

    Args:
        model: has `init_state()`, whose leaves say what one stream's state is made of, such as `zoo.CharRNN`.
        num_streams: rows of a batch, of all processes together, at least 1.

    Returns:
        Zeros, with a leading axis of streams.

    Raises:
        ValueError: `num_streams` is less than 1.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig
        >>> rnn = CharRNN(CharRNNConfig(vocab_size=5, hidden_size=3, num_layers=2), key=jax.random.key(0))
        >>> [leaf.shape for leaf in jax.tree.leaves(stream_carry(rnn, 4))]
        [(4, 3), (4, 3)]
    """
    if num_streams < 1:
        raise ValueError(f"num_streams must be at least 1, got {num_streams}")
    return jax.tree.map(lambda leaf: jnp.zeros((num_streams, *leaf.shape), leaf.dtype), model.init_state())


def stream_loss(model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
    """Cross-entropy of a model called as `model(tokens, state, key=key) -> (logits, state)` on parallel streams.

    Args:
        model: maps one stream's chunk and the state before it to logits and the state after it.
        batch: `inputs`, `targets` and `weights`, each with a leading axis of streams, and `reset`: whether the
            streams begin here, with a state of zeros; one Bool for all, or one for each stream.
        carry: the states of all streams before this chunk, stacked; `stream_carry` gives the first.
        key: split over the streams; None calls the model without randomness.

    Returns:
        The sums, and the states after the chunk.
    """
    inputs, targets, weights, reset = columns(batch, "inputs", "targets", "weights", "reset")
    inputs = jnp.asarray(inputs)
    reset = jnp.asarray(reset)
    along = lambda leaf: reset.reshape(reset.shape + (1,) * (leaf.ndim - reset.ndim))  # noqa: E731
    carry = jax.tree.map(lambda leaf: jnp.where(along(leaf), jnp.zeros_like(leaf), leaf), carry)
    if key is None:
        logits, carry = jax.vmap(lambda tokens, state: model(tokens, state, key=None))(inputs, carry)
    else:
        keys = jax.random.split(key, len(inputs))
        logits, carry = jax.vmap(lambda tokens, state, key: model(tokens, state, key=key))(inputs, carry, keys)
    return softmax_cross_entropy(logits, targets, weights), carry
