"""Beam search: the most probable continuations instead of a random one."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from zoo.decoder import AbstractDecoder
from zoo.sampling._checks import check_decoder, check_integer, check_number, check_rows
from zoo.sampling._decode import vmap_rows
from zoo.sampling._prompts import (
    NonFiniteLogitsError,
    Prompts,
    capacity_for,
    check_capacity,
    pad_prompts,
    pad_stop_ids,
)


class Beams(eqx.Module):
    """What `beam_search` returns, best first; a batch has a leading axis.

    Attributes:
        tokens: the new tokens of each beam, the stop id kept, then -1.
        length: how many there are, the stop id counted.
        log_probs: the sum of their log-probabilities, in nats; -inf for a beam that found no sequence.
        scores: what they are ranked by: `log_probs / length ** length_penalty`.
    """

    tokens: Int[np.ndarray, "*batch beams new"]
    length: Int[np.ndarray, "*batch beams"]
    log_probs: Float[np.ndarray, "*batch beams"]
    scores: Float[np.ndarray, "*batch beams"]


def beam_search(
    decoder: AbstractDecoder,
    prompts: Prompts,
    *,
    num_beams: int,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    length_penalty: float | int = 0.0,
    in_axes: PyTree = None,
) -> Beams:
    """The best `num_beams` continuations that a search of that width finds.

    At each token the best `num_beams` of all candidates stay: every continuation of the running beams, and the
    stopped ones as they are. One beam is greedy decoding; with as many beams as sequences it finds the best of all.

    Args:
        decoder: made by a model.
        prompts: one prompt (token ids) or a list of prompts of any lengths.
        num_beams: width of the search, at least 1; also how many continuations come back.
        max_new_tokens: most tokens to add, at least 0.
        stop_ids: ids that end a beam.
        length_penalty: 0 ranks by the log-probability itself, which favours short answers; 1 by its mean per token.
        in_axes: which leaves of the decoder have a leading axis of rows, as in `vmap`.

    Raises:
        ValueError, NonFiniteLogitsError: as `generate`.

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
    stops = pad_stop_ids(stop_ids, decoder.vocab_size)
    tokens, length = pad_prompts(prompts, decoder.vocab_size)
    check_rows(tokens, in_axes)
    check_capacity(decoder, int(length.max()), max_new_tokens)
    capacity = capacity_for(decoder, int(length.max()) + max_new_tokens)
    numbers = np.asarray(max_new_tokens, np.int32), np.asarray(length_penalty, np.float32)
    found = jax.device_get(
        _search(decoder, tokens[..., :capacity], length, *numbers, stops, capacity, num_beams, in_axes)
    )
    if not found.finite.all():
        raise NonFiniteLogitsError("the model's logits are not finite: is it trained?")
    return Beams(found.tokens[..., :max_new_tokens], found.length, found.log_probs, found.scores)


class _Beams(eqx.Module):
    """All beams of one row while they run."""

    tokens: Int[Array, "*batch beams capacity"]
    length: Int[Array, "*batch beams"]
    log_probs: Float[Array, "*batch beams"]
    scores: Float[Array, "*batch beams"]
    stopped: Bool[Array, "*batch beams"]
    finite: Bool[Array, "*batch"]
    logits: Float[Array, "*batch beams vocab"]
    state: PyTree


@eqx.filter_jit
def _search(
    decoder: AbstractDecoder,
    prompts: Int[Array | np.ndarray, "*batch prompt"],
    lengths: Int[Array | np.ndarray, "*batch"],
    limit: Int[Array | np.ndarray, ""],
    length_penalty: Float[Array | np.ndarray, ""],
    stop_ids: Int[Array | np.ndarray, " stops"],
    capacity: int,
    num_beams: int,
    in_axes: PyTree,
) -> _Beams:
    def begin(decoder: AbstractDecoder, tokens: Int[Array, " prompt"], length: Int[Array, ""]) -> _Beams:
        logits, state = decoder.prefill(tokens, decoder.init_state(capacity), length=length)
        repeat = lambda x: jnp.repeat(x[None], num_beams, axis=0)  # noqa: E731
        only_first = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
        return _Beams(
            tokens=jnp.full((num_beams, capacity), -1, jnp.int32),
            length=jnp.zeros(num_beams, jnp.int32),
            log_probs=only_first,
            scores=only_first,
            stopped=jnp.zeros(num_beams, bool),
            finite=jnp.array(True),
            logits=repeat(logits.astype(jnp.float32)),
            state=jax.tree.map(repeat, state),
        )

    def widen(decoder: AbstractDecoder, beams: _Beams) -> _Beams:
        """The best of all continuations by one token, which is taken in."""
        vocab_size = beams.logits.shape[-1]
        usable = jnp.isfinite(jnp.max(beams.logits, axis=-1)) | beams.stopped | ~jnp.isfinite(beams.log_probs)
        added = jax.nn.log_softmax(beams.logits)
        # A stopped beam is one candidate, itself, under the name of token 0.
        itself = jnp.where(jnp.arange(vocab_size) == 0, 0.0, -jnp.inf)
        sums = beams.log_probs[:, None] + jnp.where(beams.stopped[:, None], itself[None], added)
        length = beams.length + (~beams.stopped).astype(jnp.int32)
        scores = sums / jnp.maximum(length, 1)[:, None].astype(jnp.float32) ** length_penalty
        best, index = jax.lax.top_k(scores.reshape(-1), num_beams)
        parent, token = index // vocab_size, (index % vocab_size).astype(jnp.int32)
        tokens, stopped, place = beams.tokens[parent], beams.stopped[parent], beams.length[parent]
        place = jnp.where(stopped, capacity, place)  # nothing is added to a stopped beam
        logits, state = jax.vmap(decoder.step)(token, jax.tree.map(lambda x: x[parent], beams.state))
        return _Beams(
            tokens=tokens.at[jnp.arange(num_beams), place].set(token, mode="drop"),
            length=length[parent],
            log_probs=sums.reshape(-1)[index],
            scores=best,
            stopped=stopped | jnp.isin(token, stop_ids),
            finite=beams.finite & jnp.all(usable),
            logits=logits.astype(jnp.float32),
            state=state,
        )

    batched = prompts.ndim > 1
    beams = vmap_rows(begin, batched, in_axes)(decoder, jnp.asarray(prompts), jnp.asarray(lengths))
    step = vmap_rows(widen, batched, in_axes)

    def running(carry: tuple[Int[Array, ""], _Beams]) -> Bool[Array, ""]:
        count, beams = carry
        return (count < limit) & ~jnp.all(beams.stopped | ~beams.finite[..., None])

    def body(carry: tuple[Int[Array, ""], _Beams]) -> tuple[Int[Array, ""], _Beams]:
        count, beams = carry
        return count + 1, step(decoder, beams)

    return jax.lax.while_loop(running, body, (jnp.array(0, jnp.int32), beams))[1]
