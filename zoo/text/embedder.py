"""A model that gives texts vectors: those of texts that mean the same are near."""

import dataclasses
import functools
import json
import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from zoo.nn.checks import check_choice, check_sizes
from zoo.pretrained.huggingface import from_pretrained
from zoo.sampling._checks import check_integer
from zoo.text.batches import Progress, encoded, in_batches
from zoo.text.pipeline import Pipeline
from zoo.text.tokenizers import Tokenizer, check_texts, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Embedder(Pipeline):
    """Maps texts to vectors of length 1; the product of two is how similar the texts are, -1 to 1.

    Args:
        model: with a method `embed(tokens, length, *, pooling)`, such as a `TextEncoder`.
        tokenizer: of its ids.
        pooling: whether a text's vector is the "mean" of its tokens' or that of the "first".
        max_tokens: most tokens of a text, of which the first are kept; by default the model's `max_length`.
        batch_size: texts that are embedded together.

    Raises:
        ValueError: a setting is out of its range.

    Example:
        >>> from zoo import TextEncoder, TextEncoderConfig
        >>> from zoo.text import ByteTokenizer
        >>> config = TextEncoderConfig(vocab_size=256, embed_size=8, num_layers=1, num_heads=2, mlp_size=16)
        >>> embedder = Embedder(model=TextEncoder(config, key=jax.random.key(0)), tokenizer=ByteTokenizer())
        >>> vectors = embedder(["a cat", "a dog"])
        >>> vectors.shape, (vectors @ vectors.T).diagonal().round(5).tolist()
        ((2, 8), [1.0, 1.0])
    """

    model: Any
    tokenizer: Tokenizer
    pooling: Literal["mean", "first"] = "mean"
    max_tokens: int | None = None
    batch_size: int = 64

    def __post_init__(self):
        check_sizes(max_tokens=self.max_tokens)
        check_integer("batch_size", self.batch_size, 1)
        check_choice("pooling", self.pooling, ("mean", "first"))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **changes: Any) -> "Embedder":
        """Of a Hugging Face folder; `changes` as in `zoo.from_pretrained`, which has the errors, too.

        What sentence-transformers keeps in it says how it is pooled and cut, if it is there.

        Raises:
            ValueError: the model there gives no vectors, is pooled in another way than we can, or has other parts
                that change the vectors: layers after the pooling, lower case that its tokenizer does not make.
        """
        model = from_pretrained(folder, **changes)
        if not hasattr(model, "embed"):
            raise ValueError(f"{folder} holds a {type(model).__name__}, which gives no vectors of texts")
        parts = {"Pooling": "1_Pooling"} | {
            str(part.get("type")).rpartition(".")[2]: str(part.get("path"))
            for part in _read(Path(folder, "modules.json"), list)
        }
        if other := sorted(parts.keys() - {"Transformer", "Pooling", "Normalize"}):
            raise ValueError(f"{folder} has a part {other[0]}, which we have not: its vectors would be others")
        pooling = _read(Path(folder, parts["Pooling"], "config.json"))
        modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
        known: dict[str, Any] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
        if len(modes) > 1 or any(mode not in known for mode in modes):
            raise ValueError(f"{folder} pools by {', '.join(modes)}; known are {', '.join(known)}, one of them")
        settings, tokenizer = _read(Path(folder, "sentence_bert_config.json")), load_tokenizer(folder)
        if settings.get("do_lower_case") and not _lowers(tokenizer):
            raise ValueError(f"{folder} has do_lower_case, and a tokenizer that keeps capitals")
        most, way = settings.get("max_seq_length"), known[modes[0]] if modes else "mean"
        return cls(model=model, tokenizer=tokenizer, pooling=way, max_tokens=most)

    @functools.cached_property
    def _still(self) -> Any:
        return eqx.nn.inference_mode(self.model)

    def __call__(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "texts embed"]:
        """The vector of each text, in their order.

        Args:
            texts: any number.
            progress: called after each batch with the number of its texts, such as `tqdm(total=len(texts)).update`.

        Raises:
            TypeError: one text instead of many.
            ValueError: a text has no token, not even a special one, or one that the model does not know.
        """
        check_texts("texts", texts)
        limits = (self.max_tokens, getattr(self.model, "max_length", None))
        most = min((limit for limit in limits if limit is not None), default=None)
        rows = [encoded(self.tokenizer, text, most) for text in texts]
        found = np.zeros((len(rows), self.model.config.embed_size), np.float32)
        vocab_size = getattr(self.model, "vocab_size", None)
        for real, tokens, lengths in in_batches(
            rows, batch_size=self.batch_size, most=most, vocab_size=vocab_size, progress=progress
        ):
            found[real] = np.asarray(_vectors(self._still, tokens, lengths, self.pooling))[: len(real)]
        return found


@eqx.filter_jit
def _vectors(model: Any, tokens: Any, lengths: Any, pooling: str) -> Any:
    return jax.vmap(lambda row, length: model.embed(row, length, pooling=pooling))(
        jnp.asarray(tokens), jnp.asarray(lengths)
    )


def _lowers(tokenizer: Tokenizer) -> bool:
    """Whether letters have the ids of small ones."""
    letters = " ".join(string.ascii_uppercase)
    return np.array_equal(tokenizer.encode(letters), tokenizer.encode(letters.lower()))


def _read(file: Path, kind: type = dict) -> Any:
    """The JSON object in a file, or the list; an empty one if there is no such file."""
    if not file.is_file():
        return kind()
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return content if isinstance(content, kind) else kind()
