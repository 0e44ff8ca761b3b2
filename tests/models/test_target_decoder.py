"""The decoder of an EncoderDecoder, for one source or many at once, against the whole model for each token again."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import EncoderDecoder, EncoderDecoderConfig, beam_search, decode, generate, score, stream

pytestmark = pytest.mark.usefixtures("strict_promotion")

SIZES: Any = {"vocab_size": 11, "embed_size": 12, "num_layers": 1, "num_heads": 4, "mlp_size": 20, "max_length": 10}
SOURCE, LENGTH = np.array([3, 1, 4, 1, 5, 9]), 4
START, STOP = 1, 3


def make(fill, **options):
    return eqx.nn.inference_mode(fill(lambda key: EncoderDecoder(EncoderDecoderConfig(**SIZES, **options), key=key)))


@eqx.filter_jit
def call(model, source, target, length=None, key=None):
    return model(source, target, source_length=length, key=key)


@eqx.filter_jit
def decoder_of(model, source, length):
    return model.decoder(source, length)


@pytest.fixture(scope="module")
def model(fill):
    return make(fill)


@pytest.fixture(scope="module")
def talker(fill):
    """Without biases, and with norms that only normalise: what it says then depends on the source."""

    def plainer(path, leaf):
        name = jax.tree_util.keystr(path)
        if not eqx.is_array(leaf) or (not name.endswith("bias") and "norm" not in name):
            return leaf
        return jnp.zeros_like(leaf) if name.endswith("bias") else jnp.ones_like(leaf)

    model = fill(lambda key: EncoderDecoder(EncoderDecoderConfig(**SIZES), key=key), seed=1)
    return jax.tree_util.tree_map_with_path(plainer, eqx.nn.inference_mode(model))


@pytest.fixture(scope="module")
def batch():
    """Four sources of other lengths, with anything behind them."""
    lengths = np.array([6, 1, 3, 5])
    return np.random.default_rng(3).integers(0, 11, (4, 6)), lengths


@pytest.fixture(scope="module")
def decoders(talker, batch):
    return eqx.filter_jit(talker.decoders)(*batch)


def greedy_by_hand(model, source, length, steps):
    """The whole model again for each token, on the source without its padding."""
    tokens = [START]
    for _ in range(steps):
        padded = np.zeros(10, int)
        padded[: len(tokens)] = tokens
        logits = call(model, jnp.asarray(source), jnp.asarray(padded), jnp.asarray(length))[len(tokens) - 1]
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] == STOP:
            break
    return tokens[1:]


def test_a_batch_is_each_source_alone_and_the_slow_way(talker, batch, decoders):
    decoder, in_axes = decoders
    how = {"max_new_tokens": 8, "stop_ids": [STOP]}
    together = generate(decoder, [[START]] * 4, in_axes=in_axes, **how)
    for i, (source, length) in enumerate(zip(*batch, strict=True)):
        alone = generate(decoder_of(talker, source, length), [START], **how)
        np.testing.assert_array_equal(together.tokens[i], alone.tokens)
        slow = greedy_by_hand(talker, source, length, 8)
        assert slow == together.tokens[i][: together.length[i]].tolist()
    assert len({tuple(row) for row in together.tokens.tolist()}) == 4  # the sources matter
    assert sorted(set(together.length.tolist())) == [2, 8]  # and some of them stop


def test_streams_beams_and_scores(talker, batch, decoders):
    decoder, in_axes = decoders
    sources, lengths = batch
    one = decoder_of(talker, sources[0], lengths[0])
    out = generate(one, [START], max_new_tokens=6)
    assert list(stream(one, [START], max_new_tokens=6)) == out.tokens.tolist()
    np.testing.assert_array_equal(beam_search(one, [START], num_beams=1, max_new_tokens=6).tokens[0], out.tokens)
    beams = beam_search(decoder, [[START]] * 4, num_beams=3, max_new_tokens=5, in_axes=in_axes)
    texts = [[START, *beams.tokens[i, 0].tolist()] for i in range(4)]
    scores = score(decoder, texts, in_axes=in_axes)
    np.testing.assert_allclose(scores.total, beams.log_probs[:, 0], rtol=1e-4)
    for i, text in enumerate(texts):
        logits = call(talker, jnp.asarray(sources[i]), jnp.asarray(text[:-1]), jnp.asarray(lengths[i]))
        log_probs = np.asarray(jax.nn.log_softmax(logits))[np.arange(5), text[1:]]
        np.testing.assert_allclose(scores.total[i], log_probs.sum(), rtol=1e-4)


def ends(decoder):
    """All but the blocks and the memory."""
    return decoder.embedding, decoder.position_embedding, decoder.decoder_norm, decoder.head


def sizes_of(tree):
    return sorted(leaf.size for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


def test_a_decoder_holds_each_weight_once_and_nothing_of_the_encoder(fill):
    model = make(fill, pre_norm=True, source_vocab_size=13)
    decoder = eqx.filter_eval_shape(model.decoder, SOURCE, LENGTH)
    no_encoder = [model.embedding, model.position_embedding, model.decoder_norm, model.head]
    assert sizes_of((ends(decoder), decoder.blocks)) == sizes_of(
        (no_encoder, eqx.filter_eval_shape(model.decoder_stack.unstack))
    )


def test_what_is_remembered_of_a_source_is_no_part_of_the_state(model, decoders):
    decoder, in_axes = decoders
    assert jax.tree.leaves(in_axes) == [0]
    assert in_axes.projected_memory == 0
    assert len(jax.tree.leaves(decoder.projected_memory)) == 3  # keys, values and the mask
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(decoder.projected_memory))
    state = eqx.filter_eval_shape(lambda: model.decoder(SOURCE).init_state(8))
    longer = eqx.filter_eval_shape(lambda: model.decoder(SOURCE[:2]).init_state(8))
    assert jax.tree.leaves(state) == jax.tree.leaves(longer)


def test_decoding_many_sources_holds_the_weights_once(fill):
    """Weights of 5 MiB, 48 sources: rows of weights of their own would need 240 MiB."""
    rows = 48
    model = fill(
        lambda key: EncoderDecoder(
            EncoderDecoderConfig(
                vocab_size=500, embed_size=128, num_layers=2, num_heads=4, mlp_size=1024, max_length=16
            ),
            key=key,
        )
    )
    decoder, in_axes = eqx.filter_jit(model.decoders)(np.ones((rows, 4), int))
    arrays, static = eqx.partition(decoder, eqx.is_array)

    def run(arrays, prompts):
        how = {"capacity": 8, "max_new_tokens": 6, "in_axes": in_axes}
        return decode(eqx.combine(arrays, static), prompts, **how).tokens

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves((ends(arrays), arrays.blocks)))
    remembered = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays.projected_memory))
    memory = jax.jit(run).lower(arrays, np.ones((rows, 1), np.int32)).compile().memory_analysis()
    assert memory is not None
    assert memory.argument_size_in_bytes < 1.1 * (weights + remembered)
    assert memory.temp_size_in_bytes < 2 * weights


def test_a_decoder_is_made_inside_jit_too(model):
    @eqx.filter_jit
    def first(model, source, length):
        decoder = model.decoder(source, length)
        return decoder.prefill(jnp.array([START]), decoder.init_state(4))[0]

    logits = first(model, jnp.asarray(SOURCE), jnp.asarray(LENGTH))
    expected = call(model, jnp.asarray(SOURCE), jnp.asarray([START]), jnp.asarray(LENGTH))[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_decoder_needs_no_inference_mode(fill):
    """Made from a model in training, it drops nothing out."""
    training = eqx.nn.inference_mode(make(fill, dropout_p=0.5), value=False)
    decoder = decoder_of(training, SOURCE, np.int32(LENGTH))
    logits, _ = eqx.filter_jit(decoder.prefill)(jnp.array([START]), decoder.init_state(4))
    expected = call(make(fill), jnp.asarray(SOURCE), jnp.asarray([START]), jnp.asarray(LENGTH))[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
