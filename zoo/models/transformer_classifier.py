"""A classifier of texts by a Transformer's encoder.

tokens -> embedding + positions -> num_layers x (attention, feed-forward) -> mean over the text -> hidden layer
-> logits
"""

import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_choice, check_probability, check_sizes
from zoo.nn.dropout import ChannelDropout, TokenDropout
from zoo.nn.embedding import LearnedPositions, TokenEmbedding
from zoo.nn.feed_forward import FeedForward
from zoo.nn.linear import Linear
from zoo.nn.masks import padding_mask
from zoo.nn.ngrams import NGramEmbedding
from zoo.nn.pooling import masked_max, masked_mean
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock, make_norm


class TransformerClassifier(eqx.Module):
    """Maps a text's tokens to a logit for each class.

    The defaults are the seed's: one post-norm block, learned positions, the mean over the text, and a hidden layer of
    20. With `ngram_orders`, vectors of n-grams join what is pooled: a wide part for what can be learned by heart,
    beside the deep one. Padding on the right changes nothing: no token attends to it, and it is in no mean and no
    maximum.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Keras, "Text classification with
    Transformer"; Cheng et al., "Wide & Deep Learning", 2016, arXiv:1606.07792, for the wide part.
    Differs from the seed: padding is masked, the feed-forward layers have a width of their own, there is no softmax
    at the end (the loss takes it, once).

    Example:
        >>> classifier = TransformerClassifier(100, 2, 16, 1, 2, 32, max_length=10, key=jax.random.key(0))
        >>> classifier = eqx.nn.inference_mode(classifier)
        >>> classifier(jnp.array([5, 3, 8, 0]), 3).shape
        (2,)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | None
    token_dropout: TokenDropout
    channel_dropout: ChannelDropout
    stack: Stack[TransformerBlock]
    norm_out: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    ngrams: NGramEmbedding | None
    hidden_layer: Linear | None
    dropout: eqx.nn.Dropout
    head: Linear

    vocab_size: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    embed_size: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    mlp_size: int = eqx.field(static=True)
    max_length: int = eqx.field(static=True)
    positions: Literal["learned", "none"] = eqx.field(static=True)
    pooling: Literal["mean", "max", "mean_max"] = eqx.field(static=True)
    pre_norm: bool = eqx.field(static=True)
    norm_epsilon: float = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    ngram_orders: tuple[int, ...] = eqx.field(static=True)
    ngram_buckets: int = eqx.field(static=True)
    ngram_size: int = eqx.field(static=True)
    hidden_size: int | None = eqx.field(static=True)
    dropout_p: float = eqx.field(static=True)
    head_dropout_p: float = eqx.field(static=True)
    channel_dropout_p: float = eqx.field(static=True)
    token_dropout_p: float = eqx.field(static=True)
    unknown_id: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embed_size: int = 32,
        num_layers: int = 1,
        num_heads: int = 2,
        mlp_size: int = 32,
        max_length: int = 200,
        *,
        positions: Literal["learned", "none"] = "learned",
        pooling: Literal["mean", "max", "mean_max"] = "mean",
        pre_norm: bool = False,
        norm_epsilon: float = 1e-6,
        activation: str = "relu",
        ngram_orders: Sequence[int] = (),
        ngram_buckets: int = 1_000_000,
        ngram_size: int = 10,
        hidden_size: int | None = 20,
        dropout_p: float = 0.1,
        head_dropout_p: float = 0.1,
        channel_dropout_p: float = 0.0,
        token_dropout_p: float = 0.0,
        unknown_id: int = 0,
        remat: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            vocab_size: number of different tokens.
            num_classes: number of logits.
            embed_size: length of a token's vector.
            num_layers: number of blocks.
            num_heads: heads of attention, a divisor of `embed_size`.
            mlp_size: width of the feed-forward layers.
            max_length: most tokens of a text.
            positions: "learned" or "none".
            pooling: "mean" or "max" over the text, or both.
            pre_norm: norms before the parts of a block, and one behind the last block; else behind the sums.
            norm_epsilon: added to variances.
            activation: "relu", "gelu", "gelu_tanh" or "silu".
            ngram_orders: the n of the n-grams whose vectors join the pooled ones, summed up; none by default.
            ngram_buckets: rows of the n-grams' table.
            ngram_size: length of their vectors.
            hidden_size: of the layer between the pooled vector and the logits; None for none.
            dropout_p: of what the parts of a block add, in [0, 1).
            head_dropout_p: of the pooled vector and of the hidden layer, in [0, 1).
            channel_dropout_p: of an entry of all token vectors together, in [0, 1).
            token_dropout_p: of whole tokens, which `unknown_id` replaces, in [0, 1).
            unknown_id: the token that stands for others.
            remat: whether training computes blocks again in the backward pass to save memory.
            key: for the weights.

        Raises:
            ValueError: an argument out of its range.
        """
        check_sizes(
            vocab_size=vocab_size, num_classes=num_classes, embed_size=embed_size, num_layers=num_layers,
            num_heads=num_heads, mlp_size=mlp_size, max_length=max_length, hidden_size=hidden_size,
            ngram_buckets=ngram_buckets, ngram_size=ngram_size,
        )  # fmt: skip
        check_choice("positions", positions, ("learned", "none"))
        check_choice("pooling", pooling, ("mean", "max", "mean_max"))
        check_probability("head_dropout_p", head_dropout_p)
        if not 0 <= unknown_id < vocab_size:
            raise ValueError(f"unknown_id must be in 0..{vocab_size - 1}, got {unknown_id}")
        self.vocab_size, self.num_classes, self.embed_size = vocab_size, num_classes, embed_size
        self.num_layers, self.num_heads, self.mlp_size, self.max_length = num_layers, num_heads, mlp_size, max_length
        self.positions, self.pooling, self.pre_norm, self.norm_epsilon = positions, pooling, pre_norm, norm_epsilon
        self.activation, self.hidden_size, self.remat = activation, hidden_size, remat
        self.ngram_orders, self.ngram_buckets, self.ngram_size = tuple(ngram_orders), ngram_buckets, ngram_size
        self.dropout_p, self.head_dropout_p = dropout_p, head_dropout_p
        self.channel_dropout_p, self.token_dropout_p, self.unknown_id = channel_dropout_p, token_dropout_p, unknown_id

        embedding_key, position_key, stack_key, ngram_key, hidden_key, head_key = jax.random.split(key, 6)
        std = 1 / math.sqrt(embed_size)
        self.embedding = TokenEmbedding(vocab_size, embed_size, std=std, key=embedding_key)
        self.position_embedding = None
        if positions == "learned":
            self.position_embedding = LearnedPositions(
                max_length, embed_size, init="normal", std=std, key=position_key
            )
        self.token_dropout = TokenDropout(token_dropout_p, unknown_id)
        self.channel_dropout = ChannelDropout(channel_dropout_p)

        def make_block(key: PRNGKeyArray) -> TransformerBlock:
            attention_key, mlp_key = jax.random.split(key)
            return TransformerBlock(
                MultiHeadAttention(embed_size, num_heads, key=attention_key),
                FeedForward(embed_size, mlp_size, activation=activation, key=mlp_key),
                embed_size=embed_size,
                pre_norm=pre_norm,
                norm_epsilon=norm_epsilon,
                dropout_p=dropout_p,
            )

        self.stack = Stack.make(make_block, num_layers, remat=remat, key=stack_key)
        self.norm_out = make_norm("layer", embed_size, epsilon=norm_epsilon) if pre_norm else None
        size = 2 * embed_size if pooling == "mean_max" else embed_size
        self.ngrams = None
        if self.ngram_orders:
            self.ngrams = NGramEmbedding(ngram_buckets, ngram_size, self.ngram_orders, key=ngram_key)
            size += ngram_size
        self.hidden_layer = None if hidden_size is None else Linear(size, hidden_size, key=hidden_key)
        self.dropout = eqx.nn.Dropout(head_dropout_p)
        # A fresh model's loss is ln(num_classes) to a few hundredths.
        self.head = Linear(hidden_size or size, num_classes, scale=0.1, key=head_key)

    def encode(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.embed_size}"]:
        """A vector for each token, of which those behind `length` mean nothing; no token is dropped here.

        Arguments as in `__call__`.
        """
        (seq,) = tokens.shape
        if not 1 <= seq <= self.max_length:
            raise ValueError(f"tokens must be 1 to {self.max_length} (max_length) ids, got {seq}")
        channel_key, stack_key = (None,) * 2 if key is None else jax.random.split(key)
        x = self.channel_dropout(self.embedding(tokens), key=channel_key)
        if self.position_embedding is not None:
            x = x + self.position_embedding(jnp.arange(seq))
        mask = None if length is None else padding_mask(length, seq)
        x = self.stack(x, mask=mask, key=stack_key)
        return x if self.norm_out is None else jax.vmap(self.norm_out)(x)

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " features"]:
        """The vector that the head projects to logits. Arguments as in `__call__`."""
        token_key, encode_key, pooled_key, hidden_key = (None,) * 4 if key is None else jax.random.split(key, 4)
        tokens = self.token_dropout(tokens, key=token_key)
        x = self.encode(tokens, length, key=encode_key)
        length = tokens.shape[0] if length is None else length
        pools = {"mean": [masked_mean], "max": [masked_max], "mean_max": [masked_mean, masked_max]}
        pooled = [pool(x, length) for pool in pools[self.pooling]]
        if self.ngrams is not None:
            pooled.append(self.ngrams(tokens, length))
        out = self.dropout(jnp.concatenate(pooled), key=pooled_key)
        if self.hidden_layer is None:
            return out
        return self.dropout(jax.nn.relu(self.hidden_layer(out)), key=hidden_key)

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
            tokens: 1 to `max_length` ids in 0 to vocab_size - 1, padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            key: for dropout, needed in training.

        Returns:
            One logit for each class.
        """
        return self.project(self.hidden(tokens, length, key=key))
