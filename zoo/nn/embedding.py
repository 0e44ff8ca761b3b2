"""Token embeddings, and learned, sinusoidal and rotary position embeddings."""

import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.nn.checks import check_bands, check_choice, check_jax_array, check_positive, check_sizes
from zoo.nn.products import rows_times_matrix


def embedding_lookup(table: Float[Array, "rows size"], index: Int[Array, " seq"]) -> Float[Array, "seq size"]:
    """Rows of a table. An index outside it gives NaN, where plain indexing would silently give another row."""
    check_jax_array("an embedding", table)
    return table.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class TokenEmbedding(eqx.Module):
    """Maps token ids to vectors and, as a tied output head, hidden vectors to logits.

    Example:
        >>> embedding = TokenEmbedding(11, 4, key=jax.random.key(0))
        >>> embedding(jnp.array([3, 1, 4])).shape
        (3, 4)
    """

    weight: Float[Array, "vocab embed"]
    scale: float = eqx.field(static=True)

    def __init__(self, vocab_size: int, embed_size: int, *, std: float = 1.0, scale: float = 1.0, key: PRNGKeyArray):
        """
        Args:
            vocab_size: number of token ids.
            embed_size: size of each token's vector.
            std: standard deviation of the initial weights.
            scale: factor on the embedded vectors, not on a tied head; the original Transformer takes
                sqrt(embed_size).
            key: for the weights.
        """
        check_sizes(vocab_size=vocab_size, embed_size=embed_size)
        self.weight = jax.random.normal(key, (vocab_size, embed_size)) * std
        self.scale = scale

    @classmethod
    def of_unit_variance(
        cls, vocab_size: int, embed_size: int, *, tied: bool = False, key: PRNGKeyArray
    ) -> "TokenEmbedding":
        """Embedded vectors have entries of variance one; as rows of a tied head they have norm one."""
        size = math.sqrt(embed_size) if tied else 1.0
        return cls(vocab_size, embed_size, std=1.0 / size, scale=size, key=key)

    def __call__(self, tokens: Int[Array, " seq"]) -> Float[Array, "seq embed"]:
        """Ids outside the vocabulary give NaN: check them where they enter the program."""
        vectors = embedding_lookup(self.weight, tokens)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def project(self, hidden: Float[Array, "*shape embed"]) -> Float32[Array, "*shape vocab"]:
        """Logits of a tied head: the product with every token's vector, summed in float32."""
        return rows_times_matrix(hidden, self.weight)


def sinusoids(
    positions: Int[Array, " seq"], size: int, layout: Literal["interleaved", "halves"] = "interleaved"
) -> Float32[Array, "seq {size}"]:
    """Sines and cosines of wavelengths that grow geometrically from 2 pi to 20,000 pi.

    Args:
        positions: the position of each vector.
        size: size of the vectors, even.
        layout: "interleaved" alternates sine and cosine (the Transformer paper, Trax); "halves" puts all sines
            before all cosines (Marian).

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.5.
    """
    check_choice("layout", layout, ("interleaved", "halves"))
    if size % 2:
        raise ValueError(f"sinusoidal positions need an even size, got {size}")
    frequencies = jnp.exp(jnp.arange(0, size, 2, dtype=jnp.float32) * (-math.log(10_000.0) / size))
    angles = positions[:, None].astype(jnp.float32) * frequencies[None, :]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    if layout == "halves":
        return jnp.concatenate([sine, cosine], axis=-1)
    return jnp.stack([sine, cosine], axis=-1).reshape(positions.shape[0], size)


class SinusoidalPositions(eqx.Module):
    """Maps positions to fixed sines and cosines: no parameters, any length.

    Example:
        >>> SinusoidalPositions(4)(jnp.array([0])).tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """

    embed_size: int = eqx.field(static=True)
    layout: Literal["interleaved", "halves"] = eqx.field(static=True, default="interleaved")

    def __call__(self, positions: Int[Array, " seq"]) -> Float32[Array, "seq embed"]:
        return sinusoids(positions, self.embed_size, self.layout)


