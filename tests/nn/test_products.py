"""`rows_times_matrix` is `x @ matrix.T` under every transformation and in every order of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn.products import rows_times_matrix


def plain(x, matrix):
    return jnp.matmul(x, matrix.T, preferred_element_type=jnp.float32)


def uses(product):
    """Functions of (xs (4, 3, 5), matrix (6, 5)) that apply the product under transformations."""

    def energy(x, matrix):
        return jnp.sum(jnp.sin(product(x, matrix)))

    return {
        "value": lambda xs, m: product(xs, m),
        "vmap": lambda xs, m: jax.vmap(product, (0, None))(xs, m),
        "vmap of an inner axis": lambda xs, m: jax.vmap(product, (1, None), 2)(xs, m),
        "vmap of vmap": lambda xs, m: jax.vmap(jax.vmap(product, (0, None)), (0, None))(xs, m),
        "vmap over matrices": lambda xs, m: jax.vmap(product, (None, 0))(xs, jnp.stack([m, 2 * m])),
        "vmap over both": lambda xs, m: jax.vmap(product)(xs, jnp.stack([m, 2 * m, 3 * m, 4 * m])),
        "grad": jax.grad(energy, argnums=(0, 1)),
        "grad of vmap": jax.grad(lambda xs, m: jnp.sum(jax.vmap(energy, (0, None))(xs, m)), argnums=(0, 1)),
        "vmap of grad": jax.vmap(jax.grad(energy, argnums=(0, 1)), (0, None)),
        "jvp": lambda xs, m: jax.jvp(product, (xs, m), (xs + 1, m * 2)),
        "grad of scan": jax.grad(
            lambda xs, m: jax.lax.scan(lambda c, x: (c + energy(x, m), None), 0.0, xs)[0], argnums=(0, 1)
        ),
        "grad of vmapped scan": jax.grad(
            lambda xs, m: jnp.sum(
                jax.vmap(lambda x: jax.lax.scan(lambda c, row: (c + energy(row[None], m), None), 0.0, x)[0])(xs)
            ),
            argnums=(0, 1),
        ),
        "second derivative": lambda xs, m: jax.jvp(jax.grad(energy, argnums=1), (xs, m), (xs, m)),
        "checkpoint": jax.grad(lambda xs, m: jax.checkpoint(energy)(xs, m), argnums=(0, 1)),
    }


@pytest.mark.parametrize("use", uses(plain))
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_plain_product(use, compiled, getkey):
    xs, matrix = jax.random.normal(getkey(), (4, 3, 5)), jax.random.normal(getkey(), (6, 5))
    ours, theirs = uses(rows_times_matrix)[use], uses(plain)[use]
    if compiled:
        ours, theirs = jax.jit(ours), jax.jit(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours(xs, matrix), theirs(xs, matrix))


def test_types(getkey):
    x, matrix = (jax.random.normal(getkey(), shape).astype(jnp.bfloat16) for shape in ((3, 5), (6, 5)))
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
