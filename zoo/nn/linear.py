"""A dense layer: the last axis of an array through a matrix."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, PRNGKeyArray

from zoo.nn.checks import check_sizes
from zoo.nn.products import rows_times_matrix


class Linear(eqx.Module):
    """Maps vectors of `in_size` to vectors of `out_size`: `weight @ x + bias`, over all leading axes at once.

    Products are summed in float32 whatever the type of the weights, and `__call__` rounds the sum back to
    the type of its input. Weights start normal, biases at zero.

    Differs from `equinox.nn.Linear`: leading axes are allowed, and under `vmap` it is one large product
    (`zoo.nn.products`), where that one's `weight @ x` comes out transposed.

    Example:
        >>> import jax
        >>> Linear(3, 5, key=jax.random.key(0))(jax.numpy.ones((4, 3))).shape
        (4, 5)
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        use_bias: bool = True,
        std: float | None = None,
        scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            in_size: length of the vectors that go in, at least 1.
            out_size: length of the vectors that come out, at least 1.
            use_bias: whether to add a trained vector.
            std: standard deviation of the initial weights; by default `1 / sqrt(in_size)`, which keeps the variance.
            scale: factor on top of it.
            key: for the weights.
        """
        check_sizes(in_size=in_size, out_size=out_size)
        std = 1.0 / math.sqrt(in_size) if std is None else std
        self.weight = jax.random.normal(key, (out_size, in_size)) * (std * scale)
        self.bias = jnp.zeros(out_size) if use_bias else None

    def accumulate(self, x: Float[Array, "*shape in"]) -> Float32[Array, "*shape out"]:
        """The result before it is rounded to the input's type: for logits, which stay in float32."""
        out = rows_times_matrix(x, self.weight)
        if self.bias is None:
            return out
        # An explicit shape, because the rank of a sum is never promoted silently here.
        return out + self.bias.astype(jnp.float32).reshape((1,) * (out.ndim - 1) + (-1,))

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return self.accumulate(x).astype(x.dtype)


AbstractLinear = Linear
