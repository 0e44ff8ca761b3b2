"""The chunked loss against the plain one, value and gradient, and the loss of sources and targets built on it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from jaxtyping import Float

from training import (
    SequenceToSequenceLoss,
    Sums,
    chunked_softmax_cross_entropy,
    init_state,
    make_step,
    softmax_cross_entropy,
)
from zoo import EncoderDecoder, EncoderDecoderConfig
from zoo.nn import AbstractLinear

VOCAB, EMBED = 7, 4


def plain(hidden, weight, bias, targets, weights, label_smoothing):
    logits = hidden @ weight.T + (0.0 if bias is None else jnp.broadcast_to(bias, (*hidden.shape[:-1], len(bias))))
    return softmax_cross_entropy(logits, targets, weights, label_smoothing=label_smoothing)


def with_gradients(loss):
    """The sums, and the gradient of a multiple of the mean for hidden, weight, bias and weights."""

    def value(hidden, weight, bias, weights, targets):
        sums = loss(hidden, weight, bias, targets, weights)
        return 3.0 * sums.mean(), sums

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3), has_aux=True))


def chunked(chunk_size, label_smoothing=0.0):
    return functools.partial(chunked_softmax_cross_entropy, chunk_size=chunk_size, label_smoothing=label_smoothing)


def draw_inputs(seed, rows, use_bias=True, vocab_size=VOCAB):
    draws = np.random.default_rng(seed)
    hidden, weight = (draws.normal(size=(n, EMBED)).astype(np.float32) for n in (rows, vocab_size))
    bias = draws.normal(size=vocab_size).astype(np.float32) if use_bias else None
    weights = draws.choice([0.0, 0.5, 1.0, 3.0], rows).astype(np.float32)
    targets = draws.integers(0, vocab_size, rows, np.int32)
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), (hidden, weight, bias, weights, targets))


def assert_close(one, other, tolerance=1e-6):
    """Equal structures of arrays that differ by no more than a share of the largest entry."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


CHUNKED = {(size, smoothing): with_gradients(chunked(size, smoothing)) for size in (1, 3) for smoothing in (0, 0.2)}
PLAIN = {smoothing: with_gradients(functools.partial(plain, label_smoothing=smoothing)) for smoothing in (0, 0.2)}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(1, False, 0.2), (6, True, 0), (6, True, 0.2), (7, False, 0)]))
def test_it_equals_the_plain_one(seed, shape):
    rows, use_bias, smoothing = shape
    *inputs, weights, targets = draw_inputs(seed, rows, use_bias)
    (value, sums), gradients = CHUNKED[3, smoothing](*inputs, weights, targets)
    (expected, plain_sums), plain_gradients = PLAIN[smoothing](*inputs, weights, targets)
    assert_close((value, sums, gradients[:3]), (expected, plain_sums, plain_gradients[:3]))
    # Where the weight is 0, the row has no loss to speak of.
    counts = np.asarray(weights) != 0
    assert_close(np.asarray(gradients[3])[counts], np.asarray(plain_gradients[3])[counts], 1e-5)


def test_one_row_at_a_time_and_any_leading_axes():
    hidden, weight, bias, weights, targets = draw_inputs(0, 6)
    (_, sums), gradients = CHUNKED[1, 0](hidden, weight, bias, weights, targets)
    (_, expected), plain_gradients = PLAIN[0](hidden, weight, bias, weights, targets)
    assert_close((sums, gradients[:3]), (expected, plain_gradients[:3]))
    shaped = hidden.reshape(2, 3, EMBED), weight, bias, targets.reshape(2, 3), weights.reshape(2, 3)
    assert_close(jax.jit(chunked(4))(*shaped), expected)
    single = hidden[1], weight, bias, targets[1], weights[1]
    both = jax.jit(lambda h, w, b, t, v: (chunked_softmax_cross_entropy(h, w, b, t, v), plain(h, w, b, t, v, 0.0)))
    assert_close(*both(*single))


def test_without_gradient_it_is_the_same():
    hidden, weight, bias, weights, targets = draw_inputs(1, 6)
    (_, sums), _ = CHUNKED[3, 0.2](hidden, weight, bias, weights, targets)
    assert_close(jax.jit(chunked(3, 0.2))(hidden, weight, bias, targets, weights), sums)


def slow_smoothed(logits, target, smoothing):
    """Cross-entropy with the mixture of the target and the even distribution, in float64."""
    logits = np.asarray(logits, np.float64)
    log_probs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    wanted = np.full(len(logits), smoothing / len(logits))
    wanted[target] += 1 - smoothing
    return -(wanted * log_probs).sum()


