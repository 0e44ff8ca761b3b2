"""The loop of beam search, traced: running beams beside a pool of finished ones."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float32, Int, Int32, PyTree

from zoo.decoder import AbstractDecoder
from zoo.sampling._decode import vmap_rows
from zoo.sampling._samplers import forbid


class Found(eqx.Module):
    """Finished beams of one row, best first; a log-probability of -inf is an empty place."""

    tokens: Int32[Array, "*batch beams capacity"]
    length: Int32[Array, "*batch beams"]
    log_probs: Float32[Array, "*batch beams"]


class Running(eqx.Module):
    """Beams of one row that have not stopped, all of one length; a log-probability of -inf is an empty place."""

    tokens: Int32[Array, "*batch beams capacity"]
    log_probs: Float32[Array, "*batch beams"]
    logits: Float32[Array, "*batch beams vocab"]
    state: PyTree


class Candidates(eqx.Module):
    """Continuations of the running beams of one row by one token.

    Attributes:
        log_probs: of the best that do not stop, as many as there are beams, best first.
        index: of each, parent * vocab + token.
        ends: log-probabilities of all that stop.
        some_end: whether one of those may enter the pool.
    """

    log_probs: Float32[Array, "*batch beams"]
    index: Int32[Array, "*batch beams"]
    ends: Float32[Array, "*batch ends"]
    some_end: Bool[Array, "*batch"]


@eqx.filter_jit
def search(
    decoder: AbstractDecoder,
    prompts: Int[Array | np.ndarray, "*batch prompt"],
    lengths: Int[Array | np.ndarray, "*batch"],
    limit: Int[Array | np.ndarray, ""],
    length_penalty: Float32[Array | np.ndarray, ""],
    stop_ids: Int[Array | np.ndarray, " stops"],
    forbidden_ids: Int[Array | np.ndarray, " forbidden"],
    capacity: int,
    num_beams: int,
    in_axes: PyTree,
) -> tuple[Found, Found]:
    """The finished beams, and those that still ran at `limit` tokens. Arguments as in `beam_search`, padded.

    Running beams have one length, so they are compared by their log-probability alone, and always `num_beams` of
    them: what has stopped takes no place from what has not. A beam is given up as soon as none of its continuations
    can enter the pool, and the search of a row ends with its last beam.
    """
    stop_ids = jnp.asarray(stop_ids)

    def rank(log_probs: Float32[Array, " n"], length: Int[Array, "#n"]) -> Float32[Array, " n"]:
        """In the order of `log_probs / length ** length_penalty`, the logarithm of whose size cannot overflow."""
        return jnp.log(length.astype(jnp.float32)) * length_penalty - jnp.log(-log_probs)

    def begin(
        decoder: AbstractDecoder, tokens: Int[Array, " prompt"], length: Int[Array, ""]
    ) -> tuple[Running, Found]:
        logits, state = decoder.prefill(tokens, decoder.init_state(capacity), length=length)
        repeat = lambda x: jnp.repeat(x[None], num_beams, axis=0)  # noqa: E731
        nothing = jnp.full((num_beams, capacity), -1, jnp.int32)
        empty = jnp.full(num_beams, -jnp.inf, jnp.float32)
        running = Running(
            tokens=nothing,
            log_probs=empty.at[0].set(0.0),
            logits=repeat(logits.astype(jnp.float32)),
            state=jax.tree.map(repeat, state),
        )
        return running, Found(tokens=nothing, length=jnp.ones(num_beams, jnp.int32), log_probs=empty)

    def compare(count: Int[Array, ""], running: Running, found: Found) -> Candidates:
        """The best of all continuations by one token."""
        sums = running.log_probs[:, None] + jax.nn.log_softmax(running.logits)
        # Empty places and dead ends stay at -inf, whatever a decoder says after a token that it has forbidden.
        alive = (running.log_probs > -jnp.inf) & jnp.isfinite(jnp.max(running.logits, axis=-1))
        sums = forbid(jnp.where(alive[:, None], sums, -jnp.inf), forbidden_ids)
        ends = jnp.where(stop_ids >= 0, sums[:, stop_ids], -jnp.inf).reshape(-1)
        sums = forbid(sums, stop_ids)
        best = jax.lax.top_k(sums.reshape(-1), num_beams)
        log_probs, index = jax.lax.optimization_barrier(best)  # if its result is sliced, XLA sorts everything
        some_end = (ends > -jnp.inf) & (ends >= log_probs[-1])
        some_end &= rank(ends, count[None] + 1) >= rank(found.log_probs, found.length)[-1]
        return Candidates(log_probs, index, ends, jnp.any(some_end))

    def finish(count: Int[Array, ""], running: Running, found: Found, candidates: Candidates) -> Found:
        """The pool with the best of the running beams that stop here."""
        # What stops counts if it is among the best continuations of all, as many as there are beams (transformers).
        # If all counted, a stop id at once, improbable but short, would win over any long answer.
        ends = candidates.ends
        least = jax.lax.top_k(jnp.concatenate([candidates.log_probs, ends]), num_beams)[0][-1]
        log_probs = jnp.concatenate([found.log_probs, jnp.where(ends >= least, ends, -jnp.inf)])
        length = jnp.concatenate([found.length, jnp.full(ends.size, count + 1, jnp.int32)])
        # Ranks are logarithms, which are coarse: of equal ones the more probable comes first.
        keys = -rank(log_probs, length), -log_probs, jnp.arange(log_probs.size)
        best = jax.lax.sort(keys, num_keys=2)[-1][:num_beams]
        parent, stop = jnp.divmod(jnp.maximum(best - num_beams, 0), stop_ids.size)
        stopping = jnp.where(jnp.arange(capacity) == count, stop_ids[stop][:, None], running.tokens[parent])
        pooled = found.tokens[jnp.minimum(best, num_beams - 1)]
        return Found(jnp.where((best < num_beams)[:, None], pooled, stopping), length[best], log_probs[best])

    def step(
        count: Int[Array, ""], decoder: AbstractDecoder, running: Running, found: Found, candidates: Candidates
    ) -> Running:
        """The best continuations that do not stop, taken in."""
        log_probs, index = candidates.log_probs, candidates.index
        parent, token = jnp.divmod(index, running.logits.shape[-1])
        # Log-probabilities only fall, so the best that may come of a beam is its own at the most favourable length.
        favourable = jnp.where(length_penalty > 0, limit, jnp.minimum(count + 2, limit))
        hopeful = rank(log_probs, favourable[None]) >= rank(found.log_probs, found.length)[-1]
        logits, state = jax.vmap(decoder.step)(token, jax.tree.map(lambda x: x[parent], running.state))
        return Running(
            tokens=jnp.where(jnp.arange(capacity) == count, token[:, None], running.tokens[parent]),
            log_probs=jnp.where(hopeful, log_probs, -jnp.inf),
            logits=logits.astype(jnp.float32),
            state=state,
        )

    batched = prompts.ndim > 1

    def each(f: Callable[..., Any], *rows: PyTree) -> Any:
        return (jax.vmap(f) if batched else f)(*rows)

    def any_runs(carry: tuple[Int[Array, ""], Running, Found]) -> Bool[Array, ""]:
        count, running, _ = carry
        return (count < limit) & jnp.any(running.log_probs > -jnp.inf)

    def body(carry: tuple[Int[Array, ""], Running, Found]) -> tuple[Int[Array, ""], Running, Found]:
        count, running, found = carry
        candidates = each(functools.partial(compare, count), running, found)
        found = jax.lax.cond(  # outside of `vmap`, which would do both
            jnp.any(candidates.some_end),
            lambda: each(functools.partial(finish, count), running, found, candidates),
            lambda: found,
        )
        take_in = vmap_rows(functools.partial(step, count), batched, in_axes)
        return count + 1, take_in(decoder, running, found, candidates), found

    beams = vmap_rows(begin, batched, in_axes)(decoder, jnp.asarray(prompts), jnp.asarray(lengths))
    count, running, found = jax.lax.while_loop(any_runs, body, (jnp.array(0, jnp.int32), *beams))
    length = jnp.broadcast_to(count, running.log_probs.shape)
    return found, Found(running.tokens, length, running.log_probs)
