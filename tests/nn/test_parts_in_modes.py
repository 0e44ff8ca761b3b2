"""Every part of `zoo.nn` under the modes of JAX: without `jit`, with doubles on, with strict promotion."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo.nn as nn

KEY = jax.random.key(0)  # of what is drawn in a call


def attention(key):
    return nn.MultiHeadAttention(8, 4, num_kv_heads=2, dropout_p=0.2, key=key)


def mlp(key):
    return nn.FeedForward(8, 6, gated=True, activation="silu", key=key)


def block(key, **options):
    return nn.TransformerBlock(attention(key), mlp(key), embed_size=8, dropout_p=0.2, **options)


def cross_block(key):
    return nn.CrossAttentionBlock(attention(key), attention(key), mlp(key), embed_size=8)


def with_cache(attention, x):
    slots = jnp.arange(5)
    cache = nn.KVCache.empty(2, 7, 2, x.dtype)
    return attention.extend(x, cache, slots, mask=nn.cache_mask(slots, 7), rotation=nn.RotaryPositions(2)(slots))


def run(cell, x):
    return nn.run_cell(cell, cell.input(x), cell.init_state())


def from_ids(cell, ids):
    return nn.run_cell(cell, cell.project_ids(ids), cell.init_state())


TOKENS, X = np.array([3, 1, 4, 1, 5]), np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)

# What makes a part from a key, what calls it, and with what.
PARTS: dict[str, tuple[Callable, Callable, np.ndarray]] = {
    "Linear": (functools.partial(nn.Linear, 8, 3), lambda part, x: (part(x), part.accumulate(x)), X),
    "FeedForward": (mlp, lambda part, x: part(x), X),
    "TokenEmbedding": (
        functools.partial(nn.TokenEmbedding, 9, 8, scale=2.0),
        lambda part, ids: part.project(part(ids)),
        TOKENS,
    ),
    "LearnedPositions": (functools.partial(nn.LearnedPositions, 7, 4), lambda part, ids: part(ids), TOKENS),
    "LearnedPositions, sinusoidal": (
        lambda key: None,
        lambda part, ids: nn.LearnedPositions(7, 4, key=KEY)(ids),
        TOKENS,
    ),
    "RelativeBias": (
        functools.partial(nn.RelativeBias, 2, num_buckets=8, max_distance=6, bidirectional=True),
        lambda part, ids: part(ids, ids),
        TOKENS,
    ),
    "SinusoidalPositions": (lambda key: nn.SinusoidalPositions(6), lambda part, ids: part(ids), TOKENS),
    "SinusoidalPositions, halves": (
        lambda key: nn.SinusoidalPositions(6, "halves"),
        lambda part, ids: part(ids),
        TOKENS,
    ),
    "RotaryPositions": (lambda key: nn.RotaryPositions(8), lambda part, x: part(jnp.arange(5))(x[None]), X),
    "RotaryPositions, interleaved": (
        lambda key: nn.RotaryPositions(8, layout="interleaved"),
        lambda part, x: part(jnp.arange(5))(x[None]),
        X,
    ),
    "MultiHeadAttention": (
        attention,
        lambda part, x: part(
            x,
            mask=nn.causal_mask(5) & nn.padding_mask(3, 5),
            rotation=nn.RotaryPositions(2)(jnp.arange(5)),
            key=KEY,
        ),
        X,
    ),
    "KVCache": (attention, with_cache, X),
    "TransformerBlock": (block, lambda part, x: part(x, mask=nn.causal_mask(5), key=KEY), X),
    "TransformerBlock, post-norm": (
        functools.partial(block, pre_norm=False, norm="rms"),
        lambda part, x: part(x, key=KEY),
        X,
    ),
    "CrossAttentionBlock": (
        cross_block,
        lambda part, x: part(x, memory=x[:3], mask=nn.causal_mask(5), memory_mask=nn.padding_mask(2, 3), key=KEY),
        X,
    ),
    "Stack": (
        lambda key: nn.Stack.make(block, 2, remat=True, key=key),
        lambda part, x: part(x, key=KEY, mask=nn.causal_mask(5)),
        X,
    ),
    "Convolution": (
        lambda key: nn.Convolution(8, 3, kernel_size=3, stride=2, key=key),
        lambda part, x: part(x, 4),
        X,
    ),
    "NGramEmbedding": (
        lambda key: nn.NGramEmbedding(50, 4, (1, 2), key=key),
        lambda part, ids: part(ids, 4),
        TOKENS,
    ),
    "Dropout": (lambda key: nn.Dropout(0.5), lambda part, x: part(x, key=KEY), X),
    "TokenDropout": (lambda key: nn.TokenDropout(0.5, 2), lambda part, ids: part(ids, key=KEY), TOKENS),
    "ChannelDropout": (lambda key: nn.ChannelDropout(0.5), lambda part, x: part(x, key=KEY), X),
    "masked_mean": (lambda key: None, lambda part, x: nn.masked_mean(x, 3), X),
    "masked_max": (lambda key: None, lambda part, x: nn.masked_max(x, 3), X),
    **{
        f"{cell.__name__} of {what}": (functools.partial(cell, 8, 4), use, inputs)
        for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
        for what, use, inputs in (("vectors", run, X), ("ids", from_ids, TOKENS))
    },
}

# Parts made of others that stand here too.
COMPOSED = (
    "Stack",
    "MultiHeadAttention",
    "KVCache",
    "TransformerBlock",
    "TransformerBlock, post-norm",
    "CrossAttentionBlock",
)


def made(name, fill):
    """A part without dropout, what calls it, and with what."""
    make, call, inputs = PARTS[name]
    return eqx.nn.inference_mode(fill(lambda key: make(key=key))), call, inputs


def test_all_parts_are_exported_and_tried():
    modules = [importlib.import_module(f"zoo.nn.{module.name}") for module in pkgutil.iter_modules(nn.__path__)]
    public = {
        name
        for module in modules
        if module.__name__ != "zoo.nn.checks"
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__ == module.__name__
        if not name.startswith("_")
    }
    exported = {name for name, value in vars(nn).items() if not inspect.ismodule(value) and not name.startswith("_")}
    assert exported == public
    parts = {name for name in public if inspect.isclass(vars(nn)[name]) and not inspect.isabstract(vars(nn)[name])}
    assert parts - {"Rotation"} <= {word for name in PARTS for word in name.replace(",", "").split()}


@pytest.mark.parametrize("name", [name for name in PARTS if name not in COMPOSED])
def test_with_doubles_on_what_is_float32_stays_the_same(name, fill):
    part, call, inputs = made(name, fill)
    expected = eqx.filter_jit(call)(part, jnp.asarray(inputs))
    with jax.enable_x64(True):
        ours = eqx.filter_jit(call)(part, jnp.asarray(inputs))  # ids are 64 bits wide here
    for one, other in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        if jnp.issubdtype(other.dtype, jnp.floating):
            assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COMPOSED else []) for name in PARTS]
)
def test_without_jit(name, fill):
    part, call, inputs = made(name, fill)
    with jax.disable_jit():
        ours = call(part, jnp.asarray(inputs))
    expected = eqx.filter_jit(call)(part, jnp.asarray(inputs))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), ours, expected)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "TokenDropout"])  # which gives ids
def test_gradients_promote_no_types(name, fill):
    make, call, inputs = PARTS[name]
    arguments = fill(lambda key: make(key=key)), jnp.asarray(inputs)  # with dropout

    def loss(arguments):
        leaves = jax.tree.leaves(call(*arguments))
        return sum(jnp.sum(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))

    with jax.numpy_dtype_promotion("strict"):
        gradient = eqx.filter_eval_shape(eqx.filter_grad(loss), arguments)
    trained = eqx.filter(arguments, eqx.is_inexact_array)
    assert [leaf.dtype for leaf in jax.tree.leaves(gradient)] == [leaf.dtype for leaf in jax.tree.leaves(trained)]
