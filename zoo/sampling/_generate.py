"""Generation for the host: checks what came in, rounds shapes up to buckets, calls the compiled `decode`."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from zoo.decoder import AbstractDecoder
from zoo.sampling._checks import as_float32, check_decoder, check_integer, check_key, check_rows, check_samples
from zoo.sampling._decode import Generated, decode, decode_tokens, prefill_prompts
from zoo.sampling._prompts import (
    NonFiniteLogitsError,
    Prompts,
    capacity_for,
    check_capacity,
    pad_ids,
    pad_prompts,
    prompts_or_start,
)
from zoo.sampling._samplers import AbstractSampler, Chain, Forbid, Greedy, check_sampler

_decode = eqx.filter_jit(decode)
_prefill_prompts = eqx.filter_jit(prefill_prompts)
_decode_tokens = eqx.filter_jit(decode_tokens)


def generate(
    decoder: AbstractDecoder,
    prompts: Prompts | None = None,
    *,
    max_new_tokens: int,
    sampler: AbstractSampler = Greedy(),  # noqa: B008 (immutable)
    stop_ids: Sequence[int] | None = None,
    forbidden_ids: Sequence[int] | None = None,
    key: PRNGKeyArray | None = None,
    num_samples: int | None = None,
    resume: Generated | None = None,
    in_axes: PyTree = None,
) -> Generated:
    """Continues prompts token by token until a stop id or `max_new_tokens`.

    Compiled once per decoder and bucket (prompt and capacity rounded up to powers of two): other lengths, numbers
    and stop ids in the same bucket compile nothing. Row i of a batch gives what its prompt alone gives with
    `fold_in(key, i)`, up to rounding.

    Args:
        decoder: made by a model, such as `lm.decoder()`.
        prompts: one prompt (token ids) or a list of prompts of any lengths, each of at least one token; by default
            the decoder's `start_ids`, if it has any.
        max_new_tokens: most tokens to add, at least 0.
        sampler: how the next token is chosen: `Greedy()`, `Temperature(0.8)`, `Chain(TopK(50), Temperature(0.8))`...
        stop_ids: ids that end a row; the id is kept and counted in `length`. By default the decoder's.
        forbidden_ids: ids that are never drawn. By default the decoder's.
        key: needed by samplers that draw at random.
        num_samples: that many continuations of one prompt, from one prefill; they come as a batch.
        resume: continue this result instead of prompts; `tokens` of what comes back are the new ones. With the
            same key the tokens are those of one longer call, but for rows that a stop id ended: they go on, too.
        in_axes: which leaves of the decoder have a leading axis of rows (a batch of sources), as in `vmap`.

    Returns:
        `Generated`; its `tokens`, `log_probs`, `length` and flags are NumPy arrays.

    Raises:
        TypeError, ValueError: before any compute, for a model in place of its decoder, a number in place of a
            sampler, ids or numbers out of range, an empty prompt, more tokens than the model takes, or a missing key.
        NonFiniteLogitsError: logits were not finite.

    Example:
        >>> import jax
        >>> from zoo import CharRNN, CharRNNConfig, Temperature, generate
        >>> config = CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1)
        >>> decoder = CharRNN(config, key=jax.random.key(0)).decoder()
        >>> out = generate(decoder, [[1, 2], [3]], max_new_tokens=5, sampler=Temperature(0.8), key=jax.random.key(1))
        >>> out.tokens.shape
        (2, 5)
    """
    numbers = _numbers(decoder, sampler, max_new_tokens, stop_ids, forbidden_ids, key)
    if prompts is not None and resume is not None:
        raise ValueError("give either prompts or resume, not both")
    if resume is not None:
        if num_samples is not None:
            raise ValueError("num_samples goes with a prompt, not with resume")
        if not isinstance(resume, Generated):
            raise TypeError(f"resume takes what generate returned, got {type(resume).__name__}")
        wide = _with_capacity(decoder, resume, max_new_tokens, in_axes)
        return _finish(_decode_tokens(decoder, wide, in_axes=in_axes, **numbers), max_new_tokens)
    tokens, length = pad_prompts(prompts_or_start(prompts, decoder), decoder.vocab_size)
    if num_samples is not None:
        check_samples(num_samples, tokens, in_axes)
    check_rows(tokens, in_axes)
    check_capacity(decoder, int(length.max()), max_new_tokens)
    capacity = capacity_for(decoder, int(length.max()) + max_new_tokens)
    generated = _decode(
        decoder,
        tokens[..., :capacity],
        capacity=capacity,
        length=length,
        num_samples=num_samples,
        in_axes=in_axes,
        **numbers,
    )
    return _finish(generated, max_new_tokens)


def stream(
    decoder: AbstractDecoder,
    prompt: Prompts | None = None,
    *,
    max_new_tokens: int,
    sampler: AbstractSampler = Greedy(),  # noqa: B008 (immutable)
    stop_ids: Sequence[int] | None = None,
    forbidden_ids: Sequence[int] | None = None,
    key: PRNGKeyArray | None = None,
) -> Iterator[int]:
    """Yields the tokens of `generate(decoder, prompt, ...)` one by one as they are made, the stop id too.

    Arguments, errors and tokens are those of `generate` for one prompt; wrong arguments raise at the call.

    Example:
        >>> import jax
        >>> from zoo import CharRNN, CharRNNConfig, stream
        >>> config = CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1)
        >>> decoder = CharRNN(config, key=jax.random.key(0)).decoder()
        >>> len(list(stream(decoder, [1, 2], max_new_tokens=5)))
        5
    """
    numbers = _numbers(decoder, sampler, max_new_tokens, stop_ids, forbidden_ids, key)
    numbers |= {"max_new_tokens": np.asarray(1, np.int32)}
    tokens, length = pad_prompts(prompts_or_start(prompt, decoder), decoder.vocab_size)
    if tokens.ndim != 1:
        raise ValueError("stream takes one prompt, not a batch")
    check_capacity(decoder, int(length), max_new_tokens)
    capacity = capacity_for(decoder, int(length) + max_new_tokens)

    def steps() -> Iterator[int]:
        generated = _prefill_prompts(decoder, tokens[:capacity], capacity=capacity, length=length)
        for _ in range(max_new_tokens):
            generated = _decode_tokens_in_place((decoder, numbers), generated)
            _check_finite(generated)
            yield int(generated.tokens[0])
            if bool(generated.stopped):
                return

    return steps()


@functools.partial(eqx.filter_jit, donate="all-except-first")
def _decode_tokens_in_place(kept: tuple[AbstractDecoder, dict[str, Any]], generated: Generated) -> Generated:
    """Nobody but `stream` holds what it continues, so its caches are written in place; the rest is kept."""
    decoder, numbers = kept
    return decode_tokens(decoder, generated, **numbers)


def _numbers(
    decoder: AbstractDecoder,
    sampler: AbstractSampler,
    max_new_tokens: int,
    stop_ids: Sequence[int] | None,
    forbidden_ids: Sequence[int] | None,
    key: PRNGKeyArray | None,
) -> dict[str, Any]:
    """Arguments of `decode`, checked, and as arrays, so that another number is not another compilation."""
    check_decoder(decoder)
    check_integer("max_new_tokens", max_new_tokens, 0)
    check_sampler(sampler)
    check_key(key)
    if sampler.draws and key is None:
        raise ValueError(f"{sampler} draws at random: key must be given, such as jax.random.key(0)")

    def array(leaf: Any) -> Any:
        number = isinstance(leaf, int | float | np.floating | np.integer) and not isinstance(leaf, bool)
        # Whole numbers too: Temperature(1) is compiled like Temperature(0.9).
        return as_float32(leaf) if number else leaf

    sampler = jax.tree.map(array, sampler)
    stop_ids = decoder.stop_ids if stop_ids is None else stop_ids
    forbidden_ids = decoder.forbidden_ids if forbidden_ids is None else forbidden_ids
    forbidden = pad_ids("forbidden_ids", forbidden_ids, decoder.vocab_size)
    if (forbidden >= 0).any():
        sampler = Chain(Forbid(forbidden), sampler)
    if key is None and jax.tree.leaves(sampler):
        key = jax.random.key(0)  # once compiled, `Temperature(0)` could be any temperature, and those need some key
    return {
        "sampler": sampler,
        "max_new_tokens": np.asarray(max_new_tokens, np.int32),
        "stop_ids": pad_ids("stop_ids", stop_ids, decoder.vocab_size),
        "key": key,
    }


def _with_capacity(decoder: AbstractDecoder, generated: Generated, max_new_tokens: int, in_axes: PyTree) -> Generated:
    """`generated` with room for more tokens, of the shapes that `decode` gave it."""
    context, length = np.asarray(generated.context), np.asarray(generated.context_length)
    capacity, longest = context.shape[-1], int(length.max())
    check_capacity(decoder, longest, max_new_tokens)
    if longest + max_new_tokens <= capacity:
        return _reset(generated, capacity)
    capacity = capacity_for(decoder, longest + max_new_tokens)
    wider = np.full((*context.shape[:-1], capacity), -1, np.int32)
    wider[..., : context.shape[-1]] = context
    # A state that does not depend on the capacity (hidden vectors) is kept; a cache is made anew from the context.
    small, large = (eqx.filter_eval_shape(decoder.init_state, r) for r in (context.shape[-1], capacity))
    if eqx.tree_equal(small, large) is True:
        return eqx.tree_at(lambda g: g.context, _reset(generated, capacity), wider)
    fresh = _prefill_prompts(decoder, np.maximum(wider, 0), capacity=capacity, length=length, in_axes=in_axes)
    return eqx.tree_at(lambda g: g.drawn, fresh, generated.drawn)


def _reset(generated: Generated, capacity: int) -> Generated:
    """Clears the outputs so that their shapes do not trigger recompilation."""
    shape = np.shape(generated.length)
    return eqx.tree_at(
        lambda g: (g.tokens, g.log_probs, g.length, g.stopped, g.finite),
        generated,
        (
            np.full((*shape, capacity), -1, np.int32),
            np.zeros((*shape, capacity), np.float32),
            np.zeros(shape, np.int32),
            np.zeros(shape, bool),
            np.ones(shape, bool),
        ),
    )


def _finish(generated: Generated, max_new_tokens: int) -> Generated:
    _check_finite(generated)
    tokens, log_probs, length, stopped, finite = jax.device_get(
        (generated.tokens, generated.log_probs, generated.length, generated.stopped, generated.finite)
    )
    return eqx.tree_at(
        lambda g: (g.tokens, g.log_probs, g.length, g.stopped, g.finite),
        generated,
        (tokens[..., :max_new_tokens], log_probs[..., :max_new_tokens], length, stopped, finite),
    )


def _check_finite(generated: Generated) -> None:
    finite = np.atleast_1d(np.asarray(generated.finite))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        at = int(np.atleast_1d(np.asarray(generated.drawn))[row])
        raise NonFiniteLogitsError(f"the logits of new token {at} of row {row} are not finite: is the model trained?")
