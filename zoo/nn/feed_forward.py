"""The position-wise feed-forward layer of a Transformer block."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from zoo.nn.checks import check_choice, check_sizes
from zoo.nn.linear import AbstractLinear, Linear


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` times the chance that a normal number is smaller, computed in float32 at least.

    By `erf`, as in PyTorch. `jax.nn.gelu` takes `erfc`, which with its gradient costs twice as much on a CPU.

    References: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415.

    Example:
        >>> gelu(jnp.array([-1.0, 0.0, 1.0])).round(2)
        Array([-0.16,  0.  ,  0.84], dtype=float32)
    """
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


class FeedForward(eqx.Module):
    """Maps each token's vector to a new one through a wider hidden layer, independently of other tokens.

    `down(activation(up(x)))`, or gated as in Llama: `down(activation(gate(x)) * up(x))`.

    References: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202, for the gate.

    Example:
        >>> FeedForward(4, 16, key=jax.random.key(0))(jax.numpy.ones((3, 4))).shape
        (3, 4)
    """

    up: AbstractLinear
    gate: AbstractLinear | None
    down: AbstractLinear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        embed_size: int,
        mlp_size: int,
        *,
        activation: str = "relu",
        gated: bool = False,
        use_bias: bool = True,
        weight_std: float | None = None,
        out_scale: float = 1.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            embed_size: size of a token's vector.
            mlp_size: size of the hidden layer.
            activation: "relu", "gelu" (exact), "gelu_tanh" (GPT-2's approximation) or "silu".
            gated: whether the hidden layer is multiplied by a gate.
            use_bias: whether the layers add a bias.
            weight_std: standard deviation of the initial weights; as in `Linear` by default.
            out_scale: factor on it for the output layer; deep pre-norm stacks take less than 1.
            key: for the weights.
        """
        check_sizes(embed_size=embed_size, mlp_size=mlp_size)
        check_choice("activation", activation, ACTIVATIONS)
        up_key, gate_key, down_key = jax.random.split(key, 3)
        self.up = Linear(embed_size, mlp_size, use_bias=use_bias, std=weight_std, key=up_key)
        self.gate = None
        if gated:
            self.gate = Linear(embed_size, mlp_size, use_bias=use_bias, std=weight_std, key=gate_key)
        self.down = Linear(mlp_size, embed_size, use_bias=use_bias, std=weight_std, scale=out_scale, key=down_key)
        self.activation = activation

    def __call__(self, x: Float[Array, "*shape embed"]) -> Float[Array, "*shape embed"]:
        activate = ACTIVATIONS[self.activation]
        hidden = activate(self.up(x)) if self.gate is None else activate(self.gate(x)) * self.up(x)
        return self.down(hidden)
