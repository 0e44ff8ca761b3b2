"""A classifier to begin with, on what was trained before: a language model, an encoder or another classifier."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

import zoo
from zoo import (
    AbstractTextEncoder,
    TextConvNet,
    TransformerClassifier,
    TransformerLM,
    TransformerLMClassifier,
)
from zoo.text import Classifier, Embedder

BASES = (AbstractTextEncoder, TransformerLM, TransformerClassifier, TextConvNet, TransformerLMClassifier)
HEAD = "head"  # of all of them
HEAD_DROPOUT_P = 0.1  # of a language model's classes, BERT's


def new_parts(base: Any, class_names: Sequence[str]) -> tuple[str, ...]:
    """Names of what `classifier_on` makes anew: the head, unless these are the classes that the base has."""
    same = isinstance(base, Classifier) and list(base.class_names) == list(class_names)
    return () if same else (HEAD,)


def classifier_on(base: Any, class_names: Sequence[str], *, key: PRNGKeyArray) -> eqx.Module:
    """The body of a `Writer`, an `Embedder` or a `Classifier` with a head for these classes.

    A language model and an encoder of sentences are pooled by the mean, or as the encoder was trained; what is a
    classifier already keeps its pooling. Inside a body there is as much dropout as the base has, which of a folder
    is none: where a text is seen once or twice, dropout costs time and accuracy.
    """
    model, num_classes = base.model, len(class_names)
    if isinstance(model, TransformerLM):
        return TransformerLMClassifier.on(model, num_classes, head_dropout_p=HEAD_DROPOUT_P, key=key)
    if isinstance(base, Embedder):
        changes: Any = {"head": "classifier", "num_classes": num_classes, "pooling": base.pooling}
        if hasattr(model.config, "pooler"):
            changes["pooler"] = "none"
        return zoo.rebuild(model, key=key, **changes)
    if not new_parts(base, class_names):
        return model
    names = {"class_names": None} if hasattr(model.config, "class_names") else {}
    resized = zoo.rebuild(model, num_classes=num_classes, key=key, **names)
    fresh = eqx.filter_jit(type(model))(resized.config, key=jax.random.fold_in(key, 1))
    return eqx.tree_at(lambda classifier: classifier.head, resized, fresh.head)
