"""Samplers as functions of logits, against slow ones that sort: ties, -inf, huge and tiny numbers included."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Chain, Greedy, MinP, PresencePenalty, RepetitionPenalty, Temperature, TopK, TopP
from zoo.sampling._samplers import draw

pytestmark = pytest.mark.usefixtures("strict_promotion")
NOTHING_SEEN = jnp.array([-1])
apply = eqx.filter_jit(lambda sampler, logits, context=NOTHING_SEEN: sampler(logits, context))
sizes = st.sampled_from([2, 3, 11, 1000, 50_257, 200_000])
seeds = st.integers(0, 2**31 - 1)
scales = st.sampled_from([1e-37, 1e-3, 1.0, 8.0, 1e4, 1e37])
steps = st.sampled_from([None, 0.5, 4.0])  # quantised to multiples of it: ties


def some(max_examples):
    return settings(max_examples=max_examples, deadline=None, derandomize=True)


def make_logits(size, seed, scale, step, holes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=size)
    if step is not None:
        logits = np.round(logits / step) * step
    logits[rng.random(size) < holes] = -np.inf
    logits[rng.integers(size)] = abs(logits[np.isfinite(logits)]).max(initial=1.0)  # at least one is left
    logits = (logits * scale).astype(np.float32)
    return np.where(abs(logits) < np.finfo(np.float32).tiny, np.float32(0), logits)  # XLA flushes what is smaller


few_logits = st.builds(make_logits, st.sampled_from([2, 11, 1000]), seeds, scales, steps, st.sampled_from([0.0, 0.5]))
logits_arrays = st.builds(make_logits, sizes, seeds, scales, steps, st.sampled_from([0.0, 0.3, 0.95]))


def kept_by(sampler, logits):
    """Which tokens are left; those that are keep their logits."""
    out = np.asarray(apply(sampler, jnp.asarray(logits)))
    kept = out > -np.inf
    np.testing.assert_array_equal(out[kept], logits[kept])
    return kept


def from_threshold(logits, threshold):
    return (logits >= threshold) & (logits > -np.inf)


def top_k_by_sorting(logits, k):
    return from_threshold(logits, np.sort(logits)[::-1][min(k or logits.size, logits.size) - 1])


def top_p_by_sorting(logits, p):
    """The fewest best whose probabilities add up to p, with all that tie with the last of them."""
    best_first = np.sort(logits)[::-1].astype(np.float64)
    weights = np.exp(best_first - best_first[0])
    enough = np.cumsum(weights) >= p * weights.sum()
    return from_threshold(logits, best_first[np.argmax(enough)] if enough.any() else -np.inf)


def min_p_by_loop(logits, p, slack):
    return from_threshold(logits, float(logits.max()) + np.log(p) + slack)


@given(logits_arrays, st.sampled_from([0, 1, 2, 3, 50, 1999, 199_999, 200_000, 2**31 - 1, 2**40]))
@some(40)
def test_top_k_equals_sorting(logits, k):
    sampler = TopK(np.array(min(k, 2**31 - 1), np.int32)) if k < 2**40 else TopK(k)
    np.testing.assert_array_equal(kept_by(sampler, logits), top_k_by_sorting(logits, k))


@given(
    logits_arrays,
    st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.999]), st.floats(0, 1, width=32, allow_subnormal=False)),
)
@some(40)
def test_top_p_equals_sorting(logits, p):
    kept = kept_by(TopP(np.array(p, np.float32)), logits)
    if p == 1.0:
        np.testing.assert_array_equal(kept, logits > -np.inf)
        return
    # Sums of 200,000 float32 are right to about 1e-6: only what lies so near to p may go either way.
    few, many = top_p_by_sorting(logits, p - 3e-6), top_p_by_sorting(logits, p + 3e-6)
    assert (kept | few == kept).all()
    assert (kept & many == kept).all()
    np.testing.assert_array_equal(kept, from_threshold(logits, logits[kept].min()))


@given(logits_arrays, st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32, allow_subnormal=False)))
@some(40)
def test_min_p_equals_a_loop(logits, p):
    kept = kept_by(MinP(np.array(p, np.float32)), logits)
    if p == 0.0:
        np.testing.assert_array_equal(kept, logits > -np.inf)
    elif p == 1.0:
        np.testing.assert_array_equal(kept, logits == logits.max())
    else:
        slack = 1e-6 * max(1.0, float(abs(logits[logits > -np.inf]).max()))  # of logits - max - log(p)
        few, many = (min_p_by_loop(logits, p, s) for s in (slack, -slack))
        assert (kept | few == kept).all()
        assert (kept & many == kept).all()


@pytest.mark.parametrize("size", [2, 11, 1000])
def test_exact_cuts_in_quarters(size):
    """Probabilities that float32 adds up exactly: no tolerance."""
    logits = np.full(size, -np.inf, np.float32)
    logits[:2] = 3.0
    for p, kept in ((0.0, 2), (0.5, 2), (0.51, 2), (1.0, 2)):
        assert kept_by(TopP(np.array(p, np.float32)), logits).sum() == kept  # ties stay together
    logits[:2] = np.log([0.75, 0.25]).astype(np.float32)
    for p, kept in ((0.0, 1), (0.74, 1), (0.76, 2), (1.0, 2)):
        assert kept_by(TopP(np.array(p, np.float32)), logits).sum() == kept


def test_zeros_of_both_signs_tie():
    logits = np.array([0.0, -0.0, -1.0, 0.0], np.float32)
    for sampler in (TopK(1), TopK(3), TopP(0.1), MinP(1.0)):
        assert kept_by(sampler, logits).tolist() == [True, True, False, True]


@given(few_logits, st.floats(1e-3, 1e3), st.sampled_from([0.0, 1e-45, 1e-39, 1e-30]))
@some(30)
def test_temperature_divides_and_zero_is_greedy(logits, temperature, cold):
    out = np.asarray(apply(Temperature(np.array(temperature, np.float32)), jnp.asarray(logits)))
    expected = (logits.astype(np.float64) - logits.max()) / np.float32(temperature)
    with np.errstate(over="ignore"):  # overflow is right: infinitely improbable
        np.testing.assert_allclose(out, expected.astype(np.float32), rtol=1e-5, atol=1e-6)
    assert out[np.argmax(logits)] == out.max()
    token, finite = draw_jit(Temperature(np.array(cold, np.float32)), jnp.asarray(logits), jax.random.key(1))
    assert bool(finite)
    assert logits[int(token)] >= logits.max() - 50 * cold
    if cold < 1e-37:  # nothing but the first is left
        assert int(token) == np.argmax(logits)


draw_jit = eqx.filter_jit(lambda sampler, logits, key: draw(sampler, logits, NOTHING_SEEN, key))


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.5, 1.0, 1.7]), st.sampled_from([-2.0, 0.0, 0.75]))
@some(20)
def test_penalties_equal_a_loop(seed, repetition, presence):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=11).astype(np.float32)
    logits[rng.integers(11)] = -np.inf
    context = np.concatenate([rng.integers(0, 11, 6), [-1, -1]]).astype(np.int32)
    repeated, present = logits.copy(), logits.copy()
    for token in set(context.tolist()) - {-1}:
        repeated[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
        present[token] = logits[token] - presence
    for sampler, slow in (
        (RepetitionPenalty(np.array(repetition, np.float32)), repeated),
        (PresencePenalty(np.array(presence, np.float32)), present),
    ):
        np.testing.assert_allclose(apply(sampler, jnp.asarray(logits), jnp.asarray(context)), slow, rtol=1e-6)


def test_a_chain_is_its_links_one_after_another():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    context = jnp.array([3, 7, -1])
    links = (RepetitionPenalty(1.5), PresencePenalty(0.2), TopK(20), MinP(0.05), TopP(0.8), Temperature(0.7))
    slow = logits
    for link in links:
        slow = apply(link, slow, context)
    np.testing.assert_allclose(apply(Chain(*links), logits, context), slow, rtol=1e-6)
    nested = Chain(Chain(*links[:3]), Chain(), Chain(*links[3:]))
    np.testing.assert_allclose(apply(nested, logits, context), slow, rtol=1e-6)
    other_order = apply(Chain(*links[::-1]), logits, context)
    assert not np.array_equal(other_order, slow)
    assert Chain(*links).draws
    assert not Chain(*links[:2]).draws
    assert not Chain().draws


def test_greedy_takes_the_first_of_several():
    logits = jnp.array([0.0, 3.0, 1.0, 3.0])
    assert int(draw(Greedy(), logits, jnp.array([-1]), None)[0]) == 1
    assert np.flatnonzero(kept_by(Greedy(), np.asarray(logits))).tolist() == [1]
    assert not Greedy().draws


@pytest.mark.parametrize(
    ("logits", "finite"),
    [
        ([0.0, 1.0], True),
        ([-np.inf, 1.0], True),
        ([np.nan, 1.0], False),
        ([1.0, np.nan], False),
        ([np.inf, 1.0], False),
        ([-np.inf, -np.inf], False),
        ([-3e38, 3e38], True),
    ],
)
@pytest.mark.parametrize("sampler", [Greedy(), Temperature(0.5), TopK(1), TopP(0.5), MinP(0.5)], ids=str)
def test_what_cannot_be_drawn_from_is_flagged(sampler, logits, finite):
    token, flag = draw_jit(sampler, jnp.array(logits, jnp.float32), jax.random.key(0))
    assert bool(flag) == finite
    if finite:
        assert int(token) == 1 or (sampler.draws and logits == [0.0, 1.0])


def test_all_numbers_traced_are_one_compilation():
    traces = []

    @jax.jit
    def run(logits, t, k, p, m, r, s):
        traces.append(1)
        chain = Chain(RepetitionPenalty(r), PresencePenalty(s), TopK(k), TopP(p), MinP(m), Temperature(t))
        return chain(logits, jnp.array([1, 2, -1]))

    logits = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
    kept = [
        int((run(logits, *numbers) > -jnp.inf).sum())
        for numbers in ((1.0, 0, 1.0, 0.0, 1.0, 0.0), (0.5, 5, 1.0, 0.0, 1.0, 0.0), (0.0, 5, 0.5, 0.1, 1.2, 0.3))
    ]
    assert kept == [50, 5, 1]
    assert len(traces) == 1


INF, NAN = float("inf"), float("nan")
WRONG = {
    "temperature": (Temperature, (-0.1, NAN, INF, -INF)),
    "top_k": (TopK, (-1, 2.5, NAN, INF)),
    "top_p": (TopP, (-0.1, 1.1, NAN, INF)),
    "min_p": (MinP, (-0.1, 1.1, NAN)),
    "repetition_penalty": (RepetitionPenalty, (0.0, -1.0, NAN, INF)),
    "presence_penalty": (PresencePenalty, (NAN, INF, -INF)),
}


@pytest.mark.parametrize(("name", "make", "value"), [(n, make, v) for n, (make, vs) in WRONG.items() for v in vs])
def test_wrong_numbers_are_named(name, make, value):
    for given_as in (value, np.array(value, np.float32), jnp.array(value, jnp.float32), np.float64(value)):
        with pytest.raises(ValueError, match=name):
            make(given_as)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("value", [None, "warm", [0.5], np.array([0.5])])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="temperature"):
        Temperature(value)


def test_numpy_scalars_are_numbers():
    assert float(Temperature(np.float32(0.5)).temperature) == 0.5
    assert int(TopK(np.int64(5)).k) == 5
