"""A classifier of texts by a Transformer's encoder, and its config.

tokens -> embedding + positions -> num_layers x (attention, feed-forward) -> mean over the text -> hidden layer
-> logits
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from zoo.nn.blocks import make_blocks
from zoo.nn.checks import (
    check_choice,
    check_flags,
    check_ids,
    check_index,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    check_sizes_in,
    head_sizes,
)
from zoo.nn.dropout import ChannelDropout, Dropout, TokenDropout
from zoo.nn.embedding import LearnedPositions, TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import padding_mask
from zoo.nn.ngrams import NGramEmbedding
from zoo.nn.norm import make_norm
from zoo.nn.pooling import masked_max, masked_mean
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock


@dataclass(frozen=True, kw_only=True)
class TransformerClassifierConfig:
    """What a `TransformerClassifier` is made of. Plain JSON; the defaults are those of Keras's example.

    Raises:
        ValueError: a field out of its range, or two that do not fit.
    """

    vocab_size: int
    """Number of different tokens."""
    num_classes: int
    """Number of logits."""
    embed_size: int = 32
    """Length of a token's vector."""
    num_layers: int = 1
    """Number of blocks."""
    num_heads: int = 2
    """Heads of attention, a divisor of `embed_size`."""
    mlp_size: int = 32
    """Width of the feed-forward layers."""
    max_length: int = 200
    """Most tokens of a text."""
    positions: Literal["learned", "none"] = "learned"
    """A trained table of positions, or none."""
    pooling: Literal["mean", "max", "mean_max"] = "mean"
    """Mean or maximum over the text, or both."""
    pre_norm: bool = False
    """Norms before the parts of a block and one after the last block; else after the residual sums."""
    norm_epsilon: float = 1e-6
    """Added to variances."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    """Of the feed-forward layers."""
    ngram_orders: Sequence[int] = ()
    """The n of the n-grams whose vectors join the pooled ones, summed up; none by default."""
    ngram_buckets: int = 1_000_000
    """Rows of the n-grams' table."""
    ngram_size: int = 10
    """Length of the n-grams' vectors."""
    hidden_size: int | None = 20
    """Width of the layer between the pooled vector and the logits; None for no such layer."""
    dropout_p: float = 0.1
    """Dropout probability for the residual branches of a block, in [0, 1)."""
    head_dropout_p: float = 0.1
    """Dropout probability for the pooled vector and the hidden layer, in [0, 1)."""
    channel_dropout_p: float = 0.0
    """Dropout probability for an entry of all token vectors together, in [0, 1)."""
    token_dropout_p: float = 0.0
    """Probability of replacing a token by `unknown_id`, in [0, 1)."""
    unknown_id: int = 0
    """The token that stands for others."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, num_classes=self.num_classes, embed_size=self.embed_size,
            num_layers=self.num_layers, num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length,
            hidden_size=self.hidden_size, ngram_buckets=self.ngram_buckets, ngram_size=self.ngram_size,
        )  # fmt: skip
        check_sizes_in("ngram_orders", self.ngram_orders)
        head_sizes(self.embed_size, self.num_heads)
        check_choice("positions", self.positions, ("learned", "none"))
        check_choice("pooling", self.pooling, ("mean", "max", "mean_max"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flags(pre_norm=self.pre_norm, remat=self.remat)
        check_positive(norm_epsilon=self.norm_epsilon)
        check_probability(
            dropout_p=self.dropout_p, head_dropout_p=self.head_dropout_p, channel_dropout_p=self.channel_dropout_p,
            token_dropout_p=self.token_dropout_p,
        )  # fmt: skip
        check_index("unknown_id", self.unknown_id, self.vocab_size)


class TransformerClassifier(eqx.Module):
    """Maps a text's tokens to a logit for each class.

    By default one post-norm block, learned positions, the mean over the text, and a hidden layer of 20, as in Keras's
    example. With `ngram_orders`, vectors of n-grams join what is pooled: a wide part that memorises, beside the deep
    one. Padding on the right changes nothing: no token attends to it, and it is in no mean and no maximum.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Keras, "Text classification with
    Transformer"; Cheng et al., "Wide & Deep Learning", 2016, arXiv:1606.07792, for the wide part.
    Differs from Keras's: padding is masked, the feed-forward layers have a width of their own, there is no softmax
    at the end (the loss takes it, once).

    Example:
        >>> config = TransformerClassifierConfig(vocab_size=100, num_classes=2, max_length=10)
        >>> classifier = eqx.filter_jit(TransformerClassifier)(config, key=jax.random.key(0))
        >>> eqx.filter_jit(eqx.nn.inference_mode(classifier))(jnp.array([5, 3, 8, 0]), 3).shape
        (2,)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | None
    token_dropout: TokenDropout
    channel_dropout: ChannelDropout
    stack: Stack[TransformerBlock]
    final_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    ngrams: NGramEmbedding | None
    hidden_layer: AbstractLinear | None
    dropout: Dropout
    head: AbstractLinear

    config: TransformerClassifierConfig = eqx.field(static=True)

    def __init__(self, config: TransformerClassifierConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        embedding_key, position_key, stack_key, ngram_key, hidden_key, head_key = jax.random.split(key, 6)
        size = config.embed_size
        std = 1 / math.sqrt(size)
        self.embedding = TokenEmbedding(config.vocab_size, size, std=std, key=embedding_key)
        self.position_embedding = None
        if config.positions == "learned":
            self.position_embedding = LearnedPositions(
                config.max_length, size, init="normal", std=std, key=position_key
            )
        self.token_dropout = TokenDropout(config.token_dropout_p, config.unknown_id)
        self.channel_dropout = ChannelDropout(config.channel_dropout_p)
        self.stack = make_blocks(
            TransformerBlock,
            config.num_layers,
            size,
            config.num_heads,
            config.mlp_size,
            activation=config.activation,
            pre_norm=config.pre_norm,
            norm_epsilon=config.norm_epsilon,
            dropout_p=config.dropout_p,
            remat=config.remat,
            key=stack_key,
        )
        self.final_norm = make_norm("layer", size, epsilon=config.norm_epsilon) if config.pre_norm else None
        pooled_size = 2 * size if config.pooling == "mean_max" else size
        self.ngrams = None
        if config.ngram_orders:
            self.ngrams = NGramEmbedding(
                config.ngram_buckets, config.ngram_size, tuple(config.ngram_orders), key=ngram_key
            )
            pooled_size += config.ngram_size
        self.hidden_layer = None
        if config.hidden_size is not None:
            self.hidden_layer = Linear(pooled_size, config.hidden_size, key=hidden_key)
        self.dropout = Dropout(config.head_dropout_p)
        # A fresh model's loss is ln(num_classes) to a few hundredths.
        self.head = Linear(config.hidden_size or pooled_size, config.num_classes, scale=0.1, key=head_key)
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
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        """A vector for each token, of which those after `length` mean nothing; no token is dropped here.

        Arguments as in `__call__`.
        """
        channel_key, stack_key = (None,) * 2 if key is None else jax.random.split(key)
        x, mask = self._into_blocks(tokens, length, key=channel_key)
        x = self.stack(x, mask=mask, key=stack_key)
        return x if self.final_norm is None else jax.vmap(self.final_norm)(x)

    def hidden_states(
        self, tokens: Int[Array, " seq"], length: Int[Array, ""] | int | None = None
    ) -> Float[Array, "layers seq {self.config.embed_size}"]:
        """What goes into the first block and what comes out of each, without dropout. Arguments as in `__call__`."""
        classifier = eqx.nn.inference_mode(self)
        x, mask = classifier._into_blocks(tokens, length)
        return classifier.stack.states(x, mask=mask)

    def attention_weights(
        self, tokens: Int[Array, " seq"], length: Int[Array, ""] | int | None = None
    ) -> Float[Array, "layers heads seq seq"]:
        """How much each token (third axis) attends to each one (fourth), in each layer and head, without dropout."""
        classifier = eqx.nn.inference_mode(self)
        x, mask = classifier._into_blocks(tokens, length)
        return classifier.stack.attention_weights(x, mask=mask)

    def _into_blocks(
        self, tokens: Int[Array, " seq"], length: Int[Array, ""] | int | None, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "seq embed"], Bool[Array, "1 seq"] | None]:
        """Embeddings and positions of the tokens, and which of them are real."""
        (seq,) = tokens.shape
        if not 1 <= seq <= self.max_length:
            raise ValueError(f"tokens must be 1 to {self.max_length} (max_length) ids, got {seq}")
        x = self.channel_dropout(self.embedding(tokens), key=key)
        if self.position_embedding is not None:
            x = x + self.position_embedding(jnp.arange(seq))
        return x, None if length is None else padding_mask(length, seq)

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " features"]:
        """The vector that the head projects to logits. Arguments as in `__call__`."""
        check_ids("tokens", tokens)
        token_key, encode_key, pooled_key, hidden_key = (None,) * 4 if key is None else jax.random.split(key, 4)
        tokens = self.token_dropout(tokens, key=token_key)
        x = self.encode(tokens, length, key=encode_key)
        length = tokens.shape[0] if length is None else length
        pools = {"mean": [masked_mean], "max": [masked_max], "mean_max": [masked_mean, masked_max]}
        pooled = [pool(x, length) for pool in pools[self.config.pooling]]
        if self.ngrams is not None:
            pooled.append(self.ngrams(tokens, length))
        out = self.dropout(jnp.concatenate(pooled), key=pooled_key)
        if self.hidden_layer is None:
            return out
        return self.dropout(jax.nn.relu(self.hidden_layer(out)), key=hidden_key)

    def project(self, hidden: Float[Array, " features"]) -> Float32[Array, "{self.config.num_classes}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.head.accumulate(hidden)

    def __call__(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "{self.config.num_classes}"]:
        """
        Args:
            tokens: 1 to `max_length` ids in 0 to vocab_size - 1, padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            key: for dropout, needed in training.

        Returns:
            One logit for each class.
        """
        return self.project(self.hidden(tokens, length, key=key))
