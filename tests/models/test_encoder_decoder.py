"""EncoderDecoder against the formulas of its paper, written out in NumPy."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import EncoderDecoder, EncoderDecoderConfig

pytestmark = pytest.mark.usefixtures("strict_promotion")

SIZES: Any = {"vocab_size": 11, "embed_size": 12, "num_layers": 1, "num_heads": 4, "mlp_size": 20, "max_length": 10}
SOURCE, LENGTH = np.array([3, 1, 4, 1, 5, 9]), 4
TARGET = np.array([2, 7, 1, 8, 2])
VARIANTS = {
    "seed": {"num_decoder_layers": 2},
    "pre-norm": {
        "pre_norm": True,
        "num_decoder_layers": 2,
        "source_vocab_size": 13,
        "positions": "sinusoidal",
        "activation": "gelu",
        "norm_epsilon": 0.1,
    },
    "tied": {"tie_embeddings": True},
}
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
}


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def norm(layer, x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * layer.weight + layer.bias


def attention(layer, x, memory, may_see):
    """One head and one query at a time: `may_see(i)` is how many of the memory token i looks at."""
    size = layer.head_size
    queries, keys, values = linear(layer.query, x), linear(layer.key, memory), linear(layer.value, memory)
    out = np.zeros_like(queries)
    for head in range(layer.num_heads):
        mine = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            seen = slice(0, may_see(i))
            scores = keys[seen, mine] @ queries[i, mine] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[i, mine] = weights @ values[seen, mine] / weights.sum()
    return linear(layer.output, out)


def by_numpy(model, source, length, target):
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if eqx.is_array(leaf) else leaf, model)
    embed_size = model.config.embed_size

    def embed(embedding, tokens):
        x = embedding.weight[tokens] * (math.sqrt(embed_size) if model.config.tie_embeddings else 1)
        if model.config.positions == "learned":
            return x + wide.position_embedding.weight[: len(tokens)]
        angles = np.arange(len(tokens))[:, None] / 10_000 ** (np.arange(0, embed_size, 2) / embed_size)
        return x + np.stack([np.sin(angles), np.cos(angles)], -1).reshape(x.shape)

    def layers(stack):
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i] if isinstance(leaf, np.ndarray) else leaf, stack.blocks)
            for i in range(stack.num_layers)
        ]

    def add(layer, part, x):
        if model.config.pre_norm:
            return x + part(norm(layer, x, model.config.norm_epsilon))
        return norm(layer, x + part(x), model.config.norm_epsilon)

    def feed_forward(mlp):
        return lambda x: linear(mlp.down, ACTIVATIONS[model.config.activation](linear(mlp.up, x)))

    memory = embed(wide.embedding if model.source_embedding is None else wide.source_embedding, source[:length])
    for block in layers(wide.encoder_stack):
        memory = add(block.attention_norm, lambda y, b=block: attention(b.attention, y, y, lambda i: length), memory)
        memory = add(block.mlp_norm, feed_forward(block.mlp), memory)
    memory = norm(wide.encoder_norm, memory, model.config.norm_epsilon) if model.config.pre_norm else memory
    x = embed(wide.embedding, target)
    for block in layers(wide.decoder_stack):
        x = add(block.attention_norm, lambda y, b=block: attention(b.attention, y, y, lambda i: i + 1), x)
        look = lambda y, b=block: attention(b.cross_attention, y, memory, lambda i: length)  # noqa: E731
        x = add(block.cross_attention_norm, look, x)
        x = add(block.mlp_norm, feed_forward(block.mlp), x)
    x = norm(wide.decoder_norm, x, model.config.norm_epsilon) if model.config.pre_norm else x
    return 0.2 * x @ wide.embedding.weight.T if model.config.tie_embeddings else linear(wide.head, x)


def make(fill, **options):
    return eqx.nn.inference_mode(fill(lambda key: EncoderDecoder(EncoderDecoderConfig(**SIZES, **options), key=key)))


@eqx.filter_jit
def call(model, source, target, length=None, key=None):
    return model(source, target, source_length=length, key=key)


@pytest.fixture(scope="module")
def model(fill):
    return make(fill)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_formulas(fill, variant):
    model = make(fill, **VARIANTS[variant])
    logits = call(model, jnp.asarray(SOURCE), jnp.asarray(TARGET), jnp.asarray(LENGTH))
    np.testing.assert_allclose(logits, by_numpy(model, SOURCE, LENGTH, TARGET), atol=1e-4, rtol=1e-4)


def test_the_defaults_are_those_of_the_seed():
    shapes = eqx.filter_eval_shape(
        lambda key: EncoderDecoder(EncoderDecoderConfig(vocab_size=1000), key=key), jax.random.key(0)
    )
    v, e, m, attention = 1000, 256, 2048, 4 * (256 * 256 + 256)
    mlp = 2 * e * m + m + e
    expected = v * e + 20 * e + (attention + mlp + 4 * e) + (2 * attention + mlp + 6 * e) + (v * e + v)
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(shapes, lambda x: hasattr(x, "shape")))) == expected
    config = shapes.config
    assert (config.num_heads, config.dropout_p, config.head_dropout_p, config.pre_norm) == (8, 0.0, 0.5, False)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_project_of_hidden_and_so_are_the_heads_weights(fill, tied):
    @eqx.filter_jit
    def both(model, *arguments):
        return model.hidden(*arguments), model(*arguments)

    model = make(fill, tie_embeddings=tied)
    hidden, logits = both(model, jnp.asarray(SOURCE), jnp.asarray(TARGET))
    np.testing.assert_allclose(model.project(hidden), logits, atol=1e-5)
    weight, bias = model.head_weights()
    by_hand = np.asarray(hidden) @ np.asarray(weight).T + (0 if bias is None else np.asarray(bias))
    np.testing.assert_allclose(by_hand, logits, atol=1e-5)


def test_memory_is_what_the_encoder_makes_of_real_tokens(model):
    encode = eqx.filter_jit(lambda m, *args: m.encode(*args))
    whole, cut = encode(model, jnp.asarray(SOURCE), jnp.asarray(LENGTH)), encode(model, jnp.asarray(SOURCE[:LENGTH]))
    assert whole.shape == (6, 12)
    np.testing.assert_allclose(whole[:LENGTH], cut, atol=1e-5)


def test_source_padding_changes_nothing_whatever_stands_there(model):
    source, target = jnp.asarray(SOURCE), jnp.asarray(TARGET)
    logits = call(model, source[:LENGTH], target)
    for padding in ([5, 9], [0, 0], [-1, 11]):
        padded = jnp.asarray([*SOURCE[:LENGTH], *padding])
        np.testing.assert_allclose(call(model, padded, target, jnp.asarray(LENGTH)), logits, atol=1e-5)
    assert np.abs(call(model, source, target) - logits).max() > 1e-3  # unless it is real


def test_dropout_of_the_head_alone_by_default(fill, model):
    """What goes into the head is what it is without dropout, or twice that, or 0."""
    training = eqx.nn.inference_mode(model, value=False)
    hidden = eqx.filter_jit(lambda m, key: m.hidden(jnp.asarray(SOURCE), jnp.asarray(TARGET), key=key))
    whole, dropped = np.asarray(hidden(model, None)), np.asarray(hidden(training, jax.random.key(0)))
    zero = dropped == 0
    assert 0.2 < zero.mean() < 0.8
    np.testing.assert_allclose(dropped[~zero], 2 * whole[~zero], rtol=1e-5)


@pytest.mark.parametrize("bad", [11, -1, 2**31 - 1])
def test_ids_outside_the_vocabulary_give_no_plausible_logits(model, bad):
    source, target = jnp.asarray(SOURCE), jnp.asarray(TARGET)
    assert np.isnan(call(model, source.at[2].set(bad), target)).all()
    assert np.isnan(call(model, source, target.at[2].set(bad))[2:]).all()


def test_an_empty_source_is_nothing_to_attend_to(model):
    """A row that only fills up a batch must not spoil the gradient of the others."""

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def total(model):
        return jnp.sum(model(jnp.asarray(SOURCE), jnp.asarray(TARGET), source_length=jnp.asarray(0)) ** 2)

    value, gradient = total(model)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.usefixtures("as_users")
def test_lengths_are_checked(model):
    ids = lambda size: jnp.zeros(size, int)  # noqa: E731
    with pytest.raises(ValueError, match=r"target_inputs has 11 ids, .* max_length \(10\)"):
        model(ids(3), ids(11))
    for make in (lambda x, n=None: model(x, ids(2), source_length=n), model.decoder):
        with pytest.raises(ValueError, match=r"source has 11 tokens, .* max_length \(10\)"):
            make(ids(11))
        with pytest.raises(ValueError, match=r"source (is empty|has 0 tokens)"):
            make(ids(0))
        for length in (-1, 4, jnp.array(4)):
            with pytest.raises(ValueError, match=r"source_length must be in 0 to 3, .* got -?\d"):
                make(ids(3), length)
    with pytest.raises(ValueError, match=r"source_length must be in 0 to 3, .* got 4"):
        model.decoders(np.zeros((2, 3), int), np.array([3, 4]))
    with pytest.raises(ValueError, match="source_lengths must have one entry for each of 2 sources"):
        model.decoders(np.zeros((2, 3), int), np.array([3]))


@pytest.mark.usefixtures("as_users")
def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"embed_size \(12\) must be a multiple of num_heads \(5\)"):
        EncoderDecoder(
            EncoderDecoderConfig(vocab_size=11, embed_size=12, num_layers=1, num_heads=5, mlp_size=20, max_length=10),
            key=jax.random.key(0),
        )
