"""Attention against Equinox's own and against a plain loop; its cache; extending in pieces."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import (
    Dropout,
    KVCache,
    MultiHeadAttention,
    RotaryPositions,
    attend,
    attend_to_cache,
    cache_mask,
    causal_mask,
    padding_mask,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")
run = eqx.filter_jit(lambda f, *args, **kwargs: f(*args, **kwargs))  # one compilation where eager has dozens


def attend_by_loop(queries, keys, values, scale, mask=None, bias=None):
    """Softmax attention one query and one head at a time, in float64."""
    queries, keys, values = (np.asarray(x, np.float64) for x in (queries, keys, values))
    heads, length, _ = queries.shape
    group = heads // keys.shape[0]
    out = np.zeros((heads, length, values.shape[-1]))
    for h in range(heads):
        for i in range(length):
            allowed = [j for j in range(keys.shape[1]) if mask is None or mask[i % len(mask), j]]
            if not allowed:
                continue
            scores = np.array([scale * np.dot(queries[h, i], keys[h // group, j]) for j in allowed])
            if bias is not None:
                scores += np.asarray(bias)[h % len(bias), i % bias.shape[1], allowed]
            weights = np.exp(scores - scores.max())
            out[h, i] = weights @ values[h // group, allowed] / weights.sum()
    return out


@pytest.mark.parametrize(
    "biases", [(True, True, True, True), (False, False, False, False), (True, False, True, True)]
)
def test_equals_equinox_with_the_same_weights(normal, fill, biases):
    names = ("query", "key", "value", "output")
    options = {f"use_{name}_bias": use for name, use in zip(names, biases, strict=True)}
    ours = fill(lambda key: MultiHeadAttention(12, 3, **options, key=key))
    theirs = fill(lambda key: eqx.nn.MultiheadAttention(3, 12, **options, key=key))
    for name, use in zip(names, biases, strict=True):
        layer = getattr(ours, name)
        assert (layer.bias is not None) == use
        theirs = eqx.tree_at(lambda m, name=name: getattr(m, f"{name}_proj").weight, theirs, layer.weight)
        if use:
            theirs = eqx.tree_at(lambda m, name=name: getattr(m, f"{name}_proj").bias, theirs, layer.bias)

    def compare(ours, theirs, x, memory, mask):
        itself = ours(x, mask=causal_mask(5)), theirs(x, x, x, mask=causal_mask(5))
        other = ours(x, memory, mask=mask), theirs(x, memory, memory, mask=mask)
        return itself, other

    mask = np.random.default_rng(1).random((5, 7)) < 0.6
    mask[:, 0] = True
    for ours_out, theirs_out in run(compare, ours, theirs, normal(5, 12), normal(7, 12), jnp.asarray(mask)):
        np.testing.assert_allclose(ours_out, theirs_out, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "query", "key", "size"),
    [(4, 4, 5, 5, 3), (6, 2, 5, 7, 3), (6, 1, 1, 4, 2), (3, 3, 4, 1, 5)],
)
def test_attend_equals_a_loop(normal, heads, kv_heads, query, key, size):
    arrays = normal(heads, query, size), normal(kv_heads, key, size), normal(kv_heads, key, size)
    mask = np.random.default_rng(1).random((query, key)) < 0.5
    choices = (
        {"scale": 0.3},
        {"scale": 1.0, "mask": mask, "bias": normal(heads, query, key)},
        {"scale": 0.3, "mask": np.asarray(padding_mask(1, key)), "bias": normal(1, 1, key)},
        {"scale": 2.0, "bias": normal(1, query, key)},
    )
    fast = run(lambda *arrays: [attend(*arrays, **jax.tree.map(_to_jax, choice)) for choice in choices], *arrays)
    for out, choice in zip(fast, choices, strict=True):
        np.testing.assert_allclose(out, attend_by_loop(*arrays, **choice), atol=1e-5)


def _to_jax(leaf):
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def test_a_query_without_keys_gives_zeros_and_finite_gradients(normal):
    mask = jnp.ones((3, 4), bool).at[1].set(False)

    def loss(arrays):
        out = attend(*arrays, scale=1.0, mask=mask)
        return jnp.sum(out**2), out

    gradients, out = run(jax.grad(loss, has_aux=True), (normal(2, 3, 2), normal(1, 4, 2), normal(1, 4, 2)))
    assert (out[:, 1] == 0).all()
    assert (out[:, 0] != 0).all()
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)
    assert (gradients[0][:, 1] == 0).all()
    assert (gradients[0][:, 0] != 0).all()


def test_dropout_zeroes_weights_and_scales_the_rest(normal):
    weights_of = jnp.broadcast_to(jnp.eye(6), (2, 6, 6))  # these values show the weights themselves
    dropout = Dropout(0.25)
    queries, keys = normal(2, 6, 6), normal(2, 6, 6)
    call = functools.partial(run, attend, queries, keys, weights_of, scale=1.0)
    whole, dropped = call(), call(dropout=dropout, key=jax.random.key(0))
    gone = np.asarray(dropped) == 0
    assert 0 < gone.sum() < gone.size / 2
    np.testing.assert_allclose(dropped, np.where(gone, 0.0, whole / 0.75), rtol=1e-5)
    np.testing.assert_array_equal(call(dropout=eqx.nn.inference_mode(dropout)), whole)


def test_sums_in_float32_under_bfloat16(normal):
    low = tuple(x.astype(jnp.bfloat16) for x in (normal(2, 3, 8), normal(2, 2000, 8), 1 + normal(2, 2000, 8)))
    out = run(lambda *heads: attend(*heads, scale=0.25, mask=jnp.ones((1, 2000), bool)), *low)
    assert out.dtype == jnp.bfloat16
    exact = attend_by_loop(*low, scale=0.25)
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, rtol=2**-7)  # the last rounding alone


@pytest.mark.parametrize("cut", [(7,), (3, 1, 2, 1)])
def test_extending_in_pieces_equals_the_whole(normal, fill, cut):
    attention = fill(lambda key: MultiHeadAttention(12, 6, num_kv_heads=2, head_size=4, key=key))
    positions, rotary, capacity = jnp.arange(7), RotaryPositions(4), 9

    def compare(attention, x, bias):
        whole = attention(x, mask=causal_mask(7), bias=bias[:, :, :7], rotation=rotary(positions))
        cache, pieces, start = KVCache.empty(2, capacity, 4, jnp.float32), [], 0
        for size in cut:
            part = slice(start, start + size)
            out, cache = attention.extend(
                x[part],
                cache,
                positions[part],
                mask=cache_mask(positions[part], capacity),
                bias=bias[:, part],
                rotation=rotary(positions[part]),
            )
            pieces.append(out)
            start += size
        return whole, jnp.concatenate(pieces), cache

    whole, pieces, cache = run(compare, attention, normal(7, 12), normal(6, 7, 9))
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    assert (np.asarray(cache.keys)[:, 7:] == 0).all()
    assert (np.asarray(cache.keys)[:, :7] != 0).all()


def test_what_is_meant_for_no_slot_is_dropped(normal):
    keys, values = normal(2, 5, 3), normal(2, 5, 3)
    cache = KVCache.empty(2, 4, 3, jnp.float32)
    cache = run(cache.write, keys, values, jnp.array([2, 4, 0, 2**31 - 1, -1]))
    assert cache.capacity == 4
    for stored, new in ((cache.keys, keys), (cache.values, values)):
        stored = np.asarray(stored)
        np.testing.assert_array_equal(stored[:, 2], new[:, 0])
        np.testing.assert_array_equal(stored[:, 0], new[:, 2])
        assert (stored[:, [1, 3]] == 0).all()  # -1 is no slot either


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_size": 0}, "embed_size"),
        ({"num_heads": 5}, r"embed_size \(12\) .* num_heads \(5\)"),
        ({"num_kv_heads": 2}, r"num_heads \(3\) .* num_kv_heads \(2\)"),
        ({"num_kv_heads": 0}, "num_kv_heads"),
        ({"head_size": 2.0}, "head_size"),
        ({"num_heads": True}, "num_heads"),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"dropout_p": -0.1}, "dropout_p"),
        ({"dropout_p": float("nan")}, "dropout_p"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**{"embed_size": 12, "num_heads": 3, **arguments}, key=jax.random.key(0))


@pytest.mark.parametrize("length", [5, 300, 520])
@pytest.mark.parametrize("more", [{}, {"mask", "bias"}])
def test_causal_blocks_are_the_causal_mask(normal, length, more):
    """Also their gradients, and where one row of a mask or a bias is for all queries."""
    queries, keys, values = normal(4, length, 3), normal(2, length, 3), normal(2, length, 3)
    mask = padding_mask(length - 2, length) if "mask" in more else jnp.ones((1, length), bool)
    bias = normal(4, 1, length) if "bias" in more else None

    def whole(*heads):
        return attend(*heads, scale=0.5, mask=mask & causal_mask(length), bias=bias)

    def blocks(*heads):
        return attend(*heads, scale=0.5, mask=mask if more else None, bias=bias, causal=True)

    def both(f):
        return jax.jit(lambda *heads: (f(*heads), jax.grad(lambda *h: jnp.sum(f(*h) ** 2), (0, 1, 2))(*heads)))

    for ours, other in zip(*(jax.tree.leaves(both(f)(queries, keys, values)) for f in (blocks, whole)), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-5)


def test_a_query_without_any_key_has_zeros_and_gradients_of_zero(normal):
    heads, mask = (normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 4)), jnp.zeros((3, 5), bool).at[0].set(True)

    def total(queries, keys, values):
        return jnp.sum(attend(queries, keys, values, scale=0.5, mask=mask)[:, 1:])

    value, gradients = run(jax.value_and_grad(total, (0, 1, 2)), *heads)
    assert value == 0
    assert all((np.asarray(g) == 0).all() for g in gradients)


@pytest.mark.parametrize("capacity", [64, 256, 1024])
def test_a_query_reads_the_part_of_a_cache_that_is_in_use(normal, capacity):
    """Whatever lies in the rest; and a batch takes one way for all its rows, not every way for each."""
    positions = jnp.array([0, 63, 64, 255, 256, capacity - 1]) % capacity
    rows = len(positions)
    queries = normal(rows, 4, 1, 8)
    cache = jax.vmap(KVCache)(normal(rows, 2, capacity, 8), normal(rows, 2, capacity, 8))

    def ours(query, cache, position):
        return attend_to_cache(query, cache, scale=0.5, mask=cache_mask(position[None], capacity))

    def plain(query, cache, position):
        mask = cache_mask(position[None], capacity)
        return attend(query, cache.keys, cache.values, scale=0.5, mask=mask)

    expected = run(jax.vmap(plain), queries, cache, positions)
    one = jax.jit(ours)
    alone = [one(*jax.tree.map(lambda x: x[i], (queries, cache, positions))) for i in range(rows)]  # noqa: B023
    np.testing.assert_allclose(np.stack(alone), expected, atol=1e-6)
    np.testing.assert_allclose(run(jax.vmap(ours), queries, cache, positions), expected, atol=1e-6)
    program = str(jax.make_jaxpr(jax.vmap(ours))(queries, cache, positions))
    assert program.count("cond[") == (capacity > 64)
    nothing_there = jax.tree.map(lambda x: x.at[:, :, 64:].set(jnp.nan), cache)
    if capacity == 1024:
        first = run(jax.vmap(ours), queries[:2], jax.tree.map(lambda x: x[:2], nothing_there), positions[:2])
        np.testing.assert_allclose(first, expected[:2], atol=1e-6)
