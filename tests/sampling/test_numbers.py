"""The numbers of samplers: zeros of every kind, the largest and the smallest, and what is not a number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, spell
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Chain, Greedy, MinP, PresencePenalty, RepetitionPenalty, Temperature, TopK, TopP, generate, stream
from zoo.sampling._checks import as_float32
from zoo.sampling._samplers import draw

pytestmark = pytest.mark.usefixtures("strict_promotion")
CONTEXT = np.array([0, 3, 5, -1], np.int32)
HUGE, TINY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


@eqx.filter_jit
def draw_jit(sampler, logits):
    context = jnp.asarray(CONTEXT)
    return *draw(sampler, logits, context, jax.random.key(1)), sampler(logits, context)


ZEROS = {
    "int": 0,
    "float": 0.0,
    "negative": -0.0,
    "float32": np.float32(0),
    "float64": np.float64(-0.0),
    "int64": np.int64(0),
    "numpy": np.array(0.0),
    "jax": jnp.array(0.0),
    "jax int": jnp.array(0),
    "bfloat16": jnp.array(0.0, jnp.bfloat16),
    "subnormal": np.float32(1e-45),
    "below float32": 1e-300,
}


@pytest.mark.parametrize("zero", ZEROS.values(), ids=ZEROS.keys())
def test_a_temperature_of_zero_needs_no_key(zero):
    sampler = Temperature(zero)
    assert not sampler.draws
    assert not Chain(PresencePenalty(1.0), sampler).draws
    assert Chain(TopK(5), sampler).draws  # a cut alone draws, and a chain does not look further
    assert generate(spell(1, 2, 3), [5], max_new_tokens=3, sampler=sampler).tokens.tolist() == [2, 3, 1]
    assert int(draw(sampler, jnp.array([0.0, 3.0, 1.0]), jnp.array([-1]), None)[0]) == 1


def test_streams_and_chains_of_zero_temperature_need_no_key():
    for sampler in (Temperature(np.float32(0)), Chain(PresencePenalty(0), Temperature(jnp.array(0.0)))):
        assert list(stream(spell(1, 2, 3), [5], max_new_tokens=3, sampler=sampler)) == [2, 3, 1]


def test_a_number_that_is_not_zero_or_not_known_needs_one():
    assert Temperature(TINY).draws
    assert Temperature(jnp.array(1e-30)).draws
    seen = []
    jax.jit(lambda t: seen.append(Temperature(t).draws))(0.0)
    assert seen == [True]


every_float = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.sampled_from([8.9e37, 9e37, 1e38, HUGE, -HUGE, 3.5e38, 1e300, TINY, 1e-38, 1e-39, 1e-45, 1e-300, -0.0]),
    st.integers(-(10**400), 10**400),
)
samplers = st.sampled_from([Temperature, TopK, TopP, MinP, RepetitionPenalty, PresencePenalty])


def some_logits(seed, scale, holes):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=VOCAB)).astype(np.float32)
    logits[rng.permutation(VOCAB)[:holes]] = -np.inf
    return logits


@given(samplers, every_float, st.integers(0, 10**6), st.sampled_from([1.0, 30.0, 1e4]), st.sampled_from([0, 5, 10]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_number_is_refused_or_right(make, number, seed, scale, holes):
    """Never "is the model trained?": something is left, of what was allowed, and the best is among it."""
    try:
        sampler = make(number)
    except ValueError:
        return
    assert_sound(jax.tree.map(as_float32, sampler), some_logits(seed, scale, holes))


def assert_sound(sampler, logits):
    token, finite, left = draw_jit(sampler, logits)
    assert bool(finite)
    assert logits[int(token)] > -np.inf
    assert not np.isnan(left).any()
    assert (np.asarray(left)[logits == -np.inf] == -np.inf).all()
    if not isinstance(sampler, RepetitionPenalty | PresencePenalty):
        assert left[logits.argmax()] == left.max()


@pytest.mark.parametrize("make", [Temperature, RepetitionPenalty, PresencePenalty])
@pytest.mark.parametrize("number", [TINY, 1e-30, 1.0, 8.9e37, 9e37, HUGE])
def test_a_traced_number_that_nobody_can_refuse_is_right_too(make, number):
    sampler = eqx.tree_at(lambda s: jax.tree.leaves(s)[0], make(1.0), np.asarray(number, np.float32))
    for holes in (0, 9):
        assert_sound(sampler, some_logits(3, 5.0, holes))


def test_the_largest_temperatures_are_uniform_over_what_is_allowed():
    logits = np.where(np.arange(VOCAB) % 2 == 0, 3.0 * np.arange(VOCAB), -np.inf).astype(np.float32)
    for number in (9e37, 1e38, HUGE):
        left = np.asarray(eqx.filter_jit(Temperature(number))(jnp.asarray(logits), jnp.asarray(CONTEXT)))
        np.testing.assert_allclose(left, np.where(np.arange(VOCAB) % 2 == 0, 0.0, -np.inf), atol=1e-6)


@pytest.mark.parametrize("number", [1e-45, 1e-300, 1e-31, 1e31, HUGE, 10**400])
def test_penalties_that_float32_cannot_apply_are_refused(number):
    with pytest.raises(ValueError, match=r"repetition_penalty must be .* at least 1e-30, at most 1e\+30"):
        RepetitionPenalty(number)


@pytest.mark.parametrize("make", [Temperature, PresencePenalty])
@pytest.mark.parametrize("number", [3.5e38, 1e300, 10**400, np.float64(1e39)])
def test_numbers_beyond_float32_are_refused(make, number):
    with pytest.raises(ValueError, match="must be finite"):
        make(number)


@pytest.mark.parametrize("k", [VOCAB, 2**31, 2**63, 10**39, 10**400, 1e39, np.float64(1e300), np.uint64(2**64 - 1)])
def test_more_than_the_vocabulary_keeps_everything(k):
    logits = some_logits(0, 1.0, 2)
    np.testing.assert_array_equal(TopK(k)(jnp.asarray(logits), jnp.asarray(CONTEXT)), logits)
    out = generate(
        spell(1, 2), [5], max_new_tokens=2, sampler=Chain(TopK(k), Temperature(0.1)), key=jax.random.key(0)
    )
    assert out.tokens.tolist() == [2, 1]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("make", [Temperature, TopK, TopP, MinP, RepetitionPenalty, PresencePenalty])
@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        jnp.array(True),
        "0.5",
        b"1",
        None,
        1j,
        np.complex64(1),
        [0.5],
        (1,),
        np.array([1]),
        Greedy,
    ],
    ids=repr,
)
def test_what_is_not_a_number_is_refused(make, value):
    with pytest.raises(ValueError, match="must be a number"):
        make(value)
