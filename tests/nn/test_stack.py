"""A stack of blocks against a loop over them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from zoo.nn import FeedForward, Linear, MultiHeadAttention, Stack, TransformerBlock, causal_mask
from zoo.varying import vary_together

pytestmark = pytest.mark.usefixtures("strict_promotion")


def make_block(key, mlp_size=8, pre_norm=True):
    attention_key, mlp_key = jax.random.split(key)
    attention = MultiHeadAttention(6, 2, dropout_p=0.5, key=attention_key)
    mlp = FeedForward(6, mlp_size, key=mlp_key)
    return TransformerBlock(attention, mlp, embed_size=6, dropout_p=0.5, pre_norm=pre_norm)


@pytest.fixture(scope="module")
def training(fill):
    return fill(lambda key: Stack.make(make_block, 3, key=key))


@pytest.fixture(scope="module")
def stack(training):
    return eqx.nn.inference_mode(training)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)), jnp.float32)


@eqx.filter_jit
def by_loop(blocks, x, keys=(None,) * 3):
    for block, key in zip(blocks, keys, strict=True):
        x = block(x, mask=causal_mask(5), key=key)
    return x


call = eqx.filter_jit(lambda stack, x, key=None: stack(x, mask=causal_mask(5), key=key))


def test_scan_equals_a_loop_over_the_blocks(stack, x):
    out = call(stack, x)
    np.testing.assert_allclose(out, by_loop(stack.unstack(), x), atol=1e-5)
    assert not np.allclose(out, x, atol=0.1)


def test_keys_are_split_between_the_layers(training, x):
    key = jax.random.key(7, impl="unsafe_rbg")  # the one that compiles fastest
    slow = by_loop(training.unstack(), x, tuple(jax.random.split(key, 3)))
    np.testing.assert_allclose(call(training, x, key), slow, atol=1e-5)
    with pytest.raises(RuntimeError, match="key"):
        call(training, x)


@pytest.mark.parametrize(("length", "kept_scores"), [(5, 1), (7, 0)])
def test_a_deep_stack_keeps_products_alone_and_has_the_same_gradient(training, monkeypatch, length, kept_scores):
    """More layers than are unrolled are scanned: what is computed again must be what it was, dropout included."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(length, 6)), jnp.float32)

    def kept(x):  # by the linear part of the scan: per layer, whatever is as large as all layers' attention weights
        _, pull = jax.vjp(lambda x: training(x, causal=True, key=jax.random.key(3)), x)
        shapes.extend(leaf.shape for leaf in jax.tree.leaves(pull))
        return pull(jnp.ones_like(x))[0]

    shapes = []
    unrolled = jax.jit(lambda x: kept(x))(x)
    monkeypatch.setattr("zoo.nn.stack.UNROLLED", 0)
    shapes.clear()
    scanned = jax.jit(lambda x: kept(x))(x)
    np.testing.assert_allclose(scanned, unrolled, atol=1e-5)
    # Of 2 heads which scores dropout keeps, and the scores if they are no more numbers than queries and keys, of size
    # 3; no softmax, norm or activation.
    assert shapes.count((3, 2, length, length)) == 1 + kept_scores
    assert shapes.count((3, length, 8)) == 1


def test_scan_slices_what_belongs_to_a_layer_and_collects_results(x, fill):
    stack = fill(lambda key: Stack.make(lambda key: eqx.nn.Linear(6, 6, key=key), 3, key=key))
    scales = jnp.array([1.0, 2.0, 3.0])

    def apply(block, y, scale):
        y = jax.vmap(block)(y) * scale
        return y, (y[0], scale)

    out, (firsts, seen) = eqx.filter_jit(stack.scan)(apply, x, scales)
    y = np.asarray(x)
    for i, block in enumerate(stack.unstack()):
        y = (y @ np.asarray(block.weight).T + np.asarray(block.bias)) * (i + 1)
        np.testing.assert_allclose(firsts[i], y[0], atol=1e-5)
    np.testing.assert_allclose(out, y, atol=1e-5)
    np.testing.assert_array_equal(seen, scales)


def test_of_unstacked_is_the_same(stack):
    again = Stack.of(stack.unstack())
    assert bool(eqx.tree_equal(stack, again))
    assert len(again) == 3


def test_blocks_are_plain_modules(training, fill):
    assert jax.tree.structure(training[1]) == jax.tree.structure(fill(make_block))
    np.testing.assert_array_equal(training[-1].mlp.up.weight, training.blocks.mlp.up.weight[2])
    assert bool(eqx.tree_equal(training[-3], training[0]))


def test_each_layer_starts_with_weights_of_its_own():
    weights = Stack.make(lambda key: Linear(6, 6, key=key), 3, key=jax.random.key(0)).blocks.weight
    assert len(np.unique(weights)) == 3 * 36


@pytest.mark.parametrize("index", [3, -4, 100])
def test_there_is_no_layer_outside(stack, index):
    with pytest.raises(IndexError, match=f"{index} .* 3 layers"):
        stack[index]


@pytest.mark.parametrize("other", [{"mlp_size": 9}, {"pre_norm": False}])
def test_blocks_that_differ_in_more_than_values_are_refused(fill, other):
    blocks = [fill(make_block), fill(lambda key: make_block(key, **other))]
    with pytest.raises(ValueError):  # noqa: PT011 (JAX's words)
        Stack.of(blocks)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("num_layers", [0, -1, 1.0])
def test_wrong_number_of_layers(num_layers):
    with pytest.raises(ValueError, match="num_layers"):
        Stack.make(make_block, num_layers, key=jax.random.key(0))
    with pytest.raises(ValueError, match="blocks"):
        Stack.of([])


@pytest.mark.parametrize("varying", ["x", "shared", "per_layer", "blocks"])
def test_whatever_varies_from_device_to_device(varying, fill):
    """In `jax.shard_map` the type of a scan's carry is that of all that goes in. One device has the types of many."""
    stack = fill(lambda key: Stack.make(lambda key: Linear(4, 4, key=key), 6, key=key))

    class Added(eqx.Module):
        linear: Linear

        def __call__(self, x, *, key=None, shared):
            return self.linear(x) + shared

    blocks = Stack(Added(stack.blocks), 6)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def program(varied):
        tree = {"x": jnp.ones((5, 4)), "shared": jnp.ones((5, 4)), "per_layer": jnp.ones(6), "blocks": blocks}
        tree[varying] = vary_together(tree[varying], varied)[0]
        out = tree["blocks"](tree["x"], shared=tree["shared"])
        return tree["blocks"].scan(lambda block, x, entry: (block.linear(x) * entry, None), out, tree["per_layer"])[0]

    jax.eval_shape(jax.shard_map(program, mesh=mesh, in_specs=P("data"), out_specs=P("data")), jnp.ones(3))
    with pytest.raises(ValueError, match="out_specs"):
        jax.eval_shape(jax.shard_map(program, mesh=mesh, in_specs=P("data"), out_specs=P()), jnp.ones(3))
