"""A text encoder of the BERT kind, with its heads, and its config.

tokens, types -> embeddings + positions -> norm -> num_layers x (attention, feed-forward) -> a vector for each token
each vector -> transform -> head tied to the embedding -> logits of the token that stands there   (masked_lm)
the first token's vector -> pooler -> head -> a logit for each class                              (classifier)
all vectors -> mean over the text -> unit length -> a vector for the text                         (`embed`)
"""

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
    check_ids,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.embedding import LearnedPositions, TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import padding_mask
from zoo.nn.pooling import masked_mean
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock, make_blocks, make_norm

POOLERS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
WEIGHT_STD = 0.02  # of all initial weights but the heads'


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """What a `TextEncoder` is made of. Plain JSON; the defaults are those of BERT.

    Raises:
        ValueError: a field out of its range, or two that do not fit.

    Example:
        >>> TextEncoderConfig.distilbert(head="classifier", num_classes=2).pooler
        'relu'
    """

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
    max_length: int = 512
    """Most tokens of a text."""
    num_types: int | None = None
    """Number of types of tokens (BERT has two, for the first and the second of two texts); None for no types."""
    head: Literal["masked_lm", "classifier", "none"] = "none"
    """What gives logits: of every token, of every class, or nothing."""
    num_classes: int | None = None
    """Number of logits of a classifier, and of no other head."""
    class_names: Sequence[str] | None = None
    """What the classes are called, if that is known."""
    pooler: Literal["tanh", "relu", "none"] = "none"
    """Activation of the layer between the first token's vector and the classifier, or no such layer."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    """Of the feed-forward layers and of the transform before the logits of tokens."""
    norm_epsilon: float = 1e-12
    """Added to variances (BERT 1e-12, RoBERTa 1e-5)."""
    dropout_p: float = 0.1
    """Dropout probability for embeddings, attention weights, residual branches and the pooled vector, in [0, 1)."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length, num_types=self.num_types,
            num_classes=self.num_classes,
        )  # fmt: skip
        head_sizes(self.embed_size, self.num_heads)
        check_choice("head", self.head, ("masked_lm", "classifier", "none"))
        check_choice("pooler", self.pooler, (*POOLERS, "none"))
        check_choice("activation", self.activation, ACTIVATIONS)
        if (self.num_classes is None) == (self.head == "classifier"):
            raise ValueError(f"num_classes goes with head='classifier', got {self.num_classes} with {self.head!r}")
        names = self.class_names
        if names is not None and (len(names) != self.num_classes or not all(isinstance(name, str) for name in names)):
            raise ValueError(f"class_names must be a name for each of {self.num_classes} classes, got {names!r}")
        check_flags(remat=self.remat)
        check_positive(norm_epsilon=self.norm_epsilon)
        check_probability(dropout_p=self.dropout_p)

    @classmethod
    def bert(cls, **changes: Any) -> "TextEncoderConfig":
        """BERT, by default the uncased base model with its masked-language-model head."""
        return cls(**{**_preset(changes, pooler="tanh"), "num_types": 2, **changes})

    @classmethod
    def roberta(cls, **changes: Any) -> "TextEncoderConfig":
        """RoBERTa, by default the base model with its masked-language-model head."""
        sizes = {"vocab_size": 50_265, "num_types": 1, "norm_epsilon": 1e-5}
        return cls(**{**_preset(changes, pooler="tanh"), **sizes, **changes})

    @classmethod
    def distilbert(cls, **changes: Any) -> "TextEncoderConfig":
        """DistilBERT, by default the uncased base model with its masked-language-model head."""
        return cls(**{**_preset(changes, pooler="relu"), "num_layers": 6, **changes})


def _preset(changes: dict[str, Any], *, pooler: str) -> dict[str, Any]:
    """Sizes of base models. `mlp_size` is 4 times `embed_size`; only classifiers need the pooler."""
    head, embed_size = changes.get("head", "masked_lm"), changes.get("embed_size", 768)
    return {
        "vocab_size": 30_522, "embed_size": embed_size, "num_layers": 12, "num_heads": 12,
        "mlp_size": 4 * embed_size, "head": head, "pooler": "none" if head == "masked_lm" else pooler,
    }  # fmt: skip


