"""The ways of running JAX: without `jit`, and with 64-bit numbers. The answers are the same."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import NAMES, VOCAB, elman, subject_named
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import (
    Chain,
    Greedy,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    beam_search,
    decode,
    generate,
    score,
    stream,
)
from zoo.sampling._samplers import draw

SAMPLERS = [
    Greedy(),
    Temperature(0.7),
    Temperature(0),
    TopK(3),
    TopK(0),
    TopP(0.8),
    MinP(0.1),
    RepetitionPenalty(1.5),
    PresencePenalty(-0.3),
    Chain(),
    Chain(RepetitionPenalty(1.2), PresencePenalty(0.4), TopK(6), TopP(0.95), MinP(0.02), Temperature(1.3)),
]
MODES = {"disable_jit": jax.disable_jit, "x64": lambda: jax.enable_x64(True)}
SLOW = [pytest.param("disable_jit", marks=pytest.mark.slow), "x64"]  # every operation is a call from Python
CONTEXT = np.array([1, 4, 4, -1], np.int32)


@pytest.fixture(scope="module")
def decoder(fill):
    return elman(fill).decoder


@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([1e-3, 1.0, 1e4]), holes=st.sampled_from([0.0, 0.5]))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_samplers_draw_the_same_with_64_bits(seed, scale, holes):
    logits = some_logits(seed, scale, holes)
    expected = draw_all(SAMPLERS, logits, CONTEXT, jax.random.key(seed))
    with jax.enable_x64(True):
        got = draw_all(SAMPLERS, logits, CONTEXT, jax.random.key(seed))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_sampler_works_without_jit(sampler):
    logits = some_logits(0, 1.0, 0.2)
    with jax.disable_jit():
        got = sampler(jnp.asarray(logits), jnp.asarray(CONTEXT))
    np.testing.assert_allclose(got, eqx.filter_jit(sampler)(logits, CONTEXT), rtol=1e-6)


def some_logits(seed, scale, holes):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=VOCAB)).astype(np.float32)
    logits[1:][rng.random(VOCAB - 1) < holes] = -np.inf
    return logits


@eqx.filter_jit
def draw_all(samplers, logits, context, key):
    """The token, whether there was one, and what it was drawn from, of each sampler."""
    return [(*draw(sampler, logits, context, key), sampler(logits, context)) for sampler in samplers]


def all_ways(decoder):
    """What a user reads of everything that there is."""
    how = {"sampler": SAMPLERS[-1], "stop_ids": [9], "key": jax.random.key(2)}
    one = generate(decoder, [1, 2, 3], max_new_tokens=5, **how)
    batch = generate(decoder, [[1], [2, 3]], max_new_tokens=4)
    more = generate(decoder, resume=batch, max_new_tokens=3, **how)
    pure = decode(decoder, np.array([[1, 2]]), capacity=8, max_new_tokens=4, sampler=Temperature(1.0), key=how["key"])
    beams = beam_search(decoder, [[1], [2, 3]], num_beams=3, max_new_tokens=4, stop_ids=[2], length_penalty=1.0)
    scored = score(decoder, [[1, 2, 3], [4, 5]])
    return (
        *((g.tokens, g.length, g.log_probs, g.stopped, g.finite) for g in (one, batch, more, pure)),
        (beams.tokens, beams.length, beams.log_probs, beams.scores),
        (scored.log_probs, scored.length, scored.total, scored.perplexity),
        np.array(list(stream(decoder, [1, 2, 3], max_new_tokens=5, **how))),
    )


@pytest.mark.parametrize("mode", SLOW)
def test_everything_answers_the_same_in_every_mode(decoder, mode):
    expected = jax.device_get(all_ways(decoder))
    with MODES[mode]():
        got = jax.device_get(all_ways(decoder))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["script", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "script")]
)
def test_models_without_jit(fill, name):
    decoder = subject_named(name, fill).decoder
    how = {"max_new_tokens": 2, "sampler": Chain(TopK(5), TopP(0.9), Temperature(1.3)), "key": jax.random.key(0)}
    expected = generate(decoder, [1, 2], **how)
    with jax.disable_jit():
        got = generate(decoder, [1, 2], **how)
    np.testing.assert_array_equal(got.tokens, expected.tokens)


def test_a_float64_number_is_used_as_float32(decoder):
    """Under x64 an array of the user's may be float64; what is drawn does not depend on it."""
    expected = None
    for kind in (float, np.float64, np.float32, lambda x: np.array(x), jnp.asarray):
        with jax.enable_x64(True):
            sampler = Chain(PresencePenalty(kind(0.1)), TopP(kind(0.9)), MinP(kind(0.01)), Temperature(kind(0.7)))
            out = generate(decoder, [1, 2], max_new_tokens=4, sampler=sampler, key=jax.random.key(0))
        expected = out if expected is None else expected
        np.testing.assert_array_equal(out.tokens, expected.tokens)
        assert out.log_probs.dtype == np.float32