def test_label_smoothing_is_a_mixture_with_the_even_distribution():
    hidden, weight, bias, weights, targets = draw_inputs(2, 6)
    logits = hidden @ weight.T + bias[None]
    expected = sum(w * slow_smoothed(x, t, 0.2) for x, t, w in zip(logits, targets, weights, strict=True))
    both = jax.jit(lambda *given: [softmax_cross_entropy(*given, label_smoothing=e) for e in (0.2, 0.0)])
    smoothed, sharp = both(logits, targets, weights)
    np.testing.assert_allclose(smoothed.loss, expected, rtol=1e-5)
    assert float(smoothed.correct) == float(sharp.correct)
    assert abs(float(smoothed.loss) - float(sharp.loss)) > 0.1


@pytest.mark.parametrize("bad", [-100, -1, VOCAB, 2**31 - 1])
@pytest.mark.parametrize("extreme", [0.0, np.inf, np.nan])
def test_rows_of_weight_zero_may_be_anything(bad, extreme):
    hidden, weight, bias, _, targets = draw_inputs(3, 6)
    weights = jnp.array([1.0, 0.0, 0.5, 0.0, 1.0, 2.0])
    spoilt = hidden.at[1].set(extreme).at[3, 2].set(extreme)
    expected = CHUNKED[3, 0](hidden, weight, bias, weights, targets)
    (value, sums), gradients = CHUNKED[3, 0](spoilt, weight, bias, weights, targets.at[jnp.array([1, 3])].set(bad))
    np.testing.assert_array_equal(value, expected[0][0])
    assert_close((sums, gradients[:3]), (expected[0][1], expected[1][:3]), 0.0)
    np.testing.assert_array_equal(gradients[0][jnp.array([1, 3])], 0.0)
    # The gradient of a weight of 0 is its own row's loss, or 0 where that has none.
    counted = np.asarray(weights) != 0
    np.testing.assert_array_equal(np.asarray(gradients[3])[counted], np.asarray(expected[1][3])[counted])
    assert np.isfinite(gradients[3]).all()


@pytest.mark.parametrize("bad", [-100, -1, VOCAB, 1000])
def test_weighted_target_outside_the_vocabulary_is_loud(bad):
    hidden, weight, bias, _, targets = draw_inputs(4, 6)
    (value, sums), gradients = CHUNKED[3, 0](hidden, weight, bias, jnp.ones(6), targets.at[2].set(bad))
    (_, expected), plain_gradients = PLAIN[0](hidden, weight, bias, jnp.ones(6), targets.at[2].set(bad))
    assert np.isnan(value)
    assert np.isnan(sums.loss)
    assert float(sums.correct) == float(expected.correct)
    assert_close(gradients[:3], plain_gradients[:3])


def test_no_weight_at_all_and_no_rows_are_a_loss_of_zero():
    hidden, weight, bias, _, targets = draw_inputs(5, 6)
    (value, sums), gradients = CHUNKED[3, 0](hidden, weight, bias, jnp.zeros(6), targets)
    assert float(value) == float(sums.weight) == float(sums.correct) == 0.0
    assert all(not np.any(gradient) for gradient in gradients[:3])
    nothing = jax.jit(chunked(4))(hidden[:0], weight, bias, targets[:0], jnp.zeros(0))
    assert float(nothing.loss) == float(nothing.weight) == 0.0


def test_large_logits_do_not_overflow():
    hidden, weight = jnp.array([[1.0]]), jnp.array([[1e30], [-1e30]])
    sums = chunked_softmax_cross_entropy(hidden, weight, None, jnp.array([0]), jnp.ones(1))
    assert float(sums.loss) == 0.0


def test_ties_count_as_in_the_plain_one():
    hidden, weight = jnp.ones((3, 2)), jnp.ones((5, 2))
    sums = chunked_softmax_cross_entropy(hidden, weight, None, jnp.array([0, 1, 4]), jnp.ones(3), chunk_size=2)
    assert float(sums.correct) == 1.0


