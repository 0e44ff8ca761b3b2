import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import (
    Sums,
    accuracy,
    bits,
    chunked_softmax_cross_entropy,
    exact_match,
    next_token_loss,
    perplexity,
    softmax_cross_entropy,
)
from training.metrics import confusion_matrix

fast_sums = jax.jit(softmax_cross_entropy)
fast_accuracy = jax.jit(accuracy)


@eqx.filter_jit
@eqx.filter_grad
def gradient_of_sum(model, batch):
    return next_token_loss(model, batch, None, None)[0].loss


def slow_sums(logits, targets, weights):
    """Loss, weight and correct in float64, one target at a time; logits as a list of rows."""
    loss = weight = correct = 0.0
    for row, target, w in zip(logits, targets, weights, strict=True):
        if w == 0:
            continue
        row = np.asarray(row, np.float64)
        loss += w * (np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[target])
        weight += w
        correct += w * (int(np.argmax(row)) == target)
    return loss, weight, correct


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (6, 5), (5, 9)]), st.booleans())
def test_sums_equal_the_slow_ones(seed, shape, ties):
    n, vocab_size = shape
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(n, vocab_size)).astype(np.float32) * 5
    if ties:
        logits = np.round(logits / 5)  # then several ids share the largest logit, and the first one counts
    targets = draws.integers(0, vocab_size, n)
    weights = draws.choice([0.0, 0.5, 1.0, 3.0], n).astype(np.float32)
    sums = fast_sums(logits, targets, weights)
    expected = slow_sums(logits, targets, weights)
    np.testing.assert_allclose([sums.loss, sums.weight, sums.correct], expected, rtol=1e-5, atol=1e-5)
    share = fast_accuracy(logits, targets, weights)
    np.testing.assert_allclose(share, expected[2] / (expected[1] or 1), rtol=1e-6)


@jax.jit
@jax.value_and_grad
def value_and_gradient(logits, targets, weights):
    return softmax_cross_entropy(logits, targets, weights).loss


@pytest.mark.parametrize("bad", [-100, -1, 7, 2**31 - 1])
@pytest.mark.parametrize("extreme", [0.0, np.inf, -np.inf, np.nan])
def test_target_of_weight_zero_may_be_anything(bad, extreme):
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    targets, weights = jnp.array([1, 2, 3, 4]), jnp.array([1.0, 0.0, 0.5, 0.0])

    expected = value_and_gradient(logits, targets, weights)
    spoilt = logits.at[1].set(extreme).at[3, 2].set(extreme)
    value, gradient = value_and_gradient(spoilt, targets.at[1].set(bad).at[3].set(bad), weights)
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])
    np.testing.assert_array_equal(gradient[jnp.array([1, 3])], 0.0)


@pytest.mark.parametrize("bad", [-100, -1, 7, 1000])
def test_weighted_target_outside_the_vocabulary_is_loud(bad):
    sums = fast_sums(jnp.zeros((2, 7)), jnp.array([0, bad]), jnp.ones(2))
    assert jnp.isnan(sums.loss)


def test_all_weights_zero_is_a_loss_of_zero():
    nothing = (jnp.ones((4, 7)), jnp.array([0, 9, -100, 1]), jnp.zeros(4))
    sums = fast_sums(*nothing)
    assert float(sums.mean()) == float(sums.accuracy()) == float(sums.weight) == 0.0
    np.testing.assert_array_equal(value_and_gradient(*nothing)[1], 0.0)


def test_sums_are_float32_and_exact_for_half_precision_logits():
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(jnp.bfloat16) * 10
    targets, weights = np.arange(6) % 5, np.ones(6, np.float32)
    half, whole = fast_sums(logits, targets, weights), fast_sums(logits.astype(np.float32), targets, weights)
    assert half.loss.dtype == half.weight.dtype == half.correct.dtype == jnp.float32
    assert half.loss == whole.loss


def test_large_logits_do_not_overflow():
    sums = fast_sums(jnp.array([[1e30, -1e30]]), jnp.array([0]), jnp.ones(1))
    assert float(sums.loss) == 0.0


def test_any_leading_axes():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    targets = np.arange(6).reshape(2, 3) % 5
    whole = fast_sums(logits, targets, np.ones((2, 3), np.float32))
    flat = fast_sums(logits.reshape(6, 5), targets.reshape(6), np.ones(6, np.float32))
    one = fast_sums(logits[0, 0], targets[0, 0], np.float32(1))
    np.testing.assert_allclose(whole.loss, flat.loss, rtol=1e-6)
    np.testing.assert_allclose(one.loss, slow_sums(logits[0, :1], targets[0, :1], [1])[0], rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 11), max_size=3, unique=True).map(sorted))
