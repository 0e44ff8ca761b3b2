"""A text encoder of the BERT kind, with its heads, and its config.

tokens, types -> embeddings + positions -> norm -> num_layers x (attention, feed-forward) -> a vector for each token
each vector -> transform -> head tied to the embedding -> logits of the token that stands there   (masked_lm)
the first token's vector, or the mean -> pooler -> head -> a logit for each class                 (classifier)
all vectors -> mean over the text -> unit length -> a vector for the text                         (`embed`)
"""

from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.models.abstract_text_encoder import AbstractTextEncoder, AbstractTextEncoderConfig, Transform, pooled
from zoo.nn.blocks import make_blocks
from zoo.nn.checks import check_choice, check_ids, check_sizes
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import LearnedPositions, TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import padding_mask
from zoo.nn.norm import make_norm
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock

POOLERS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
WEIGHT_STD = 0.02  # of all initial weights but the heads'


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(AbstractTextEncoderConfig):
    """What a `TextEncoder` is made of. Plain JSON; the defaults are those of BERT.

    Raises:
        ValueError: a field out of its range, or two that do not fit.

    Example:
        >>> TextEncoderConfig.distilbert(head="classifier", num_classes=2).pooler
        'relu'
    """

    max_length: int = 512
    norm_epsilon: float = 1e-12
    """Added to variances (BERT 1e-12, RoBERTa 1e-5)."""
    dropout_p: float = 0.1
    num_types: int | None = None
    """Number of types of tokens (BERT has two, for the first and the second of two texts); None for no types."""
    pooler: Literal["tanh", "relu", "none"] = "none"
    """Activation of the layer between the text's vector and the classifier, or no such layer."""

    def __post_init__(self):
        self.check()
        check_sizes(num_types=self.num_types)
        check_choice("pooler", self.pooler, (*POOLERS, "none"))

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


class TextEncoder(AbstractTextEncoder):
    """Maps a text's tokens to a vector each that depends on all of them, and on to logits or to one for the text.

    Post-norm blocks on the sum of embeddings of tokens, positions and types. What there is to call and what comes out
    is documented with `AbstractTextEncoder`.

    References: Devlin et al., "BERT", 2018, arXiv:1810.04805; Liu et al., "RoBERTa", 2019, arXiv:1907.11692; Sanh et
    al., "DistilBERT", 2019, arXiv:1910.01108; for `embed`, Reimers and Gurevych, "Sentence-BERT", 2019,
    arXiv:1908.10084.
    Differs from RoBERTa's code: positions count from 0, not from 2. Differs from all: one probability of dropout.

    Example:
        >>> config = TextEncoderConfig.bert(vocab_size=100, embed_size=16, num_layers=2, num_heads=4, max_length=10)
        >>> encoder = eqx.nn.inference_mode(eqx.filter_jit(TextEncoder)(config, key=jax.random.key(0)))
        >>> tokens, length = jnp.array([2, 7, 42, 3, 0, 0]), 4
        >>> eqx.filter_jit(encoder)(tokens, length).shape
        (6, 100)
        >>> texts, lengths = jnp.array([[2, 7, 42, 3], [2, 9, 3, 0]]), jnp.array([4, 3])
        >>> vectors = jax.jit(jax.vmap(encoder.embed))(texts, lengths)
        >>> (vectors @ vectors.T).shape  # the similarities of texts
        (2, 2)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions
    type_embedding: TokenEmbedding | None
    embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    dropout: Dropout
    stack: Stack[TransformerBlock]
    pooler: AbstractLinear | None
    transform: Transform | None
    logit_bias: Float[Array, " vocab"] | None  # of all tokens
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
        self.dropout = Dropout(config.dropout_p)
        self.stack = make_blocks(
            TransformerBlock, config.num_layers, size, config.num_heads, config.mlp_size,
            activation=config.activation, pre_norm=False, norm_epsilon=config.norm_epsilon, weight_std=WEIGHT_STD,
            dropout_p=config.dropout_p, attention_dropout_p=config.dropout_p, remat=config.remat, key=keys[3],
        )  # fmt: skip
        self.pooler = None if config.pooler == "none" else Linear(size, size, key=keys[4])
        self.transform = self.logit_bias = self.head = None
        if config.head == "masked_lm":
            self.transform = Transform(size, config.activation, config.norm_epsilon, key=keys[5])
            self.logit_bias = jnp.zeros(config.vocab_size)
        if config.num_classes is not None:
            self.head = Linear(size, config.num_classes, scale=0.2, key=keys[5])
        self.config = config

    def encode(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, mask = self._into_blocks(tokens, length, types)
        return self.stack(self.dropout(x, key=embed_key), mask=mask, key=stack_key)

    def hidden_states(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
    ) -> Float[Array, "layers seq {self.config.embed_size}"]:
        """What goes into the first block and what comes out of each, without dropout. Arguments as in `__call__`."""
        x, mask = self._into_blocks(tokens, length, types)
        return eqx.nn.inference_mode(self.stack).states(x, mask=mask)

    def attention_weights(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
    ) -> Float[Array, "layers heads seq seq"]:
        """How much each token (third axis) attends to each one (fourth), in each layer and head, without dropout."""
        x, mask = self._into_blocks(tokens, length, types)
        return eqx.nn.inference_mode(self.stack).attention_weights(x, mask=mask)

    def _into_blocks(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None,
        types: Int[Array, " seq"] | None,
    ) -> tuple[Float[Array, "seq embed"], Bool[Array, "1 seq"]]:
        """The sum of embeddings, normalised, and which tokens are real."""
        check_ids("tokens", tokens, self.max_length)
        (seq,) = tokens.shape
        if types is not None and self.type_embedding is None:
            raise ValueError("types are given, but the model has no table of them (num_types is None)")
        mask = padding_mask(seq if length is None else length, seq)
        x = self.embedding(tokens) + self.position_embedding(jnp.arange(seq))
        if self.type_embedding is not None:
            x = x + self.type_embedding(jnp.zeros_like(tokens) if types is None else types)
        x = jnp.where(mask[0, :, None], x, 0)  # even an id outside the vocabulary does no harm as padding
        return jax.vmap(self.embedding_norm)(x), mask

    def pool(
        self, encoded: Float[Array, "seq {self.config.embed_size}"], length: Int[Array, ""] | int | None = None
    ) -> Float[Array, " {self.config.embed_size}"]:
        """The first token's vector or the mean, as the config says, through the pooler if there is one."""
        x = pooled(encoded, length, self.config.pooling)
        return x if self.pooler is None else POOLERS[self.config.pooler](self.pooler(x))
