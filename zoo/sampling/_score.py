"""How probable a model finds given text."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, PyTree

from zoo.decoder import AbstractDecoder
from zoo.sampling._checks import check_decoder, check_rows
from zoo.sampling._decode import vmap_rows
from zoo.sampling._prompts import CAPACITY_BUCKET, NonFiniteLogitsError, Prompts, bucket, check_capacity, pad_prompts


class Scored(eqx.Module):
    """What `score` returns; a batch has a leading axis.

    Attributes:
        log_probs: entry i is the log-probability, in nats, of token i + 1 given all before it; 0 after `length`.
        length: how many tokens were scored: all but the first of each text.
        total: their sum.
        perplexity: exp(-total / length), the number of equally likely tokens that would be as surprising.
    """

    log_probs: Float[np.ndarray, "*batch scored"]
    length: Int[np.ndarray, "*batch"]
    total: Float[np.ndarray, "*batch"]
    perplexity: Float[np.ndarray, "*batch"]


def score(decoder: AbstractDecoder, texts: Prompts, *, in_axes: PyTree = None) -> Scored:
    """Log-probabilities of given text under a model.

    Args:
        decoder: made by a model.
        texts: one text (token ids) or a list of texts of any lengths, each of at least two tokens, since the first
            one is given and not scored.
        in_axes: which leaves of the decoder have a leading axis of rows, as in `vmap`.

    Raises:
        ValueError: for ids out of range, a text that is too short or exceeds the model's `max_length`.
        NonFiniteLogitsError: a log-probability is NaN (one of -inf is an answer).

    Example:
        >>> from zoo import CharRNN, CharRNNConfig, score
        >>> config = CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1)
        >>> decoder = CharRNN(config, key=jax.random.key(0)).decoder()
        >>> score(decoder, [[1, 2, 3], [4, 5]]).log_probs.shape
        (2, 2)
    """
    check_decoder(decoder)
    tokens, length = pad_prompts(texts, decoder.vocab_size)
    check_rows(tokens, in_axes)
    if length.min() < 2:
        raise ValueError("a text to score needs at least two tokens: the first one is given")
    check_capacity(decoder, int(length.max()), 0)
    size = bucket(int(length.max()), CAPACITY_BUCKET)
    size = size if decoder.max_length is None else min(size, decoder.max_length)
    padded = np.zeros((*tokens.shape[:-1], size), np.int32)
    padded[..., : tokens.shape[-1]] = tokens[..., :size]
    log_probs = np.asarray(_log_probs(decoder, padded, in_axes))[..., : int(length.max()) - 1]
    log_probs = np.where(np.arange(log_probs.shape[-1]) < length[..., None] - 1, log_probs, 0.0)
    if np.isnan(log_probs).any():
        raise NonFiniteLogitsError("the model's log-probabilities of this text are not finite: is it trained?")
    total = log_probs.sum(-1)
    return Scored(*map(np.asarray, (log_probs, length - 1, total, np.exp(-total / (length - 1)))))


@eqx.filter_jit
def _log_probs(
    decoder: AbstractDecoder, tokens: Int[np.ndarray, "*batch size"] | Int[Array, "*batch size"], in_axes: PyTree
) -> Float32[Array, "*batch size-1"]:
    def row(decoder: AbstractDecoder, tokens: Int[Array, " size"]) -> Float32[Array, " size-1"]:
        logits, _ = decoder.extend(tokens[:-1], decoder.init_state(tokens.size))
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.take_along_axis(log_probs, tokens[1:, None], axis=-1)[:, 0]

    return vmap_rows(row, tokens.ndim > 1, in_axes)(decoder, jnp.asarray(tokens))
