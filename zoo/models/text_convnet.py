"""A classifier of texts by one-dimensional convolutions.

tokens -> embedding -> branches of (convolution, LayerNorm, relu) -> max over the text -> hidden layer -> logits
"""

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.nn.checks import check_probability, check_sizes
from zoo.nn.convolution import Convolution
from zoo.nn.dropout import ChannelDropout, TokenDropout
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.linear import Linear
from zoo.nn.ngrams import NGramEmbedding
from zoo.nn.pooling import masked_max, masked_mean

Branch = tuple[tuple[int, int], ...]
"""The convolutions of a branch, one behind the other, each as (kernel_size, stride)."""


class TextConvNet(eqx.Module):
    """Maps a text's tokens to a logit for each class.

    Each branch is a chain of convolutions over the token vectors, of which the largest response anywhere in the
    text is kept. The default is the seed's single branch of two strided convolutions;
    `branches=[[(2, 1)], [(3, 1)], [(4, 1)]]` with `use_norm=False` is Kim's network. Padding on the right changes
    nothing: it never wins a maximum, and windows that begin in it don't count.

    References: Kim, "Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882; Keras,
    "Text classification from scratch"; the n-grams of Joulin et al., 2017, arXiv:1607.01759.
    Differs from the seed: padding is masked, and windows don't move with it.

    Example:
        >>> convnet = TextConvNet(100, 2, key=jax.random.key(0))
        >>> convnet = eqx.nn.inference_mode(convnet)
        >>> convnet(jnp.array([5, 3, 8, 0]), 3).shape
        (2,)
    """

    embedding: TokenEmbedding
    token_dropout: TokenDropout
    channel_dropout: ChannelDropout
    embedding_dropout: eqx.nn.Dropout
    convolutions: tuple[tuple[Convolution, ...], ...]
    norms: tuple[tuple[eqx.nn.LayerNorm | None, ...], ...]
    ngrams: NGramEmbedding | None
    hidden_layer: Linear | None
    dropout: eqx.nn.Dropout
    head: Linear

    vocab_size: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    embed_size: int = eqx.field(static=True)
    num_filters: int = eqx.field(static=True)
    branches: tuple[Branch, ...] = eqx.field(static=True)
    use_norm: bool = eqx.field(static=True)
    pool_embedding: bool = eqx.field(static=True)
    ngram_orders: tuple[int, ...] = eqx.field(static=True)
    ngram_buckets: int = eqx.field(static=True)
    ngram_size: int = eqx.field(static=True)
    hidden_size: int | None = eqx.field(static=True)
    embedding_dropout_p: float = eqx.field(static=True)
    channel_dropout_p: float = eqx.field(static=True)
    token_dropout_p: float = eqx.field(static=True)
    unknown_id: int = eqx.field(static=True)
    dropout_p: float = eqx.field(static=True)

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        *,
        embed_size: int = 128,
        num_filters: int = 128,
        branches: Sequence[Sequence[Sequence[int]]] = (((7, 3), (7, 3)),),
        use_norm: bool = True,
        pool_embedding: bool = False,
        ngram_orders: Sequence[int] = (),
        ngram_buckets: int = 1_000_000,
        ngram_size: int = 10,
        hidden_size: int | None = 128,
        embedding_dropout_p: float = 0.5,
        channel_dropout_p: float = 0.0,
        token_dropout_p: float = 0.0,
        unknown_id: int = 0,
        dropout_p: float = 0.5,
        key: PRNGKeyArray,
    ):
        """
        Args:
            vocab_size: number of different tokens.
            num_classes: number of logits.
            embed_size: length of a token's vector.
            num_filters: length of what each convolution makes of a window.
            branches: for each branch its convolutions, as pairs of kernel size and stride.
            use_norm: whether a LayerNorm stands behind each convolution.
            pool_embedding: whether the mean and the maximum of the token vectors join the features.
            ngram_orders: the n of the n-grams whose vectors join the features, summed up; none by default.
            ngram_buckets: rows of the n-grams' table.
            ngram_size: length of their vectors.
            hidden_size: of the layer between features and logits; None for none.
            embedding_dropout_p: of single entries of token vectors, in [0, 1).
            channel_dropout_p: of an entry of all token vectors together, in [0, 1).
            token_dropout_p: of whole tokens, which `unknown_id` replaces, in [0, 1).
            unknown_id: the token that stands for others.
            dropout_p: of what goes into the last layer, in [0, 1).
            key: for the weights.

        Raises:
            ValueError: an argument out of its range, or no feature is left.
        """
        check_sizes(
            vocab_size=vocab_size, num_classes=num_classes, embed_size=embed_size, num_filters=num_filters,
            ngram_buckets=ngram_buckets, ngram_size=ngram_size, hidden_size=hidden_size,
        )  # fmt: skip
        check_probability("embedding_dropout_p", embedding_dropout_p)
        check_probability("dropout_p", dropout_p)
        if not 0 <= unknown_id < vocab_size:
            raise ValueError(f"unknown_id must be in 0..{vocab_size - 1}, got {unknown_id}")
        if any(len(branch) == 0 or any(len(pair) != 2 for pair in branch) for branch in branches):
            raise ValueError(f"branches must be lists of (kernel_size, stride), none of them empty, got {branches}")
        self.vocab_size, self.num_classes, self.embed_size = vocab_size, num_classes, embed_size
        self.num_filters, self.use_norm, self.pool_embedding = num_filters, use_norm, pool_embedding
        self.branches = tuple(tuple((size, stride) for size, stride in branch) for branch in branches)
        self.ngram_orders = tuple(ngram_orders)
        self.ngram_buckets, self.ngram_size, self.hidden_size = ngram_buckets, ngram_size, hidden_size
        self.embedding_dropout_p, self.channel_dropout_p = embedding_dropout_p, channel_dropout_p
        self.token_dropout_p, self.unknown_id, self.dropout_p = token_dropout_p, unknown_id, dropout_p

        embedding_key, ngram_key, hidden_key, head_key, *branch_keys = jax.random.split(key, 4 + len(branches))
        self.embedding = TokenEmbedding(vocab_size, embed_size, std=1 / math.sqrt(embed_size), key=embedding_key)
        self.token_dropout = TokenDropout(token_dropout_p, unknown_id)
        self.channel_dropout = ChannelDropout(channel_dropout_p)
        self.embedding_dropout = eqx.nn.Dropout(embedding_dropout_p)
        self.convolutions = tuple(
            self._make_branch(branch, key) for branch, key in zip(self.branches, branch_keys, strict=True)
        )
        self.norms = tuple(
            tuple(eqx.nn.LayerNorm(num_filters) if use_norm else None for _ in branch) for branch in self.branches
        )
        self.ngrams = None
        if self.ngram_orders:
            self.ngrams = NGramEmbedding(ngram_buckets, ngram_size, self.ngram_orders, key=ngram_key)
        size = num_filters * len(branches) + 2 * embed_size * pool_embedding + ngram_size * bool(ngram_orders)
        if size == 0:
            raise ValueError("branches, pool_embedding and ngram_orders must leave one feature at least")
        self.hidden_layer = None if hidden_size is None else Linear(size, hidden_size, key=hidden_key)
        self.dropout = eqx.nn.Dropout(dropout_p)
        # A fresh model's loss is ln(num_classes) to a few hundredths.
        self.head = Linear(hidden_size or size, num_classes, scale=0.1, key=head_key)

    def _make_branch(self, branch: Branch, key: PRNGKeyArray) -> tuple[Convolution, ...]:
        sizes = [self.embed_size] + [self.num_filters] * len(branch)
        keys = jax.random.split(key, len(branch))
        return tuple(
            Convolution(before, after, kernel_size=kernel_size, stride=stride, key=key)
            for (before, after), (kernel_size, stride), key in zip(
                itertools.pairwise(sizes), branch, keys, strict=True
            )
        )

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " features"]:
        """The vector that the head projects to logits. Arguments as in `__call__`."""
        if tokens.shape[0] == 0:
            raise ValueError("tokens is empty: a text has at least one token")
        length = tokens.shape[0] if length is None else length
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        tokens = self.token_dropout(tokens, key=keys[0])
        x = self.channel_dropout(self.embedding(tokens), key=keys[1])
        features = [masked_mean(x, length), masked_max(x, length)] if self.pool_embedding else []
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

    def project(self, hidden: Float[Array, " features"]) -> Float32[Array, "{self.num_classes}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.head.accumulate(hidden)

    def __call__(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "{self.num_classes}"]:
        """
        Args:
            tokens: at least one id in 0 to vocab_size - 1, padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            key: for dropout, needed in training.

        Returns:
            One logit for each class.
        """
        return self.project(self.hidden(tokens, length, key=key))
