"""Decoding, pure and traced: one `while_loop` around one vmapped `step`, for use inside any `jit`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from zoo.decoder import AbstractDecoder, keep_if_stopped
from zoo.sampling._checks import check_decoder, check_samples
from zoo.sampling._samplers import AbstractSampler, Greedy, check_sampler, draw
from zoo.varying import vary_together


class Generated(eqx.Module):
    """What `generate` and `decode` return; `generate(..., resume=generated)` continues it.

    One prompt gives the shapes below without the leading axis, a batch gives them with it.

    Attributes:
        tokens: the new tokens, without the prompt; the stop id is kept, and after it comes -1.
        length: how many there are, the stop id counted.
        log_probs: what the model gave each, in nats, before any sampler changed it; 0 after `length`.
        stopped: whether a stop id ended the row.
        finite: False where logits were not finite, which ended the row (`generate` raises instead).
        logits: of the token that comes next.
        state: of the decoder, which has taken in all of `context`.
        context: the prompt and all tokens since, then -1.
        context_length: how many those are.
        drawn: how many were drawn since the prompt: token t of a row uses `fold_in(row key, t)`.
    """

    tokens: Int[Array | np.ndarray, "*batch new"]
    length: Int[Array | np.ndarray, "*batch"]
    log_probs: Float[Array | np.ndarray, "*batch new"]
    stopped: Bool[Array | np.ndarray, "*batch"]
    finite: Bool[Array | np.ndarray, "*batch"]
    logits: Float[Array, "*batch vocab"]
    state: PyTree
    context: Int[Array, "*batch capacity"]
    context_length: Int[Array, "*batch"]
    drawn: Int[Array, "*batch"]


def decode(
    decoder: AbstractDecoder,
    prompts: Int[Array | np.ndarray, "*batch prompt"],
    *,
    capacity: int,
    max_new_tokens: Int[Array | np.ndarray, ""] | int,
    length: Int[Array | np.ndarray, "*batch"] | None = None,
    sampler: AbstractSampler = Greedy(),  # noqa: B008 (immutable)
    stop_ids: Int[Array | np.ndarray, " stops"] | None = None,
    key: PRNGKeyArray | None = None,
    num_samples: int | None = None,
    in_axes: PyTree = None,
) -> Generated:
    """Prefill, then token by token until every row has stopped or is full. Pure: works under `jit` and `vmap`.

    Checks nothing but types and shapes: it returns flags where `generate`, the shell around it for the host, raises.
    Under `shard_map`, what comes back varies over every axis over which the decoder or an argument does.

    Args:
        decoder: made by a model.
        prompts: one (prompt,) or a batch (batch, prompt) of token ids, padded on the right.
        capacity: how many tokens a state can hold, prompt and new ones together; fixes all shapes.
        max_new_tokens: most tokens to generate, may be traced; a row that outgrows `capacity` ends with `finite`
            False.
        length: real tokens of each prompt; all by default.
        sampler: how the next token is chosen.
        stop_ids: ids that end a row; -1 stands for none.
        key: for samplers that draw; row i of a batch uses `fold_in(key, i)`, one prompt uses `key` itself.
        num_samples: continuations of one prompt from one prefill; they come as a batch.
        in_axes: which leaves of the decoder have a leading axis of rows, as in `vmap`; none by default.
    """
    check_sampler(sampler)
    if num_samples is not None:
        check_samples(num_samples, prompts, in_axes)
    generated = prefill_prompts(decoder, prompts, capacity=capacity, length=length, in_axes=in_axes)
    if num_samples is not None:
        generated = jax.tree.map(lambda x: jnp.repeat(x[None], num_samples, axis=0), generated)
    return decode_tokens(
        decoder,
        generated,
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        stop_ids=stop_ids,
        key=key,
        in_axes=in_axes,
    )


def prefill_prompts(
    decoder: AbstractDecoder,
    prompts: Int[Array | np.ndarray, "*batch prompt"],
    *,
    capacity: int,
    length: Int[Array | np.ndarray, "*batch"] | None = None,
    in_axes: PyTree = None,
) -> Generated:
    """The prompts taken in and nothing generated yet. Arguments as in `decode`."""
    check_decoder(decoder)
    prompts = jnp.asarray(prompts, jnp.int32)
    if prompts.ndim > 1 and prompts.shape[0] == 0:
        raise ValueError(f"a batch needs at least one prompt, got prompts of shape {prompts.shape}")
    size = prompts.shape[-1]
    if not 1 <= size <= capacity:
        raise ValueError(f"prompts of {size} tokens must have at least 1 and fit into capacity ({capacity})")
    length = jnp.full(prompts.shape[:-1], size, jnp.int32) if length is None else jnp.asarray(length)

    def begin(decoder: AbstractDecoder, tokens: Int[Array, " prompt"], length: Int[Array, ""]) -> Generated:
        # A decoder that takes in its prompt by a loop needs a state that varies as its weights and the prompt do.
        decoder, tokens, length, state = vary_together(decoder, tokens, length, decoder.init_state(capacity))
        logits, state = decoder.prefill(tokens, state, length=length)
        real = jnp.where(jnp.arange(size) < length, tokens, -1)
        return _nothing_new(
            logits=logits.astype(jnp.float32),
            state=state,
            context=jnp.full(capacity, -1, jnp.int32).at[:size].set(real),
            context_length=length.astype(jnp.int32),
            drawn=jnp.array(0, jnp.int32),
        )

    return vmap_rows(begin, prompts.ndim > 1, in_axes)(decoder, prompts, length)


def decode_tokens(
    decoder: AbstractDecoder,
    generated: Generated,
    *,
    max_new_tokens: Int[Array | np.ndarray, ""] | int,
    sampler: AbstractSampler = Greedy(),  # noqa: B008 (immutable)
    stop_ids: Int[Array | np.ndarray, " stops"] | None = None,
    key: PRNGKeyArray | None = None,
    in_axes: PyTree = None,
) -> Generated:
    """Continues what was generated, stopped rows too; `tokens` are the new ones. Arguments as in `decode`."""
    check_decoder(decoder)
    check_sampler(sampler)
    if not sampler.draws:
        key = None
    if generated.length.ndim == 0:  # without vmap: XLA copies the caches of a batch of one four times a token
        return _decode_loop(decoder, generated, max_new_tokens, sampler, stop_ids, key, in_axes)
    rows = jnp.arange(generated.length.shape[0])
    keys = None if key is None else jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    if rows.size == 1 and in_axes is None:  # so is a batch of one
        one, one_key = jax.tree.map(lambda x: x[0], (generated, keys))
        out = _decode_loop(decoder, one, max_new_tokens, sampler, stop_ids, one_key, in_axes)
        return jax.tree.map(lambda x: x[None], out)
    return _decode_loop(decoder, generated, max_new_tokens, sampler, stop_ids, keys, in_axes)


def _decode_loop(
    decoder: AbstractDecoder,
    generated: Generated,
    limit: Int[Array | np.ndarray, ""] | int,
    sampler: AbstractSampler,
    stop_ids: Int[Array | np.ndarray, " stops"] | None,
    keys: Shaped[Array, "..."] | None,
    in_axes: PyTree,
) -> Generated:
    capacity = generated.context.shape[-1]
    limit = jnp.asarray(limit, jnp.int32)
    stop_ids = jnp.full(1, -1, jnp.int32) if stop_ids is None else jnp.asarray(stop_ids)
    batched = generated.length.ndim > 0
    step = vmap_rows(lambda decoder, token, state: decoder.step(token, state), batched, in_axes)
    each = jax.vmap if batched else lambda f: f

    def ended(row: Generated) -> Bool[Array, "*batch"]:
        return jnp.asarray(row.stopped | ~row.finite | (row.length >= limit))

    def choose(row: Generated, key: PRNGKeyArray | None) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        key = None if key is None else jax.random.fold_in(key, row.drawn)
        return draw(sampler, row.logits, row.context, key)

    def record(row: Generated, token, finite, logits, state) -> Generated:
        """One row after a step: changed only if it continues and its logits were finite."""
        continues = ~ended(row)
        finite &= row.context_length < capacity  # what does not fit has no logits after it
        counts = continues & finite
        add = counts.astype(jnp.int32)

        def put(buffer: ArrayLike, index: ArrayLike, value: Shaped[Array, ""]) -> Shaped[Array, " capacity"]:
            return jnp.asarray(buffer).at[jnp.where(counts, index, capacity)].set(value, mode="drop")

        return Generated(
            tokens=put(row.tokens, row.length, token),
            length=row.length + add,
            log_probs=put(row.log_probs, row.length, row.logits[token] - jax.nn.logsumexp(row.logits)),
            stopped=row.stopped | (counts & jnp.any(token == stop_ids)),
            finite=row.finite & (finite | ~continues),
            logits=jnp.where(counts, logits.astype(jnp.float32), row.logits),
            state=keep_if_stopped(~counts, row.state, state),
            context=put(row.context, row.context_length, token),
            context_length=row.context_length + add,
            drawn=row.drawn + add,
        )

    def body(rows: Generated) -> Generated:
        token, finite = each(choose)(rows, keys)
        logits, state = step(decoder, token, rows.state)
        return each(record)(rows, token, finite, logits, state)

    fresh = _nothing_new(
        generated.logits, generated.state, generated.context, generated.context_length, generated.drawn
    )
    fresh, *_ = vary_together(fresh, decoder, limit, sampler, stop_ids, keys)  # a loop gives back what it was given
    return jax.lax.while_loop(lambda rows: ~jnp.all(ended(rows)), body, fresh)


def _nothing_new(
    logits: Float[Array, "*batch vocab"],
    state: PyTree,
    context: Int[Array, "*batch capacity"],
    context_length: Int[Array, "*batch"],
    drawn: Int[Array, "*batch"],
) -> Generated:
    """Ready to generate from there, with no new token yet."""
    return Generated(
        tokens=jnp.full_like(context, -1),
        length=jnp.zeros_like(context_length),
        log_probs=jnp.zeros(context.shape, jnp.float32),
        stopped=jnp.zeros(context_length.shape, bool),
        finite=jnp.ones(context_length.shape, bool),
        logits=logits,
        state=state,
        context=context,
        context_length=context_length,
        drawn=drawn,
    )


def vmap_rows(f: Callable[..., Any], batched: bool, in_axes: PyTree) -> Callable[..., Any]:
    """`f(decoder, ...)` over the rows of all other arguments; the decoder's shared weights are never copied."""
    if not batched:
        return f

    def call(decoder, *rows):
        return eqx.filter_vmap(f, in_axes=(in_axes, *(0 for _ in rows)))(decoder, *rows)

    return call
