"""A classifier of texts on the body of a `TransformerLM`, and its config.

tokens -> the blocks of the language model -> mean over the text, or its last token -> head -> a logit for each class
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.models.transformer_lm import TransformerLM
from zoo.models.transformer_lm_config import TransformerLMConfig
from zoo.nn.checks import check_choice, check_probability, check_sizes
from zoo.nn.dropout import Dropout
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.pooling import masked_mean
from zoo.rebuild import rebuild


@dataclass(frozen=True, kw_only=True)
class TransformerLMClassifierConfig(TransformerLMConfig):
    """What a `TransformerLMClassifier` is made of: all that a language model is, of which heads have no meaning.

    Raises:
        ValueError: a field out of its range, or two that do not fit.
    """

    num_classes: int
    """Number of classes."""
    pooling: Literal["mean", "last"] = "mean"
    """The vector of a text: the mean of its tokens', or that of the last, which has seen all of them."""
    head_dropout_p: float = 0.0
    """Dropout probability for the text's vector, in [0, 1)."""

    def __post_init__(self):
        super().__post_init__()
        check_sizes(num_classes=self.num_classes)
        check_choice("pooling", self.pooling, ("mean", "last"))
        check_probability(head_dropout_p=self.head_dropout_p)

    def of_body(self) -> TransformerLMConfig:
        """The language model's config. Tied, since a head of its own would never be used."""
        fields = (field.name for field in dataclasses.fields(TransformerLMConfig))
        values: dict[str, Any] = {name: getattr(self, name) for name in fields}
        values["tie_embeddings"] = True
        return TransformerLMConfig(**values)


class TransformerLMClassifier(eqx.Module):
    """Maps a text's tokens to a logit for each class, by the hidden vectors of a language model.

    Padding on the right changes nothing: no real token attends to it, and it is in no mean.

    References: Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018 (the last token);
    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, arXiv:1801.06146 (which
    puts the mean and the maximum beside it).

    Example: on the body of a language model, whose arrays it shares.
        >>> from zoo import TransformerLMConfig
        >>> config = TransformerLMConfig(
        ...     vocab_size=32, embed_size=16, num_layers=2, num_heads=4, mlp_size=64, max_length=10
        ... )
        >>> lm = TransformerLM(config, key=jax.random.key(0))
        >>> classifier = TransformerLMClassifier.on(lm, num_classes=3, key=jax.random.key(1))
        >>> classifier(jax.numpy.array([3, 1, 4, 0, 0]), 3).shape
        (3,)
    """

    body: TransformerLM
    dropout: Dropout
    head: AbstractLinear
    config: TransformerLMClassifierConfig = eqx.field(static=True)

    def __init__(self, config: TransformerLMClassifierConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        body_key, head_key = jax.random.split(key)
        self.body = TransformerLM(config.of_body(), key=body_key)
        self.dropout = Dropout(config.head_dropout_p)
        # Logits of a fresh model have a variance of at most 0.04, so its loss is ln(classes) to a few hundredths.
        self.head = Linear(config.embed_size, config.num_classes, scale=0.2, key=head_key)
        self.config = config

    @classmethod
    def on(
        cls,
        lm: TransformerLM,
        num_classes: int,
        *,
        pooling: Literal["mean", "last"] = "mean",
        head_dropout_p: float = 0.0,
        key: PRNGKeyArray,
    ) -> "TransformerLMClassifier":
        """A classifier on the body of this language model, with a new head.

        Args:
            lm: what it is made of; its own head is left out.
            num_classes, pooling, head_dropout_p: as in the config.
            key: for the head.
        """
        values = {field.name: getattr(lm.config, field.name) for field in dataclasses.fields(lm.config)}
        config = TransformerLMClassifierConfig(
            **values, num_classes=num_classes, pooling=pooling, head_dropout_p=head_dropout_p
        )
        fresh = cls(config, key=key)
        body = rebuild(lm, tie_embeddings=True, key=key)
        return eqx.tree_at(lambda classifier: classifier.body, fresh, body)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def hidden(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " {self.config.embed_size}"]:
        """The vector of the text, of which `project` makes logits. Arguments as in `__call__`."""
        body_key, dropout_key = (None, None) if key is None else jax.random.split(key)
        x = self.body.hidden(tokens, key=body_key)
        length = tokens.shape[0] if length is None else length
        if self.config.pooling == "mean":
            pooled = masked_mean(x, length)
        else:  # of an empty text zeros, as its mean: entry -1 would be the last of the padding
            pooled = jnp.where(length > 0, x[length - 1], 0.0).astype(x.dtype)
        return self.dropout(pooled, key=dropout_key)

    def project(
        self, hidden: Float[Array, " {self.config.embed_size}"]
    ) -> Float32[Array, " {self.config.num_classes}"]:
        """Logits of a text's vector, in float32 whatever the type of the weights."""
        return self.head.accumulate(hidden)

    def __call__(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, " {self.config.num_classes}"]:
        """
        Args:
            tokens: 1 to `max_length` ids in 0 to vocab_size - 1, padded on the right with any; others give NaN.
            length: how many of them are real, at least 1; all by default.
            key: for dropout, needed in training where there is any.

        Returns:
            Logits.
        """
        return self.project(self.hidden(tokens, length, key=key))