def test_sums_of_unequal_batches_equal_the_whole(seed, ends):
    n = 12
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(n, 5)).astype(np.float32)
    targets, weights = draws.integers(0, 5, n), draws.integers(0, 3, n).astype(np.float32)
    whole = fast_sums(logits, targets, weights)
    total = Sums.of(0.0, 0.0)
    for rows in np.split(np.arange(n), ends):
        pads = (0, n - len(rows))  # all of one shape, as batches are, with padding of weight 0
        total += fast_sums(
            np.pad(logits[rows], (pads, (0, 0))), np.pad(targets[rows], pads), np.pad(weights[rows], pads)
        )
    np.testing.assert_allclose(total.mean(), whole.mean(), rtol=1e-5)
    np.testing.assert_allclose(total.accuracy(), whole.accuracy(), rtol=1e-6)


def test_gradients_of_weighted_parts_add_up_to_that_of_the_whole(tiny, make_batches):
    """Accumulation and sharding rest on this: never a mean of means."""
    model = tiny(key=jax.random.key(0))
    (batch,) = make_batches(1, rows=6)
    parts = [jax.tree.map(lambda x, rows=rows: x[rows], batch) for rows in (slice(0, 1), slice(1, 6))]
    assert parts[0]["weights"].sum() != parts[1]["weights"].sum() / 5

    whole, first, second = (gradient_of_sum(model, b) for b in (batch, *parts))
    jax.tree.map(lambda w, a, b: np.testing.assert_allclose(w, a + b, rtol=1e-5, atol=1e-6), whole, first, second)


def test_next_token_loss_gives_each_row_its_own_key(tiny, make_batches):
    model = tiny(key=jax.random.key(0), dropout_p=0.5)
    (batch,) = make_batches(1)
    key = jax.random.key(1)
    expected = Sums.of(0.0, 0.0)
    for i, row_key in enumerate(jax.random.split(key, 4)):
        logits = eqx.filter_jit(model)(batch["inputs"][i], key=row_key)
        expected += fast_sums(logits, batch["targets"][i], batch["weights"][i])
    loss = eqx.filter_jit(next_token_loss)
    sums, carry = loss(model, batch, "carried", key)
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-5)
    assert carry == "carried"
    with pytest.raises(RuntimeError, match="key"):
        loss(model, batch, None, None)  # training without a key is an error of Equinox
    inference = eqx.nn.inference_mode(model)
    assert loss(inference, batch, None, None)[0].loss == loss(inference, batch, None, key)[0].loss


def test_figures():
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == float("inf")
    assert bits(perplexity(0.0)) == pytest.approx(1.4426950408889634)
    with pytest.raises(ValueError, match=r"got \(0, 2\)"):
        exact_match(np.zeros((0, 2), int), np.zeros((0, 2), int))


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("targets", "weights"), [((4, 6), ()), ((4, 6), (4, 1)), ((4, 6), (6,)), ((4, 1), (4, 1))])
def test_what_would_broadcast_is_refused(targets, weights):
    logits, targets, weights = jnp.ones((4, 6, 5)), np.zeros(targets, int), np.ones(weights, np.float32)
    chunked = lambda logits, *rest: chunked_softmax_cross_entropy(logits, jnp.eye(5), None, *rest)  # noqa: E731
    for compute in (softmax_cross_entropy, chunked, accuracy):
        with pytest.raises(ValueError, match=r"one entry for each row of logits, shape \(4, 6\); got shapes"):
            compute(logits, targets, weights)


@pytest.mark.usefixtures("as_users")
def test_metrics_take_lists_and_refuse_unknown_classes():
    logits, targets, rows = [[2.0, 1.0]], [0], [[1, 2]]
    assert float(accuracy(logits, targets, [1.0])) == exact_match(rows, rows) == 1.0  # pyright: ignore[reportArgumentType]
    for labels, predicted in (([-1, 0], [0, 0]), ([0, 0], [0, 2])):
        with pytest.raises(ValueError, match=r"must be in 0..1; got (-1|2)"):
            confusion_matrix(np.array(labels), np.array(predicted), 2)
