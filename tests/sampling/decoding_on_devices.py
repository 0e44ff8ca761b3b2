"""Run by `test_on_devices.py` in a process of its own: four emulated devices decode as one does, type checks on.

Its arguments are the subjects to run; of the others only the types are checked."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from decoders import NAMES, VOCAB, elman, subject_named
from jax.sharding import PartitionSpec as P

from zoo import (
    AbstractDecoder,
    Chain,
    Greedy,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    decode,
)
from zoo.sampling import decode_tokens, prefill_prompts

jax.config.update("jax_numpy_rank_promotion", "raise")
PROMPTS = np.arange(12).reshape(4, 3) % VOCAB
LENGTHS = np.array([1, 3, 2, 3])
SAMPLERS = {
    "greedy": Greedy(),
    "temperature": Temperature(0.8),
    "chain": Chain(RepetitionPenalty(1.2), PresencePenalty(0.1), TopK(8), TopP(0.9), MinP(0.01), Temperature(1.5)),
}
SPECS = P(), P("rows"), P("rows")  # of weights, prompts, lengths
mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))


def fill(make, scale=0.4):
    """As the fixture of that name."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray((scale * rng.normal(size=leaf.shape)).astype(leaf.dtype), leaf.dtype)
            if hasattr(leaf, "shape")
            else leaf
        ),
        eqx.filter_eval_shape(make, jax.random.key(0)),
    )


def on_devices(f, in_specs, *arguments):
    """A function of a device's share; what it returns has a leading axis of shares."""
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=P("rows")))(*arguments)


def run(decoder, prompts, lengths, key, sampler=SAMPLERS["temperature"], **how):
    how = {"capacity": 16, "max_new_tokens": 9, "stop_ids": jnp.array([4])} | how
    return decode(decoder, prompts, length=lengths, sampler=sampler, key=key, **how)


def outputs(generated):
    """All that a user reads, so that no buffer is forgotten."""
    return generated.tokens, generated.length, generated.log_probs, generated.stopped, generated.context


def check(got, expected):
    """The same tokens and lengths, and log-probabilities up to the rounding of another shape."""
    for ours, alone in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)


def rows_are_shared_out(name: str, decoder: AbstractDecoder, traced: bool) -> None:
    """Each device has a prompt, all have the weights: what `jit` of the rows one by one gives; or the types alone."""
    arrays, static = eqx.partition(decoder, eqx.is_array)
    # A sampler's types do not depend on the decoder: where only types are checked, the longest one will do.
    for sampler_name in ("chain",) if traced else SAMPLERS:
        sampler = SAMPLERS[sampler_name]
        key = None if sampler_name == "greedy" else jax.random.key(3)
        share = jax.jit(
            lambda arrays, prompts, lengths, sampler=sampler, key=key: outputs(
                run(eqx.combine(arrays, static), prompts, lengths, key, sampler)
            )
        )
        if traced:
            jax.eval_shape(lambda *xs, f=share: on_devices(f, SPECS, *xs), arrays, PROMPTS, LENGTHS)
            continue
        got = on_devices(share, SPECS, arrays, PROMPTS, LENGTHS)
        alone = [share(arrays, PROMPTS[i : i + 1], LENGTHS[i : i + 1]) for i in range(4)]
        check(got, jax.tree.map(lambda *rows: np.concatenate(rows), *alone))
    print(f"{name}: {'types fit' if traced else 'as alone'}")


def anything_may_vary(decoder: AbstractDecoder) -> None:
    """Not the prompts but the weights, the key, the temperature, the limit or the stop ids of a device."""
    arrays, static = eqx.partition(decoder, eqx.is_array)
    prompt, length = PROMPTS[1], LENGTHS[1]

    def share(arrays, scale, keys, temperature, limit, stop_ids):
        own = eqx.combine(jax.tree.map(lambda x: x * scale[0], arrays), static)
        how = {"max_new_tokens": limit[0], "stop_ids": stop_ids[0]}
        out = run(own, prompt, length, keys[0], Chain(TopP(0.95), Temperature(temperature[0])), **how)
        return jax.tree.map(lambda x: x[None], outputs(out))

    same = (
        jnp.ones(4),
        jnp.broadcast_to(jax.random.key(1), 4),
        jnp.full(4, 0.9),
        jnp.full(4, 9),
        jnp.full((4, 1), 4),
    )
    others = (
        jnp.linspace(0.5, 2.0, 4),
        jax.random.split(jax.random.key(1), 4),
        jnp.linspace(0.0, 3.0, 4),
        jnp.array([0, 2, 5, 9]),
        jnp.array([[-1], [0], [1], [2]]),
    )
    for which in range(5):  # types are checked when a function is traced
        arguments, specs = [*same], [P()] * 6
        arguments[which], specs[1 + which] = others[which], P("rows")
        traced = jax.shard_map(share, mesh=mesh, in_specs=tuple(specs), out_specs=P("rows"))
        jax.eval_shape(traced, arrays, *arguments)
    got = on_devices(share, (P(), *[P("rows")] * 5), arrays, *others)
    one = jax.jit(share)
    alone = [one(arrays, *(x[i : i + 1] for x in others)) for i in range(4)]
    check(got, jax.tree.map(lambda *rows: np.concatenate(rows), *alone))
    print("weights, keys, temperatures, limits and stop ids of each device: as alone")


def in_pieces(decoder: AbstractDecoder) -> None:
    """A prefill, samples of it, what comes later, and the scores of given text, each by itself."""

    def pieces(prompts, lengths, keys):
        begun = prefill_prompts(decoder, prompts, capacity=16, length=lengths)
        first = decode_tokens(decoder, begun, max_new_tokens=4, sampler=Temperature(1.0), key=keys[0])
        more = decode_tokens(decoder, first, max_new_tokens=3, sampler=Temperature(1.0), key=keys[0])
        samples = run(decoder, prompts[0], lengths[0], keys[0], num_samples=2)
        logits, _ = decoder.extend(prompts[0], decoder.init_state(8))
        return outputs(first), outputs(more), outputs(samples), logits

    arguments = PROMPTS, LENGTHS, jax.random.split(jax.random.key(5), 4)
    got = on_devices(pieces, (P("rows"),) * 3, *arguments)
    one = jax.jit(pieces)
    alone = [one(*(a[i : i + 1] for a in arguments)) for i in range(4)]
    check(got, jax.tree.map(lambda *rows: np.concatenate(rows), *alone))
    print("in pieces: as alone")


if __name__ == "__main__":
    for name in NAMES:
        rows_are_shared_out(name, subject_named(name, fill).decoder, traced=name not in sys.argv[1:])
    anything_may_vary(elman(fill).decoder)
    in_pieces(elman(fill).decoder)
