"""A classifier of texts by one-dimensional convolutions, and its config.

tokens -> embedding -> branches of (convolution, LayerNorm, relu) -> max over the text -> hidden layer -> logits
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

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
)
from zoo.nn.convolution import Convolution, Padding
from zoo.nn.dropout import ChannelDropout, Dropout, TokenDropout
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.ngrams import NGramEmbedding
from zoo.nn.pooling import masked_max, masked_mean

Branch = Sequence[Sequence[int]]
"""The convolutions of a branch, one after another, each as (kernel_size, stride)."""


@dataclass(frozen=True, kw_only=True)
class TextConvNetConfig:
    """What a `TextConvNet` is made of. Plain JSON; by default a single branch of two strided convolutions.

    Raises:
        ValueError: a field out of its range, or no feature is left.
    """

    vocab_size: int
    """Number of different tokens."""
    num_classes: int
    """Number of logits."""
    embed_size: int = 128
    """Length of a token's vector."""
    num_filters: int = 128
    """Output channels of each convolution."""
    branches: Sequence[Branch] = (((7, 3), (7, 3)),)
    """For each branch its convolutions, as pairs of kernel size and stride."""
    padding: Padding = "fixed"
    """Where the convolutions' windows begin: "fixed" for all texts, or "SAME" by a text's length as in JAX."""
    use_norm: bool = True
    """Whether a LayerNorm follows each convolution."""
    norm_epsilon: float = 1e-5
    """Added to variances (Flax 1e-6)."""
    pool_embedding: bool = False
    """Whether the mean and the maximum of the token vectors join the features."""
    ngram_orders: Sequence[int] = ()
    """The n of the n-grams whose vectors join the features, summed up; none by default."""
    ngram_buckets: int = 1_000_000
    """Rows of the n-grams' table."""
    ngram_size: int = 10
    """Length of the n-grams' vectors."""
    hidden_size: int | None = 128
    """Width of the layer between features and logits; None for no such layer."""
    embedding_dropout_p: float = 0.5
    """Dropout probability for single entries of token vectors, in [0, 1)."""
    channel_dropout_p: float = 0.0
    """Dropout probability for an entry of all token vectors together, in [0, 1)."""
    token_dropout_p: float = 0.0
    """Probability of replacing a token by `unknown_id`, in [0, 1)."""
    unknown_id: int = 0
    """The token that stands for others."""
    dropout_p: float = 0.5
    """Dropout probability for what goes into the last layer, in [0, 1)."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, num_classes=self.num_classes, embed_size=self.embed_size,
            num_filters=self.num_filters, ngram_buckets=self.ngram_buckets, ngram_size=self.ngram_size,
            hidden_size=self.hidden_size,
        )  # fmt: skip
        check_sizes_in("ngram_orders", self.ngram_orders)
        _check_branches(self.branches)
        check_choice("padding", self.padding, get_args(Padding))
        check_positive(norm_epsilon=self.norm_epsilon)
        check_flags(use_norm=self.use_norm, pool_embedding=self.pool_embedding)
        check_probability(
            embedding_dropout_p=self.embedding_dropout_p, channel_dropout_p=self.channel_dropout_p,
            token_dropout_p=self.token_dropout_p, dropout_p=self.dropout_p,
        )  # fmt: skip
        check_index("unknown_id", self.unknown_id, self.vocab_size)
        if not (self.branches or self.pool_embedding or self.ngram_orders):
            raise ValueError("branches, pool_embedding and ngram_orders must leave one feature at least")


class TextConvNet(eqx.Module):
    """Maps a text's tokens to a logit for each class.

    Each branch is a chain of convolutions over the token vectors, of which the largest response anywhere in the
    text is kept. `branches=[[(2, 1)], [(3, 1)], [(4, 1)]]` with `use_norm=False` is Kim's network. Padding on the
    right changes nothing: it never wins a maximum, and windows that begin in it don't count.

    References: Kim, "Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882; Keras,
    "Text classification from scratch"; the n-grams of Joulin et al., 2017, arXiv:1607.01759.
    Differs from Keras's: padding is masked, and windows don't move with it.

    Example:
        >>> config = TextConvNetConfig(vocab_size=100, num_classes=2)
        >>> convnet = eqx.filter_jit(TextConvNet)(config, key=jax.random.key(0))
        >>> eqx.filter_jit(eqx.nn.inference_mode(convnet))(jnp.array([5, 3, 8, 0]), 3).shape
        (2,)
    """

    embedding: TokenEmbedding
    token_dropout: TokenDropout
    channel_dropout: ChannelDropout
    embedding_dropout: Dropout
    convolutions: tuple[tuple[Convolution, ...], ...]
    norms: tuple[tuple[eqx.nn.LayerNorm | None, ...], ...]
    ngrams: NGramEmbedding | None
    hidden_layer: AbstractLinear | None
    dropout: Dropout
    head: AbstractLinear

    config: TextConvNetConfig = eqx.field(static=True)

    def __init__(self, config: TextConvNetConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        branches, size = config.branches, config.embed_size
        embedding_key, ngram_key, hidden_key, head_key, *branch_keys = jax.random.split(key, 4 + len(branches))
        self.embedding = TokenEmbedding(config.vocab_size, size, std=1 / math.sqrt(size), key=embedding_key)
        self.token_dropout = TokenDropout(config.token_dropout_p, config.unknown_id)
        self.channel_dropout = ChannelDropout(config.channel_dropout_p)
        self.embedding_dropout = Dropout(config.embedding_dropout_p)
        self.convolutions = tuple(
            _make_branch(config, branch, key) for branch, key in zip(branches, branch_keys, strict=True)
        )

        def norm() -> eqx.nn.LayerNorm | None:
            return eqx.nn.LayerNorm(config.num_filters, eps=config.norm_epsilon) if config.use_norm else None

        self.norms = tuple(tuple(norm() for _ in branch) for branch in branches)
        features = config.num_filters * len(branches) + 2 * size * config.pool_embedding
        self.ngrams = None
        if config.ngram_orders:
            self.ngrams = NGramEmbedding(
                config.ngram_buckets, config.ngram_size, tuple(config.ngram_orders), key=ngram_key
            )
            features += config.ngram_size
        self.hidden_layer = None
        if config.hidden_size is not None:
            self.hidden_layer = Linear(features, config.hidden_size, key=hidden_key)
        self.dropout = Dropout(config.dropout_p)
        # A fresh model's loss is ln(num_classes) to a few hundredths.
        self.head = Linear(config.hidden_size or features, config.num_classes, scale=0.1, key=head_key)
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " features"]:
        """The vector that the head projects to logits. Arguments as in `__call__`."""
        check_ids("tokens", tokens)
        length = tokens.shape[0] if length is None else length
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        tokens = self.token_dropout(tokens, key=keys[0])
        x = self.channel_dropout(self.embedding(tokens), key=keys[1])
        features = [masked_mean(x, length), masked_max(x, length)] if self.config.pool_embedding else []
        x = self.embedding_dropout(x, key=keys[2])
        for convolutions, norms in zip(self.convolutions, self.norms, strict=True):
            y, windows = x, jnp.asarray(length)
            for convolution, norm in zip(convolutions, norms, strict=True):
                y, windows = convolution(y, windows)
                y = jax.nn.relu(y if norm is None else jax.vmap(norm)(y))
            features.append(masked_max(y, windows))
        if self.ngrams is not None:
            features.append(self.ngrams(tokens, length))
        out = jnp.concatenate(features)
        if self.hidden_layer is not None:
            out = jax.nn.relu(self.hidden_layer(out))
        return self.dropout(out, key=keys[3])

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
            tokens: at least one id in 0 to vocab_size - 1, padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            key: for dropout, needed in training.

        Returns:
            One logit for each class.
        """
        return self.project(self.hidden(tokens, length, key=key))


def _check_branches(branches: Any) -> None:
    for branch in branches if isinstance(branches, tuple) else (None,):
        pairs = branch if isinstance(branch, tuple) and branch else (None,)
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"branches must be lists of (kernel_size, stride), none of them empty, got {branches!r}")
        for pair in pairs:
            check_sizes_in("branches", pair)


def _make_branch(config: TextConvNetConfig, branch: Branch, key: PRNGKeyArray) -> tuple[Convolution, ...]:
    sizes = [config.embed_size] + [config.num_filters] * len(branch)
    keys = jax.random.split(key, len(branch))
    return tuple(
        Convolution(*before_and_after, kernel_size=kernel_size, stride=stride, padding=config.padding, key=key)
        for before_and_after, (kernel_size, stride), key in zip(itertools.pairwise(sizes), branch, keys, strict=True)
    )
