"""A model that says of texts to which class they belong."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from zoo.nn.checks import check_choice, check_sizes
from zoo.pretrained.huggingface import from_pretrained
from zoo.sampling._checks import check_integer
from zoo.text.batches import Progress, Row, Truncation, encoded, in_batches
from zoo.text.pipeline import Pipeline
from zoo.text.tokenizers import Tokenizer, check_texts, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Pipeline):
    """Maps texts to the probability of each class.

    Args:
        model: maps tokens and their number to a logit for each class.
        tokenizer: of its ids.
        class_names: one for each class, in their order, no two alike.
        max_tokens: most tokens of a text, by default the model's `max_length`.
        truncation: what is kept of a longer one: its "head", its "tail" or half of "both".
        batch_size: texts that are classified together.

    Raises:
        TypeError: `class_names` are one text.
        ValueError: they are not as many as the model has classes or two are alike, or a setting is out of its range.

    Example:
        >>> from zoo import TransformerClassifier, TransformerClassifierConfig
        >>> from zoo.text import WordTokenizer
        >>> config = TransformerClassifierConfig(vocab_size=5, num_classes=2, embed_size=8, max_length=10)
        >>> classifier = Classifier(
        ...     model=TransformerClassifier(config, key=jax.random.key(0)),
        ...     tokenizer=WordTokenizer(["good", "bad"]),
        ...     class_names=("no", "yes"),
        ... )
        >>> [sorted(answer) for answer in classifier(["good, very good"])]
        [['no', 'yes']]
        >>> classifier.probabilities(["good, very good", "bad"]).shape
        (2, 2)
    """

    model: Any
    tokenizer: Tokenizer
    class_names: Sequence[str]
    max_tokens: int | None = None
    truncation: Truncation = "head"
    batch_size: int = 256

    def __post_init__(self):
        check_sizes(max_tokens=self.max_tokens)
        check_integer("batch_size", self.batch_size, 1)
        check_choice("truncation", self.truncation, get_args(Truncation))
        check_texts("class_names", self.class_names)
        classes = self.model.config.num_classes
        if len(self.class_names) != classes:
            raise ValueError(f"class_names must be {classes}, one for each class, got {list(self.class_names)}")
        if len(set(self.class_names)) < classes:
            raise ValueError(f"class_names must have each name once, got {list(self.class_names)}")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **changes: Any) -> "Classifier":
        """Of a Hugging Face folder; `changes` as in `zoo.from_pretrained`, which has the errors, too.

        Classes that have one name there are numbered.

        Raises:
            ValueError: the model there is no classifier.
        """
        model = from_pretrained(folder, **changes)
        classes = getattr(model.config, "num_classes", None)
        if classes is None:
            raise ValueError(f"{folder} holds no classifier but a {type(model).__name__} without classes")
        names = model.config.class_names or [f"class {i}" for i in range(classes)]
        if len(set(names)) < classes:
            names = [f"{i} {name}" for i, name in enumerate(names)]
        return cls(model=model, tokenizer=load_tokenizer(folder), class_names=tuple(names))

    @functools.cached_property
    def _still(self) -> Any:
        return eqx.nn.inference_mode(self.model)

    @property
    def _most(self) -> int | None:
        limits = (self.max_tokens, getattr(self.model, "max_length", None))
        return min((limit for limit in limits if limit is not None), default=None)

    def __call__(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[dict[str, float]]:
        """The probability of each class by its name, for each of many texts, in their order.

        Args:
            texts: any number.
            progress: called after each batch with the number of its texts, such as `tqdm(total=len(texts)).update`.

        Raises:
            TypeError: one text instead of many.
            ValueError: a text has no token to judge by, not even a special one, or one that the model does not know.
        """
        found = self.probabilities(texts, progress=progress)
        return [dict(zip(self.class_names, row, strict=True)) for row in found.tolist()]

    def probabilities(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "texts classes"]:
        """The same as an array."""
        check_texts("texts", texts)
        rows = [encoded(self.tokenizer, text, self._most, self.truncation) for text in texts]
        return self.probabilities_of_ids(rows, progress=progress)

    def probabilities_of_ids(
        self, rows: Sequence[Row], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "texts classes"]:
        """The same of texts that are ids already; `ValueError` for an empty one or one that is too long."""
        found = np.zeros((len(rows), len(self.class_names)), np.float32)
        vocab_size = getattr(self.model, "vocab_size", None)
        for real, tokens, lengths in in_batches(
            rows, batch_size=self.batch_size, most=self._most, vocab_size=vocab_size, progress=progress
        ):
            found[real] = np.asarray(_probabilities(self._still, tokens, lengths))[: len(real)]
        return found


@eqx.filter_jit
def _probabilities(model: Any, tokens: Any, lengths: Any) -> Any:
    return jax.nn.softmax(jax.vmap(model)(jnp.asarray(tokens), jnp.asarray(lengths)))