class LearnedPositions(eqx.Module):
    """Maps each position to a trained vector; a position outside the table gives NaN.

    Example:
        >>> LearnedPositions(8, 4, key=jax.random.key(0))(jnp.arange(3)).shape
        (3, 4)
    """

    weight: Float[Array, "length embed"]

    def __init__(
        self,
        max_length: int,
        embed_size: int,
        *,
        init: Literal["sinusoidal", "normal"] = "sinusoidal",
        std: float = 0.02,
        key: PRNGKeyArray,
    ):
        """
        Args:
            max_length: number of positions.
            embed_size: size of each position's vector.
            init: initialisation of the position table: interleaved sines and cosines as in Trax, or normal as in
                GPT-2.
            std: standard deviation of the normal initialisation.
            key: for the normal initialisation.
        """
        check_sizes(max_length=max_length, embed_size=embed_size)
        check_choice("init", init, ("sinusoidal", "normal"))
        if init == "sinusoidal":
            self.weight = sinusoids(jnp.arange(max_length), embed_size)
        else:
            self.weight = jax.random.normal(key, (max_length, embed_size)) * std

    def __call__(self, positions: Int[Array, " seq"]) -> Float[Array, "seq embed"]:
        return embedding_lookup(self.weight, positions)


class Rotation(eqx.Module):
    """Sines and cosines of the angles by which queries and keys at some positions are rotated."""

    cosine: Float32[Array, "seq pairs"]
    sine: Float32[Array, "seq pairs"]
    layout: Literal["halves", "interleaved"] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "heads seq size"]) -> Float[Array, "heads seq size"]:
        """Rotates each pair of a head's entries by its angle, in float32."""
        wide = x.astype(jnp.float32)
        if self.layout == "halves":
            first, second = jnp.split(wide, 2, axis=-1)
        else:
            first, second = wide[..., 0::2], wide[..., 1::2]
        cosine, sine = self.cosine[None], self.sine[None]
        rotated = (first * cosine - second * sine, second * cosine + first * sine)
        if self.layout == "halves":
            return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
        return jnp.stack(rotated, axis=-1).reshape(x.shape).astype(x.dtype)


class RotaryPositions(eqx.Module):
    """Maps positions to the rotation of queries and keys, whose products then depend on relative positions alone.

    To use a model on longer texts than it was trained on, wavelengths are stretched by a `factor`: all of them, or
    the long ones alone where `bands` are given, `(low, high, length)`. A wave that turns fewer than `low` times in
    `length` tokens is stretched, one that turns more than `high` times is not, and what lies between is mixed.

    References: Su et al., "RoFormer", 2021, arXiv:2104.09864 (its pairs are "interleaved"); Llama and
    GPT-NeoX rotate "halves", entry i with entry i + size / 2. Chen et al., "Extending Context Window", 2023,
    arXiv:2306.15595, for the factor; Llama 3.1's `apply_scaling` for the bands.

    Example:
        >>> rotation = RotaryPositions(4)(jnp.arange(3))
        >>> rotation(jnp.ones((2, 3, 4))).shape
        (2, 3, 4)
    """

    head_size: int = eqx.field(static=True)
    base: float = eqx.field(static=True, default=10_000.0)
    layout: Literal["halves", "interleaved"] = eqx.field(static=True, default="halves")
    factor: float = eqx.field(static=True, default=1.0)
    bands: Sequence[float | int] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_choice("layout", self.layout, ("halves", "interleaved"))
        if self.head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, got {self.head_size}")
        check_positive(base=self.base, factor=self.factor)
        check_bands(self.bands)

    def __call__(self, positions: Int[Array, " seq"]) -> Rotation:
        frequencies = jnp.asarray(self._frequencies())
        angles = positions[:, None].astype(jnp.float32) * frequencies[None, :]
        return Rotation(jnp.cos(angles), jnp.sin(angles), self.layout)

    def _frequencies(self) -> Float32[np.ndarray, " pairs"]:
        """Radians a token of each pair, rounded as those that models were trained with.

        Far from the start a last bit shows: `base ** -x`, which XLA also makes of `1 / base ** x`, gives cosines that
        differ by 5e-3 at position 131,071. So they are computed here, by NumPy.
        """
        exponents = (np.arange(0, self.head_size, 2) / self.head_size).astype(np.float32)
        frequencies = np.float32(1) / (self.base ** exponents.astype(np.float64)).astype(np.float32)
        kept = np.zeros_like(frequencies)
        if self.bands is not None:
            low, high, length = self.bands
            kept = np.clip((frequencies * (length / (2 * math.pi)) - low) / (high - low), 0, 1).astype(np.float32)
        return (1 - kept) * frequencies / np.float32(self.factor) + kept * frequencies
