"""Functions that apply a product under each of JAX's transformations: for `test_products.py` and on four devices."""

import jax
import jax.numpy as jnp


def plain(x, matrix):
    return jnp.matmul(x, matrix.T, preferred_element_type=jnp.float32)


def uses(product):
    """Functions of (xs (4, 3, 5), matrix (6, 5)) that apply the product under transformations."""

    def energy(x, matrix):
        return jnp.sum(jnp.sin(product(x, matrix)))

    def scanned(function, xs):
        """The sum over xs; it starts from the first, since zeros would not vary over devices as the others do."""
        return jax.lax.scan(lambda total, x: (total + function(x), None), function(xs[0]), xs[1:])[0]

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
        "grad of scan": jax.grad(lambda xs, m: scanned(lambda x: energy(x, m), xs), argnums=(0, 1)),
        "grad of vmapped scan": jax.grad(
            lambda xs, m: jnp.sum(jax.vmap(lambda x: scanned(lambda row: energy(row[None], m), x))(xs)),
            argnums=(0, 1),
        ),
        "second derivative": lambda xs, m: jax.jvp(jax.grad(energy, argnums=1), (xs, m), (xs, m)),
        "hessian": lambda xs, m: jax.hessian(energy, argnums=(0, 1))(xs[0, :2], m[:3]),
        "checkpoint": jax.grad(lambda xs, m: jax.checkpoint(energy)(xs, m), argnums=(0, 1)),
        "checkpoint in a scan": jax.grad(
            lambda xs, m: scanned(jax.checkpoint(lambda x: energy(x, m)), xs), argnums=(0, 1)
        ),
    }
