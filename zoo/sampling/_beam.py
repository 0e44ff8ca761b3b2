"""Beam search: the most probable continuations instead of a random one."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from zoo.decoder import AbstractDecoder
from zoo.sampling._checks import check_decoder, check_integer, check_number, check_rows
from zoo.sampling._prompts import (
    NonFiniteLogitsError,
    Prompts,
    capacity_for,
    check_capacity,
    pad_ids,
    pad_prompts,
    prompts_or_start,
)
from zoo.sampling._search import search

MOST = 600.0  # of the logarithm of a length's power: float64 ends at 709, and a log-probability has to fit beside it


class Beams(eqx.Module):
    """What `beam_search` returns, best first; a batch has a leading axis.

    Attributes:
        tokens: the new tokens of each beam, the stop id kept, then -1.
        length: how many there are, the stop id counted.
        log_probs: the sum of their log-probabilities, in nats; -inf, with no tokens, where no more were found.
        scores: what they are ranked by: `log_probs / length ** length_penalty`, in float64.
    """

    tokens: Int[np.ndarray, "*batch beams new"]
    length: Int[np.ndarray, "*batch beams"]
    log_probs: Float[np.ndarray, "*batch beams"]
    scores: Float[np.ndarray, "*batch beams"]


def beam_search(
    decoder: AbstractDecoder,
    prompts: Prompts | None = None,
    *,
    num_beams: int,
    max_new_tokens: int,
    stop_ids: Sequence[int] | None = None,
    forbidden_ids: Sequence[int] | None = None,
    length_penalty: float | int = 0.0,
    in_axes: PyTree = None,
) -> Beams:
    """The best `num_beams` continuations that a search of that width finds, no two of them equal.

    At each token the most probable `num_beams` continuations that do not stop run on, and the best `num_beams` that
    have stopped are kept beside them, until nothing that runs can become better than those. A continuation that stops
    is kept if it is among the best `num_beams` of all, as in transformers with `early_stopping="never"`. One beam is
    greedy decoding, as long as no stop id comes; with as many beams as sequences it finds the best of all.

    A beam whose logits are not finite is dropped. So is one of no probability, whatever its logits are.

    Args:
        decoder: made by a model.
        prompts: one prompt (token ids) or a list of prompts of any lengths; by default the decoder's `start_ids`.
        num_beams: width of the search, at least 1; also how many continuations come back.
        max_new_tokens: most tokens to add, at least 0.
        stop_ids: ids that end a beam; by default the decoder's.
        forbidden_ids: ids that are in no beam; by default the decoder's.
        length_penalty: 0 ranks by the log-probability itself, which favours short answers; 1 by its mean per token;
            above that favours long ones.
        in_axes: which leaves of the decoder have a leading axis of rows, as in `vmap`.

    Raises:
        TypeError, ValueError: as `generate`; also for a penalty that takes `max_new_tokens ** length_penalty` out of
            float64.
        NonFiniteLogitsError: no beam is left.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig, beam_search
        >>> config = CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1)
        >>> decoder = CharRNN(config, key=jax.random.key(0)).decoder()
        >>> beam_search(decoder, [1, 2], num_beams=3, max_new_tokens=5).tokens.shape
        (3, 5)
    """
    check_decoder(decoder)
    num_beams = check_integer("num_beams", num_beams, 1)
    max_new_tokens = check_integer("max_new_tokens", max_new_tokens, 0)
    check_number("length_penalty", length_penalty)
    if abs(float(length_penalty)) * np.log(max(max_new_tokens, 1)) > MOST:
        raise ValueError(
            f"length_penalty ({length_penalty}) is too large for max_new_tokens ({max_new_tokens}): "
            f"it must be within {MOST / np.log(max_new_tokens):.0f} of 0"
        )
    stops = pad_ids("stop_ids", decoder.stop_ids if stop_ids is None else stop_ids, decoder.vocab_size)
    forbidden_ids = decoder.forbidden_ids if forbidden_ids is None else forbidden_ids
    forbidden = pad_ids("forbidden_ids", forbidden_ids, decoder.vocab_size)
    tokens, length = pad_prompts(prompts_or_start(prompts, decoder), decoder.vocab_size)
    check_rows(tokens, in_axes)
    check_capacity(decoder, int(length.max()), max_new_tokens)
    capacity = capacity_for(decoder, int(length.max()) + max_new_tokens)
    numbers = np.asarray(max_new_tokens, np.int32), np.asarray(length_penalty, np.float32)
    finished, running = jax.device_get(
        search(decoder, tokens[..., :capacity], length, *numbers, stops, forbidden, capacity, num_beams, in_axes)
    )
    pool = jax.tree.map(lambda *both: np.concatenate(both, axis=length.ndim), finished, running)
    return _best(pool.tokens[..., :max_new_tokens], pool.length, pool.log_probs, float(length_penalty), num_beams)


def _best(
    tokens: Int[np.ndarray, "*batch pool new"],
    length: Int[np.ndarray, "*batch pool"],
    log_probs: Float[np.ndarray, "*batch pool"],
    length_penalty: float,
    num_beams: int,
) -> Beams:
    """The best of finished and running beams; places of -inf, which hold anything, are emptied."""
    there = log_probs > -np.inf
    if not there.any(-1).all():
        raise NonFiniteLogitsError("no beam has finite logits any more: is the model trained?")
    tokens, length = np.where(there[..., None], tokens, -1), np.where(there, length, 0)
    scores = log_probs.astype(np.float64) / np.maximum(length, 1.0) ** length_penalty
    order = np.lexsort((-log_probs, -scores))[..., :num_beams]
    take = lambda x: np.take_along_axis(x, order, axis=-1)  # noqa: E731
    return Beams(np.take_along_axis(tokens, order[..., None], -2), take(length), take(log_probs), take(scores))