class TextEncoder(eqx.Module):
    """Maps a text's tokens to a vector each that depends on all of them, and on to logits or to one for the text.

    `encode` gives the tokens' vectors and `embed` that of the text; calling the model gives the logits of its head,
    which for "masked_lm" score every token at every position, also where the input is not masked. Post-norm blocks
    as in BERT. Padding on the right changes nothing: no token attends to it, and it is in no mean.

    References: Devlin et al., "BERT", 2018, arXiv:1810.04805; Liu et al., "RoBERTa", 2019, arXiv:1907.11692; Sanh et
    al., "DistilBERT", 2019, arXiv:1910.01108; for `embed`, Reimers and Gurevych, "Sentence-BERT", 2019,
    arXiv:1908.10084.
    Differs from RoBERTa's code: positions count from 0, not from 2. Differs from all: one probability of dropout.

    Example:
        >>> config = TextEncoderConfig.bert(vocab_size=100, embed_size=16, num_layers=2, num_heads=4, max_length=10)
        >>> encoder = eqx.nn.inference_mode(TextEncoder(config, key=jax.random.key(0)))
        >>> tokens, length = jnp.array([2, 7, 42, 3, 0, 0]), 4
        >>> encoder(tokens, length).shape
        (6, 100)
        >>> texts, lengths = jnp.array([[2, 7, 42, 3], [2, 9, 3, 0]]), jnp.array([4, 3])
        >>> vectors = jax.vmap(encoder.embed)(texts, lengths)
        >>> (vectors @ vectors.T).shape  # the similarities of texts
        (2, 2)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions
    type_embedding: TokenEmbedding | None
    embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    dropout: eqx.nn.Dropout
    stack: Stack[TransformerBlock]
    pooler: AbstractLinear | None
    masked_lm_head: "MaskedLMHead | None"
    head: AbstractLinear | None  # of a classifier
    config: TextEncoderConfig = eqx.field(static=True)

    def __init__(self, config: TextEncoderConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        keys, size = jax.random.split(key, 6), config.embed_size
        # Logits of a fresh model have a variance of at most 0.04, so its loss is ln(classes) to a few hundredths.
        self.embedding = TokenEmbedding(config.vocab_size, size, std=min(WEIGHT_STD, 0.2 / size**0.5), key=keys[0])
        self.position_embedding = LearnedPositions(
            config.max_length, size, init="normal", std=WEIGHT_STD, key=keys[1]
        )
        self.type_embedding = None
        if config.num_types is not None:
            self.type_embedding = TokenEmbedding(config.num_types, size, std=WEIGHT_STD, key=keys[2])
        self.embedding_norm = make_norm("layer", size, epsilon=config.norm_epsilon)
        self.dropout = eqx.nn.Dropout(config.dropout_p)
        self.stack = make_blocks(
            TransformerBlock, config.num_layers, size, config.num_heads, config.mlp_size,
            activation=config.activation, pre_norm=False, norm_epsilon=config.norm_epsilon, weight_std=WEIGHT_STD,
            dropout_p=config.dropout_p, attention_dropout_p=config.dropout_p, remat=config.remat, key=keys[3],
        )  # fmt: skip
        self.pooler = None if config.pooler == "none" else Linear(size, size, key=keys[4])
        self.masked_lm_head = MaskedLMHead(config, key=keys[5]) if config.head == "masked_lm" else None
        self.head = None
        if config.num_classes is not None:
            self.head = Linear(size, config.num_classes, scale=0.2, key=keys[5])
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def encode(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        """The vector of each token, of which those after `length` mean nothing. Arguments as in `__call__`."""
        check_ids("tokens", tokens)
        (seq,) = tokens.shape
        if seq > self.max_length:
            raise ValueError(f"{seq} tokens exceed max_length ({self.max_length})")
        if types is not None and self.type_embedding is None:
            raise ValueError("types are given, but the model has no table of them (num_types is None)")
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        mask = padding_mask(seq if length is None else length, seq)
        x = self.embedding(tokens) + self.position_embedding(jnp.arange(seq))
        if self.type_embedding is not None:
            x = x + self.type_embedding(jnp.zeros_like(tokens) if types is None else types)
        x = jnp.where(mask[0, :, None], x, 0)  # even an id outside the vocabulary does no harm as padding
        x = self.dropout(jax.vmap(self.embedding_norm)(x), key=embed_key)
        return self.stack(x, mask=mask, key=stack_key)

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
        check_choice("pooling", pooling, ("mean", "first"))
        x = self.encode(tokens, length, types=types, key=key).astype(jnp.float32)
        x = x[0] if pooling == "first" else masked_mean(x, tokens.shape[0] if length is None else length)
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
        if self.masked_lm_head is not None:
            return self.masked_lm_head(x)
        return self.dropout(self.pool(x), key=pooled_key)

    def pool(
        self, encoded: Float[Array, "seq {self.config.embed_size}"]
    ) -> Float[Array, " {self.config.embed_size}"]:
        """The first token's vector, which stands for the text, through the pooler if there is one."""
        if self.pooler is None:
            return encoded[0]
        return POOLERS[self.config.pooler](self.pooler(encoded[0]))

    def project(self, hidden: Float[Array, "*seq {self.config.embed_size}"]) -> Float32[Array, "*seq classes"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        if self.head is not None:
            return self.head.accumulate(hidden)
        if self.masked_lm_head is None:
            raise ValueError("head is 'none', which gives no logits: take `encode`, `pool` or `embed`")
        logits, bias = self.embedding.project(hidden), self.masked_lm_head.bias.astype(jnp.float32)
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


class MaskedLMHead(eqx.Module):
    """Maps a token's vector to one whose products with the embedding, plus `bias`, are the logits of all tokens."""

    transform: AbstractLinear
    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    bias: Float[Array, " vocab"]
    activation: str = eqx.field(static=True)

    def __init__(self, config: TextEncoderConfig, *, key: PRNGKeyArray):
        self.transform = Linear(config.embed_size, config.embed_size, key=key)
        self.norm = make_norm("layer", config.embed_size, epsilon=config.norm_epsilon)
        self.bias = jnp.zeros(config.vocab_size)
        self.activation = config.activation

    def __call__(self, encoded: Float[Array, "seq embed"]) -> Float[Array, "seq embed"]:
        return jax.vmap(self.norm)(ACTIVATIONS[self.activation](self.transform(encoded)))
