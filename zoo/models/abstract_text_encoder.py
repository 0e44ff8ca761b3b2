"""What all encoders of texts have in common: heads on the vectors of tokens, and a vector for a whole text."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.nn.checks import (
    check_choice,
    check_flags,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.norm import make_norm
from zoo.nn.pooling import masked_mean

POOLINGS = ("mean", "first")


@dataclass(frozen=True, kw_only=True)
class AbstractTextEncoderConfig:
    """What the config of every encoder of texts says. Those of the models say more, and have their own defaults."""

    vocab_size: int
    """Number of different tokens."""
    embed_size: int
    """Length of a token's vector."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Heads of attention, a divisor of `embed_size`."""
    mlp_size: int
    """Width of the feed-forward layers."""
    max_length: int
    """Most tokens of a text."""
    norm_epsilon: float
    """Added to variances."""
    dropout_p: float
    """Dropout probability for embeddings, attention weights, residual branches and the pooled vector, in [0, 1)."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    """Of the feed-forward layers and of the transform before the logits of tokens."""
    head: Literal["masked_lm", "classifier", "none"] = "none"
    """What gives logits: of every token, of every class, or nothing."""
    num_classes: int | None = None
    """Number of logits of a classifier, and of no other head."""
    class_names: Sequence[str] | None = None
    """What the classes are called, if that is known."""
    pooling: Literal["first", "mean"] = "first"
    """What a classifier takes for a text's vector: that of the first token, or the mean of all."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def check(self) -> None:
        """Raises `ValueError` for fields out of their range, or that do not fit. Called by `__post_init__`."""
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length,
            num_classes=self.num_classes,
        )  # fmt: skip
        head_sizes(self.embed_size, self.num_heads)
        check_positive(norm_epsilon=self.norm_epsilon)
        check_probability(dropout_p=self.dropout_p)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("head", self.head, ("masked_lm", "classifier", "none"))
        check_choice("pooling", self.pooling, POOLINGS)
        check_flags(remat=self.remat)
        if (self.num_classes is None) == (self.head == "classifier"):
            raise ValueError(f"num_classes goes with head='classifier', got {self.num_classes} with {self.head!r}")
        names = self.class_names
        if names is not None and (len(names) != self.num_classes or not all(isinstance(name, str) for name in names)):
            raise ValueError(f"class_names must be a name for each of {self.num_classes} classes, got {names!r}")


class Transform(eqx.Module):
    """What stands between a token's vector and the logits: a dense layer, an activation and a norm."""

    linear: AbstractLinear
    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    activation: str = eqx.field(static=True)

    def __init__(self, size: int, activation: str, norm_epsilon: float, *, use_bias: bool = True, key: PRNGKeyArray):
        self.linear = Linear(size, size, use_bias=use_bias, key=key)
        self.norm = make_norm("layer", size, epsilon=norm_epsilon, use_bias=use_bias)
        self.activation = activation

    def __call__(self, x: Float[Array, "seq embed"]) -> Float[Array, "seq embed"]:
        return jax.vmap(self.norm)(ACTIVATIONS[self.activation](self.linear(x)))


class AbstractTextEncoder(eqx.Module):
    """Maps a text's tokens to a vector each that depends on all of them, and on to logits or to one for the text.

    `encode` gives the tokens' vectors and `embed` that of the text; calling the model gives the logits of its head,
    which for "masked_lm" score every token at every position, also where the input is not masked. Padding on the
    right changes nothing: no token attends to it, and it is in no mean. A model says how it encodes and pools.
    """

    embedding: eqx.AbstractVar[TokenEmbedding]
    dropout: eqx.AbstractVar[Dropout]
    transform: eqx.AbstractVar[Transform | None]
    logit_bias: eqx.AbstractVar[Float[Array, " vocab"] | None]  # of all tokens
    head: eqx.AbstractVar[AbstractLinear | None]  # of a classifier
    config: eqx.AbstractVar[Any]

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @abstractmethod
    def encode(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        """The vector of each token, of which those after `length` mean nothing. Arguments as in `__call__`."""

    @abstractmethod
    def pool(
        self, encoded: Float[Array, "seq {self.config.embed_size}"], length: Int[Array, ""] | int | None = None
    ) -> Float[Array, " {self.config.embed_size}"]:
        """The vector that a classifier takes for the text, of what `encode` gives."""

    def embed(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        pooling: Literal["mean", "first"] = "mean",
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, " {self.config.embed_size}"]:
        """A vector of length 1 for the whole text: the product of those of two texts is their similarity, -1 to 1.

        Args:
            tokens, length, types, key: as in `__call__`.
            pooling: the mean of the tokens' vectors (MiniLM and most others) or the first one (BGE), scaled to
                length 1 either way.
        """
        check_choice("pooling", pooling, POOLINGS)
        x = self.encode(tokens, length, types=types, key=key)
        x = pooled(x.astype(jnp.float32), length, pooling)
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2), 1e-24))

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*seq {self.config.embed_size}"]:
        """What `project` makes logits of: a vector for each token, or one for the text. Else as `__call__`."""
        encode_key, pooled_key = (None, None) if key is None else jax.random.split(key)
        x = self.encode(tokens, length, types=types, key=encode_key)
        if self.logit_bias is not None and self.transform is not None:
            return self.transform(x)
        return self.dropout(self.pool(x, length), key=pooled_key)

    def project(self, hidden: Float[Array, "*seq {self.config.embed_size}"]) -> Float32[Array, "*seq classes"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        if self.head is not None:
            return self.head.accumulate(hidden)
        if self.logit_bias is None:
            raise ValueError("head is 'none', which gives no logits: take `encode`, `pool` or `embed`")
        logits, bias = self.embedding.project(hidden), self.logit_bias.astype(jnp.float32)
        return logits + bias.reshape((1,) * (logits.ndim - 1) + (-1,))

    def __call__(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "*seq classes"]:
        """
        Args:
            tokens: 1 to `max_length` ids in 0 to vocab_size - 1, with the special ones that the model was trained
                with (BERT: [CLS] text [SEP]), padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            types: of each token, 0 to num_types - 1; all 0 by default.
            key: for dropout, needed in training.

        Returns:
            A row of logits for each token, which score the tokens that may stand there ("masked_lm"); or one logit
            for each class ("classifier").

        Raises:
            ValueError: too many tokens, types without a table of them, or the model has no head.
        """
        return self.project(self.hidden(tokens, length, types=types, key=key))


def pooled(
    encoded: Float[Array, "seq embed"], length: Int[Array, ""] | int | None, pooling: str
) -> Float[Array, " embed"]:
    """One vector of those of a text's tokens: the first, or the mean of all that are real."""
    if pooling == "first":
        return encoded[0]
    return masked_mean(encoded, encoded.shape[0] if length is None else length)