def test_an_ensemble_by_vmap():
    """Members with weights of their own, on the same targets."""
    members = [draw_inputs(seed, 6)[:3] for seed in (6, 7)]
    *_, weights, targets = draw_inputs(6, 6)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.vmap(CHUNKED[3, 0], in_axes=(0, 0, 0, None, None))(*stacked, weights, targets)
    alone = [CHUNKED[3, 0](*member, weights, targets) for member in members]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_rows_with_weights_of_their_own_by_vmap():
    """Each with another number of chunks."""
    hidden, weight, bias, _, targets = draw_inputs(8, 6)
    weights = jnp.array([[1.0] * 6, [0.0, 1.0] + [0.0] * 4])
    together = jax.vmap(CHUNKED[1, 0], in_axes=(None, None, None, 0, None))(hidden, weight, bias, weights, targets)
    alone = [CHUNKED[1, 0](hidden, weight, bias, row, targets) for row in weights]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_half_precision_is_summed_in_float32():
    *inputs, weights, targets = draw_inputs(9, 6)
    low = [x.astype(jnp.bfloat16) for x in inputs]
    (_, sums), gradients = CHUNKED[3, 0](*low, weights, targets)
    (_, expected), exact = CHUNKED[3, 0](*(x.astype(jnp.float32) for x in low), weights, targets)
    assert_close(sums, expected)
    for gradient, wide in zip(gradients[:3], exact[:3], strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(gradient.astype(jnp.float32), wide, atol=0.02 * float(np.abs(wide).max()))


def test_all_logits_are_never_held():
    rows, vocab_size, chunk_size = 512, 1000, 32
    *inputs, weights, targets = draw_inputs(10, rows, vocab_size=vocab_size)

    def temporary(loss):
        memory = with_gradients(loss).lower(*inputs, weights, targets).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    logits = 4 * rows * vocab_size
    assert temporary(functools.partial(plain, label_smoothing=0.0)) > logits
    assert temporary(chunked(chunk_size)) < logits / 4


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 0},
        {"chunk_size": 2.0},
        {"chunk_size": True},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
    ],
)
def test_options_out_of_range_are_named(options):
    (name,) = options
    hidden, weight, bias, weights, targets = draw_inputs(11, 6)
    with pytest.raises(ValueError, match=name):
        chunked_softmax_cross_entropy(hidden, weight, bias, targets, weights, **options)
    with pytest.raises(ValueError, match=name):
        SequenceToSequenceLoss(**options)
    if name == "label_smoothing":
        with pytest.raises(ValueError, match=name):
            softmax_cross_entropy(hidden, targets, weights, **options)


def translator(fill, **options):
    return fill(
        lambda key: EncoderDecoder(
            EncoderDecoderConfig(
                vocab_size=11, embed_size=12, num_layers=1, num_heads=2, mlp_size=16, max_length=8, **options
            ),
            key=key,
        )
    )


