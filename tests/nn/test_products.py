"""`rows_times_matrix` is `x @ matrix.T` under every transformation and in every order of them."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from product_uses import plain, uses

from zoo.nn.products import rows_times_matrix

XS, MATRIX = (np.random.default_rng(0).normal(size=size).astype(np.float32) for size in ((4, 3, 5), (6, 5)))


@functools.cache
def expected(use):
    return jax.jit(uses(plain)[use])(XS, MATRIX)


def check(use, apply):
    got = apply(jnp.asarray(XS, jnp.float32), jnp.asarray(MATRIX, jnp.float32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected(use))


@pytest.mark.parametrize("use", uses(plain))
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_plain_product(use, compiled):
    ours = uses(rows_times_matrix)[use]
    check(use, jax.jit(ours) if compiled else ours)


@pytest.mark.parametrize("use", ["value", "vmap of vmap", "vmap of grad", "jvp", "grad of scan", "checkpoint"])
def test_equals_the_plain_product_without_jit(use):
    expected(use)  # with it
    with jax.disable_jit():
        check(use, uses(rows_times_matrix)[use])


def test_equals_the_plain_product_on_four_devices():
    script = Path(__file__).with_name("products_on_devices.py")
    env = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout)
    assert len(differences) == 3 * len(uses(plain))
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("in_specs", [(P("data"), P()), (P(), P("data")), (P("data"), P("data"))])
@pytest.mark.parametrize("use", ["value", "vmap", "jvp", "vmap over both"])
def test_what_varies_from_device_to_device_does_not_pass_as_the_same(use, in_specs):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))  # of types, one device has all
    arrays = jnp.ones((4, 3, 5)), jnp.ones((6, 5))
    for product in (plain, rows_times_matrix):
        mapped = jax.shard_map(uses(product)[use], mesh=mesh, in_specs=in_specs, out_specs=P())
        with pytest.raises(ValueError, match="out_specs"):
            jax.eval_shape(mapped, *arrays)


def test_types():
    x, matrix = (jnp.asarray(array.astype(jnp.bfloat16), jnp.bfloat16) for array in (XS[0], MATRIX))
    assert rows_times_matrix(x, matrix).dtype == jnp.float32
    np.testing.assert_allclose(rows_times_matrix(x, matrix), plain(x, matrix), atol=1e-5)
    for gradient in jax.grad(lambda x, m: jnp.sum(rows_times_matrix(x, m) ** 2), argnums=(0, 1))(x, matrix):
        assert gradient.dtype == jnp.bfloat16


def test_a_batch_is_one_product_of_two_dimensions():
    """The point of it: no dot in the program has more than two axes, forward or backward."""
    loss = lambda m, xs: jnp.sum(jax.vmap(lambda x: rows_times_matrix(x, m) ** 2)(xs))  # noqa: E731
    text = jax.jit(jax.grad(loss)).lower(jnp.ones((6, 5)), jnp.ones((4, 3, 5))).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert dots
    assert all("4x3" not in line for line in dots)
