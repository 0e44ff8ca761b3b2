"""The Transformer classifier against the seed's formulas, written out in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TransformerClassifier, TransformerClassifierConfig
from zoo.nn.stack import Stack

VOCAB, EMBED, HEADS, LENGTH = 11, 6, 2, 7
TOKENS = np.array([4, 1, 9, 3, 10])


@pytest.fixture(scope="module")
def model(fill):
    def make(key):
        return TransformerClassifier(
            TransformerClassifierConfig(
                vocab_size=VOCAB,
                num_classes=2,
                embed_size=EMBED,
                num_layers=1,
                num_heads=HEADS,
                mlp_size=8,
                max_length=LENGTH,
                hidden_size=5,
            ),
            key=key,
        )

    return eqx.nn.inference_mode(fill(make))


@eqx.filter_jit
def call(model, tokens, length=None, key=None):
    return model(tokens, length, key=key)


def dense(layer, x):
    return x @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias, np.float64)


def layer_norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)


def seed_by_hand(model, tokens):
    """Attention, dropout left out, sum, norm; dense, relu, dense, sum, norm; mean; dense, relu, dense."""
    block = Stack.unstack(model.stack)[0]
    x = np.asarray(model.embedding.weight, np.float64)[tokens]
    x = x + np.asarray(model.position_embedding.weight, np.float64)[: len(tokens)]
    q, k, v = (
        dense(layer, x).reshape(len(x), HEADS, -1)
        for layer in (block.attention.query, block.attention.key, block.attention.value)
    )
    scores = np.exp(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(EMBED // HEADS))
    attended = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v).reshape(len(x), -1)
    x = layer_norm(block.attention_norm, x + dense(block.attention.output, attended))
    x = layer_norm(block.mlp_norm, x + dense(block.mlp.down, np.maximum(dense(block.mlp.up, x), 0)))
    return dense(model.head, np.maximum(dense(model.hidden_layer, x.mean(0)), 0))


def test_the_seeds_formulas(model):
    np.testing.assert_allclose(call(model, jnp.asarray(TOKENS)), seed_by_hand(model, TOKENS), atol=1e-5)


def test_length_is_as_if_cut_off(model):
    for length in (1, 3, len(TOKENS)):
        out = call(model, jnp.asarray(TOKENS), jnp.asarray(length, jnp.int32))
        np.testing.assert_allclose(out, seed_by_hand(model, TOKENS[:length]), atol=1e-5)


def test_the_sizes_of_the_seed():
    model = eqx.filter_eval_shape(
        TransformerClassifier, TransformerClassifierConfig(vocab_size=20_000, num_classes=2), key=jax.random.key(0)
    )
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, lambda leaf: hasattr(leaf, "shape")))) == 653_566
    )


def test_too_long_and_empty_texts_are_errors(model):
    for size, message in ((LENGTH + 1, "max_length"), (0, "tokens is empty")):
        with pytest.raises(ValueError, match=message):
            model(jnp.zeros(size, int))
    assert np.isnan(model(jnp.array([VOCAB]))).all()


def test_dropouts_are_apart(fill):
    """Each kind alone makes a difference, so none is forgotten."""
    kinds = ("dropout_p", "head_dropout_p", "channel_dropout_p", "token_dropout_p")
    for kind in kinds:
        options = dict.fromkeys(kinds, 0.0) | {kind: 0.5}

        def make(key, o=options):
            return TransformerClassifier(
                TransformerClassifierConfig(
                    vocab_size=VOCAB,
                    num_classes=2,
                    embed_size=EMBED,
                    num_layers=1,
                    num_heads=HEADS,
                    mlp_size=8,
                    max_length=LENGTH,
                    **o,
                ),
                key=key,
            )

        model = fill(make)
        outs = [call(model, jnp.asarray(TOKENS), key=jax.random.key(seed)) for seed in range(4)]
        assert len({out.tobytes() for out in map(np.asarray, outs)}) > 1, kind
        silent = call(eqx.nn.inference_mode(model), jnp.asarray(TOKENS))
        np.testing.assert_allclose(silent, seed_by_hand(model, TOKENS), atol=1e-5)
