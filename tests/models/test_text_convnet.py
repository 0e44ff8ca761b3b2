"""The ConvNet against the seed's formulas, written out in NumPy, and what its branches see."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TextConvNet, TextConvNetConfig

VOCAB = 11
TOKENS = np.array([4, 1, 9, 3, 10, 2, 2, 7, 5])


@pytest.fixture(scope="module")
def model(fill):
    def make(key):
        return TextConvNet(
            TextConvNetConfig(
                vocab_size=VOCAB,
                num_classes=2,
                embed_size=4,
                num_filters=6,
                branches=(((4, 2), (3, 2)),),
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


def convolve(layer, x):
    k, s = layer.kernel_size, layer.stride
    before = (k - 1) // 2
    x = np.concatenate([np.zeros((before, x.shape[1])), x, np.zeros((k, x.shape[1]))])
    windows = [x[i * s : i * s + k].reshape(-1) for i in range(-(-(len(x) - before - k) // s))]
    return dense(layer.linear, np.array(windows))


def layer_norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)


def seed_by_hand(model, tokens):
    """Twice convolution, norm, relu; the maximum over the text; dense, relu, dense."""
    x = np.asarray(model.embedding.weight, np.float64)[tokens]
    for layer, norm in zip(model.convolutions[0], model.norms[0], strict=True):
        x = np.maximum(layer_norm(norm, convolve(layer, x)), 0)
    return dense(model.head, np.maximum(dense(model.hidden_layer, x.max(axis=0)), 0))


def test_the_seeds_formulas_and_padding(model):
    for length in (1, 4, len(TOKENS)):
        expected = seed_by_hand(model, TOKENS[:length])
        np.testing.assert_allclose(call(model, jnp.asarray(TOKENS[:length])), expected, atol=1e-5)
        out = call(model, jnp.asarray(TOKENS), jnp.asarray(length, jnp.int32))
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_the_sizes_of_the_seed():
    model = eqx.filter_eval_shape(
        TextConvNet, TextConvNetConfig(vocab_size=50_257, num_classes=2), key=jax.random.key(0)
    )
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, lambda leaf: hasattr(leaf, "shape"))))
        == 6_679_810
    )


def test_a_branch_finds_its_phrase_anywhere():
    """A convolution made to answer to one pair of tokens does so wherever it stands, and to nothing else."""
    config = TextConvNetConfig(
        vocab_size=VOCAB, num_classes=2, embed_size=VOCAB, num_filters=1, branches=(((2, 1),),), use_norm=False,
        hidden_size=None, embedding_dropout_p=0.0, dropout_p=0.0,
    )  # fmt: skip
    model = eqx.filter_jit(TextConvNet)(config, key=jax.random.key(0))
    weight = jnp.zeros((1, 2 * VOCAB)).at[0, 3].set(1.0).at[0, VOCAB + 5].set(1.0)
    where = lambda m: (m.embedding.weight, m.convolutions[0][0].linear.weight)  # noqa: E731
    model = eqx.tree_at(where, model, (jnp.eye(VOCAB), weight))
    found = {(1, 3, 5): 2.0, (3, 5, 1): 2.0, (5, 3, 1): 1.0, (1, 1, 1): 0.0, (1, 1, 3): 1.0}
    hidden = eqx.filter_jit(model.hidden)
    for tokens, response in found.items():
        assert hidden(jnp.array(tokens)).tolist() == [response]


def test_lists_become_tuples_and_nothing_is_left_is_an_error():
    lists: dict = {"branches": [[[2, 1]], [[3, 1]]], "ngram_orders": [2]}
    config = TextConvNetConfig(vocab_size=VOCAB, num_classes=2, ngram_buckets=9, **lists)
    assert (config.branches, config.ngram_orders) == ((((2, 1),), ((3, 1),)), (2,))
    model = eqx.filter_eval_shape(TextConvNet, config, key=jax.random.key(0))
    with pytest.raises(ValueError, match="one feature"):
        TextConvNetConfig(vocab_size=VOCAB, num_classes=2, branches=())
    with pytest.raises(ValueError, match="empty"):
        eqx.filter_eval_shape(model, jnp.zeros(0, int), key=jax.random.key(0))


def test_dropouts_are_apart(fill):
    kinds = ("dropout_p", "embedding_dropout_p", "channel_dropout_p", "token_dropout_p")
    for kind in kinds:
        options = dict.fromkeys(kinds, 0.0) | {kind: 0.5}

        def make(key, o=options):
            return TextConvNet(
                TextConvNetConfig(vocab_size=VOCAB, num_classes=2, embed_size=4, num_filters=6, **o), key=key
            )

        model = fill(make)
        outs = [call(model, jnp.asarray(TOKENS), key=jax.random.key(seed)) for seed in range(4)]
        assert len({out.tobytes() for out in map(np.asarray, outs)}) > 1, kind
