"""A dense layer: the last axis of an array through a matrix."""

import math
from abc import abstractmethod
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, PRNGKeyArray

from zoo.nn.checks import check_sizes
from zoo.nn.products import rows_times_matrix


class AbstractLinear(eqx.Module):
    """What a model needs of a dense layer, and so what may stand in the place of a `Linear`.

    An adapter (a frozen `Linear` and a low-rank update) or other storage (quantised weights) implements both methods
    and goes in by `eqx.tree_at`. Whatever reads `weight` itself asks for a `Linear` by name.

    Example:
        >>> class Doubled(AbstractLinear):
        ...     linear: AbstractLinear
        ...
        ...     def accumulate(self, x):
        ...         return 2 * self.linear.accumulate(x)
        ...
        ...     def __call__(self, x):
        ...         return self.accumulate(x).astype(x.dtype)
        >>> from zoo.nn import FeedForward
        >>> mlp = FeedForward(4, 16, key=jax.random.key(0))
        >>> eqx.tree_at(lambda mlp: mlp.down, mlp, replace_fn=Doubled)(jnp.ones((3, 4))).shape
        (3, 4)
    """

    @abstractmethod
    def accumulate(self, x: Float[Array, "*shape in"]) -> Float32[Array, "*shape out"]:
        """The output in float32, before it is rounded to the input's type: for logits."""

    @abstractmethod
    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        """The output in the type of `x`, over all leading axes at once: `accumulate`, rounded."""


@final
class Linear(AbstractLinear):
    """Maps vectors of `in_size` to vectors of `out_size`: `weight @ x + bias`, over all leading axes at once.

    Products are summed in float32 whatever the type of the weights, and `__call__` rounds the sum back to
    the type of its input. Weights are initialised from a normal distribution, biases to zero.

    Differs from `equinox.nn.Linear`: leading axes are allowed, and under `vmap` the whole batch is one product of two
    matrices, by a primitive of its own (`zoo.nn.products`). That is a CPU matter: XLA's CPU backend computes the
    batched product that `vmap` makes of `x @ weight.T`, and above all its gradient, a good deal slower. The primitive
    lowers to the plain product on every backend, so on others nothing is gained by it and nothing lost.

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
            in_size: size of the input vectors, at least 1.
            out_size: size of the output vectors, at least 1.
            use_bias: whether to add a trained bias.
            std: standard deviation of the initial weights; by default `1 / sqrt(in_size)`, which keeps the variance.
            scale: additional factor on the initial weights.
            key: for the weights.
        """
        check_sizes(in_size=in_size, out_size=out_size)
        std = 1.0 / math.sqrt(in_size) if std is None else std
        self.weight = jax.random.normal(key, (out_size, in_size)) * (std * scale)
        self.bias = jnp.zeros(out_size) if use_bias else None

    def accumulate(self, x: Float[Array, "*shape in"]) -> Float32[Array, "*shape out"]:
        out = rows_times_matrix(x, self.weight)
        if self.bias is None:
            return out
        # An explicit shape, because the rank of a sum is never promoted silently here.
        return out + self.bias.astype(jnp.float32).reshape((1,) * (out.ndim - 1) + (-1,))

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return self.accumulate(x).astype(x.dtype)
