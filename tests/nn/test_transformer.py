"""A block against its formula, and its norms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import (
    CrossAttentionBlock,
    FeedForward,
    KVCache,
    MultiHeadAttention,
    RotaryPositions,
    TransformerBlock,
    cache_mask,
    causal_mask,
    make_norm,
    padding_mask,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")


def make_block(key, **options):
    keys, dropout_p = jax.random.split(key), options.get("dropout_p", 0.0)
    attention = MultiHeadAttention(12, 4, num_kv_heads=2, head_size=4, dropout_p=dropout_p, key=keys[0])
    return TransformerBlock(attention, FeedForward(12, 20, key=keys[1]), embed_size=12, **options)


def make_cross_block(key, **options):
    keys, dropout_p = jax.random.split(key, 3), options.get("dropout_p", 0.0)
    own, cross = (MultiHeadAttention(12, 4, num_kv_heads=2, dropout_p=dropout_p, key=key) for key in keys[:2])
    return CrossAttentionBlock(own, cross, FeedForward(12, 20, key=keys[2]), embed_size=12, **options)


def norm_by_numpy(norm, x, kind, epsilon):
    x = np.asarray(x, np.float64)
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * np.asarray(norm.weight)
    return jnp.asarray(x if norm.bias is None else x + np.asarray(norm.bias), jnp.float32)


call = eqx.filter_jit(lambda module, *args, **kwargs: module(*args, **kwargs))


@pytest.mark.parametrize(("kind", "pre_norm"), [("layer", True), ("layer", False), ("rms", True), ("rms", False)])
def test_block_equals_its_formula(normal, fill, kind, pre_norm):
    block = fill(lambda key: make_block(key, norm=kind, norm_epsilon=0.01, pre_norm=pre_norm))
    x, mask = normal(5, 12), causal_mask(5)
    y = x
    for norm, part in (
        (block.attention_norm, lambda y: call(block.attention, y, mask=mask)),
        (block.mlp_norm, lambda y: call(block.mlp, y)),
    ):
        apply_norm = functools.partial(norm_by_numpy, norm, kind=kind, epsilon=0.01)
        y = y + part(apply_norm(y)) if pre_norm else apply_norm(y + part(y))
    np.testing.assert_allclose(call(block, x, mask=mask), y, atol=1e-4)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_extend_equals_the_whole(normal, fill, pre_norm):
    @eqx.filter_jit
    def compare(block, x):
        rotary, positions = RotaryPositions(4), jnp.arange(5)
        whole = block(x, mask=causal_mask(5), rotation=rotary(positions))
        cache, pieces = KVCache.empty(2, 6, 4, jnp.float32), []
        for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
            where = positions[part]
            out, cache = block.extend(x[part], cache, where, mask=cache_mask(where, 6), rotation=rotary(where))
            pieces.append(out)
        return jnp.concatenate(pieces), whole

    block = fill(lambda key: make_block(key, pre_norm=pre_norm))
    np.testing.assert_allclose(*compare(block, normal(5, 12)), atol=1e-5)


def test_dropout_acts_on_what_is_added_and_needs_a_key(normal, fill):
    block, x = fill(lambda key: make_block(key, dropout_p=0.5)), normal(5, 12)
    keys = [jax.random.key(i) for i in range(2)]
    with pytest.raises(RuntimeError, match="key"):
        call(block, x)
    assert not np.allclose(*(call(block, x, key=key) for key in keys), atol=0.01)
    silent = eqx.nn.inference_mode(block)
    np.testing.assert_array_equal(call(silent, x, key=keys[0]), call(silent, x))
    # With attention and feed-forward zeroed, nothing is added, so nothing is dropped.
    mute = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_array(leaf) else leaf, block)
    np.testing.assert_array_equal(call(mute, x, key=keys[0]), x)


def test_norms_have_the_parts_they_are_asked_for():
    layer = make_norm("layer", 4, epsilon=1e-5)
    bare = make_norm("layer", 4, epsilon=1e-5, use_bias=False)
    rms = make_norm("rms", 4, epsilon=1e-5)
    assert [norm.bias is None for norm in (layer, bare, rms)] == [False, True, True]
    assert all(norm.weight is not None and norm.eps == 1e-5 for norm in (layer, bare, rms))


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "norm .* 'batch'"),
        ({"dropout_p": 1.5}, "dropout_p"),
        ({"norm_epsilon": -1.0}, "norm_epsilon"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon"),
    ],
)
def test_wrong_arguments_are_named(fill, options, message):
    attention = fill(lambda key: MultiHeadAttention(12, 4, key=key))
    mlp = fill(lambda key: FeedForward(12, 20, key=key))
    with pytest.raises(ValueError, match=message):
        TransformerBlock(attention, mlp, embed_size=12, **options)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cross_block_equals_its_formula(normal, fill, pre_norm):
    block = fill(lambda key: make_cross_block(key, norm_epsilon=0.01, pre_norm=pre_norm))
    x, memory, mask, memory_mask = normal(5, 12), normal(4, 12), causal_mask(5), padding_mask(3, 4)
    y = x
    for norm, part in (
        (block.attention_norm, lambda y: call(block.attention, y, mask=mask)),
        (block.cross_attention_norm, lambda y: call(block.cross_attention, y, memory[:3])),
        (block.mlp_norm, lambda y: call(block.mlp, y)),
    ):
        apply_norm = functools.partial(norm_by_numpy, norm, kind="layer", epsilon=0.01)
        y = y + part(apply_norm(y)) if pre_norm else apply_norm(y + part(y))
    out = call(block, x, memory=memory, mask=mask, memory_mask=memory_mask)
    np.testing.assert_allclose(out, y, atol=1e-4)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cross_block_extends_with_a_memory_projected_once(normal, fill, pre_norm):
    @eqx.filter_jit
    def compare(block, x, memory):
        memory_mask = padding_mask(3, 4)
        whole = block(x, memory=memory, mask=causal_mask(5), memory_mask=memory_mask)
        projected, cache, pieces = block.project_memory(memory), KVCache.empty(2, 6, 3, jnp.float32), []
        for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
            where = jnp.arange(5)[part]
            mask = cache_mask(where, 6)
            out, cache = block.extend(
                x[part], cache, where, projected_memory=projected, mask=mask, memory_mask=memory_mask
            )
            pieces.append(out)
        return jnp.concatenate(pieces), whole

    block = fill(lambda key: make_cross_block(key, pre_norm=pre_norm))
    np.testing.assert_allclose(*compare(block, normal(5, 12), normal(4, 12)), atol=1e-5)


def test_cross_block_drops_what_all_three_parts_add(normal, fill):
    block = fill(lambda key: make_cross_block(key, dropout_p=0.5))
    x, memory, key = normal(5, 12), normal(4, 12), jax.random.key(0)
    with pytest.raises(RuntimeError, match="key"):
        call(block, x, memory=memory)
    silent = eqx.nn.inference_mode(block)
    np.testing.assert_array_equal(call(silent, x, memory=memory, key=key), call(silent, x, memory=memory))
    parts = (lambda b: b.attention, lambda b: b.cross_attention, lambda b: b.mlp)
    for kept in range(4):  # with the other parts zeroed, nothing but this one is dropped; with all of them, nothing
        some = block
        for i, part in enumerate(parts):
            if i != kept:
                some = eqx.tree_at(part, some, jax.tree.map(lambda w: w * 0 if eqx.is_array(w) else w, part(some)))
        same = np.allclose(call(some, x, memory=memory, key=key), call(eqx.nn.inference_mode(some), x, memory=memory))
        assert same == (kept == 3)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("name", "value"), [("dropout_p", 1.5), ("norm_epsilon", 0.0), ("norm", "batch")])
def test_wrong_arguments_of_a_cross_block_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        eqx.filter_eval_shape(lambda key: make_cross_block(key, **{name: value}), jax.random.key(0))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_cross_attention_weights_are_those_of_the_block(pre_norm, normal, fill):
    """With the weights, the values of the memory make what the block's cross-attention makes."""

    @eqx.filter_jit
    def compare(block, x, memory, mask):
        attention, cross = block.attention, block.cross_attention
        weights = block.cross_attention_weights(x, memory=memory, memory_mask=mask)
        seen = []
        spy = eqx.tree_at(lambda b: b.mlp, block, lambda y: (seen.append(y), jnp.zeros_like(y))[1])
        spy(x, memory=memory, memory_mask=mask)
        # By hand, from the weights: the same vectors reach the feed-forward layer.
        _, values = cross.project_keys_values(memory)
        values = jnp.repeat(values, len(weights) // len(values), axis=0)  # of the heads that share them
        looked = cross.merge(jnp.einsum("hqk,hkd->hqd", weights, values))
        if pre_norm:
            y = x + attention(jax.vmap(block.attention_norm)(x))
            return weights, seen[0], jax.vmap(block.mlp_norm)(y + looked)
        y = jax.vmap(block.attention_norm)(x + attention(x))
        return weights, seen[0], jax.vmap(block.cross_attention_norm)(y + looked)

    block = fill(lambda key: make_cross_block(key, pre_norm=pre_norm))
    mask = jnp.array([[True, True, True, True, False]])
    weights, seen, expected = compare(block, normal(3, 12), normal(5, 12), mask)
    np.testing.assert_allclose(np.sum(weights, -1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(weights)[..., 4], 0)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