def sentence_pairs():
    draws = np.random.default_rng(12)
    weights = (np.arange(5) < np.array([[5], [3], [0]])).astype(np.float32)  # the last row is there to fill the batch
    ids = draws.integers(0, 11, (3, 11), np.int32)
    lengths = np.array([6, 2, 0], np.int32)
    return {
        "source": ids[:, :6],
        "source_length": lengths,
        "inputs": ids[:, 5:10],
        "targets": np.where(weights > 0, ids[:, 6:], -100),
        "weights": weights,
    }


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loss_of_pairs_is_that_of_each_pairs_logits(fill, tied):
    model = eqx.nn.inference_mode(translator(fill, tie_embeddings=tied))
    batch, loss = sentence_pairs(), SequenceToSequenceLoss(label_smoothing=0.1, chunk_size=4)

    def by_chunks(model):
        sums, _ = loss(model, batch, None, None)
        return sums.loss, sums

    def by_hand(model):
        def row(source, length, inputs):
            return model(source, inputs, source_length=length)

        logits = jax.vmap(row)(batch["source"], batch["source_length"], batch["inputs"])
        sums = softmax_cross_entropy(logits, batch["targets"], batch["weights"], label_smoothing=0.1)
        return sums.loss, sums

    @eqx.filter_jit
    def both(model):
        return [eqx.filter_value_and_grad(f, has_aux=True)(model) for f in (by_chunks, by_hand)]

    one, other = both(model)
    assert_close(one, other, 1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_a_weight_of_zero_is_the_rows_loss(smoothing):
    """Of both losses; a row without a target, or whose logits are not finite, has none."""
    hidden, weight, bias, _, _ = draw_inputs(11, 6)
    targets, weights = jnp.arange(6).at[2].set(-100), jnp.array([1.0, 0.0, 0.0, 0.5, 0.0, 2.0])
    hidden = hidden.at[4].set(jnp.nan)

    def plain(hidden, weights):
        logits = hidden @ weight.T + bias[None]
        return softmax_cross_entropy(logits, targets, weights, label_smoothing=smoothing).loss

    def chunked(hidden, weights):
        sums = chunked_softmax_cross_entropy(
            hidden, weight, bias, targets, weights, chunk_size=4, label_smoothing=smoothing
        )
        return sums.loss

    counted = jnp.where((jnp.arange(6) == 2) | (jnp.arange(6) == 4), 0.0, 1.0)
    alone = jax.jit(plain)
    expected = [float(alone(hidden, counted * (jnp.arange(6) == i))) for i in range(6)]
    for loss in (plain, chunked):
        by_hidden, by_weights = jax.jit(jax.grad(loss, (0, 1)))(hidden, weights)
        np.testing.assert_allclose(by_weights, expected, rtol=1e-5)
        assert (np.asarray(by_hidden)[np.asarray(weights) == 0] == 0.0).all()
    assert min(expected[i] for i in (0, 1, 3, 5)) > 0.01


class LowRank(AbstractLinear):
    """An adapter: another layer and a product of two thin matrices."""

    linear: AbstractLinear
    down: Float[Array, "rank in"]
    up: Float[Array, "out rank"]

    def accumulate(self, x):
        return self.linear.accumulate(x) + (x @ self.down.T) @ self.up.T

    def __call__(self, x):
        return self.accumulate(x).astype(x.dtype)


def test_a_head_with_an_adapter_is_not_bypassed(fill, normal):
    """The chunked loss reads the head's weights itself: with an adapter in the head's place they are not all."""
    model = eqx.nn.inference_mode(translator(fill))
    adapted = eqx.tree_at(lambda m: m.head, model, LowRank(model.head, normal(2, 12), normal(11, 2)))
    batch, loss = sentence_pairs(), SequenceToSequenceLoss(chunk_size=4)
    assert model.head_weights() is not None
    assert adapted.head_weights() is None

    def by_hand(model):
        row = lambda source, length, inputs: model(source, inputs, source_length=length)  # noqa: E731
        logits = jax.vmap(row)(batch["source"], batch["source_length"], batch["inputs"])
        return softmax_cross_entropy(logits, batch["targets"], batch["weights"])

    def by_chunks(model):
        sums, _ = loss(model, batch, None, None)
        return sums.mean(), sums

    @eqx.filter_jit
    def both(model):
        return eqx.filter_value_and_grad(by_chunks, has_aux=True)(model), by_hand(model)

    ((_, sums), gradient), expected = both(adapted)
    assert_close(sums, expected, 1e-5)
    assert np.abs(gradient.head.up).max() > 1e-4


def test_a_row_to_fill_the_batch_changes_nothing(fill):
    model, loss, batch = translator(fill), eqx.filter_jit(SequenceToSequenceLoss()), sentence_pairs()
    model = eqx.nn.inference_mode(model)
    whole, _ = loss(model, batch, None, None)
    without, _ = loss(model, {name: value[:2] for name, value in batch.items()}, None, None)
    assert_close(whole, without, 1e-5)
    assert float(whole.weight) == 8.0


def test_each_pair_has_dropout_of_its_own_and_needs_a_key(fill):
    model, loss, batch = translator(fill), eqx.filter_jit(SequenceToSequenceLoss()), sentence_pairs()
    same = {name: np.repeat(value[:1], 2, axis=0) for name, value in batch.items()}
    with pytest.raises(RuntimeError, match="key"):
        loss(model, same, None, None)
    key = jax.random.key(0)
    sums, carry = loss(model, same, "carried", key)
    expected = Sums.of(0.0, 0.0)
    for i, row_key in enumerate(jax.random.split(key, 2)):
        row = {name: jnp.asarray(value[i]) for name, value in same.items()}
        logits = eqx.filter_jit(model)(row["source"], row["inputs"], source_length=row["source_length"], key=row_key)
        expected += softmax_cross_entropy(logits, row["targets"], row["weights"])
    assert_close(sums, expected, 1e-5)
    assert carry == "carried"


def test_it_trains_and_its_step_is_compiled_once(fill):
    optimiser = optax.adam(1e-2)
    step = make_step(SequenceToSequenceLoss(label_smoothing=0.1), optimiser)
    assert make_step(SequenceToSequenceLoss(label_smoothing=0.1), optimiser) is step
    config = EncoderDecoderConfig(
        vocab_size=11, embed_size=12, num_layers=1, num_heads=2, mlp_size=16, max_length=8, head_dropout_p=0.1
    )
    model = eqx.filter_jit(EncoderDecoder)(config, key=jax.random.key(0))
    state, losses = init_state(model, optimiser, key=jax.random.key(1)), []
    batch = sentence_pairs()
    for _ in range(30):
        state, report = step(batch, state)
        losses.append(float(report.sums.mean()))
    assert abs(losses[0] - np.log(11)) < 0.3
    assert losses[-1] < 0.6 * losses[0]
