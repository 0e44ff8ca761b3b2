"""A model that gives texts vectors: those of texts that mean the same are near."""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from zoo.pretrained.huggingface import from_pretrained
from zoo.text.batches import Progress, check_texts, encoded, in_batches
from zoo.text.pipeline import Pipeline
from zoo.text.tokenizers import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Embedder(Pipeline):
    """Maps texts to vectors of length 1; the product of two is how similar the texts are, -1 to 1.

    Args:
        model: with a method `embed(tokens, length, *, pooling)`, such as a `TextEncoder`.
        tokenizer: of its ids.
        pooling: whether a text's vector is the "mean" of its tokens' or that of the "first".
        max_tokens: most tokens of a text, of which the first are kept; by default the model's `max_length`.
        batch_size: texts that are embedded together.

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

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **changes: Any) -> "Embedder":
        """Of a Hugging Face folder; `changes` as in `zoo.from_pretrained`, which has the errors, too.

        What sentence-transformers keeps in it says how it is pooled and cut, if it is there.

        Raises:
            ValueError: the model there gives no vectors, or is pooled in another way than we can.
        """
        model = from_pretrained(folder, **changes)
        if not hasattr(model, "embed"):
            raise ValueError(f"{folder} holds a {type(model).__name__}, which gives no vectors of texts")
        pooling = _read(Path(folder, "1_Pooling", "config.json"))
        modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
        known: dict[str, Any] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
        if len(modes) > 1 or any(mode not in known for mode in modes):
            raise ValueError(f"{folder} pools by {', '.join(modes)}; known are {', '.join(known)}, one of them")
        most = _read(Path(folder, "sentence_bert_config.json")).get("max_seq_length")
        way = known[modes[0]] if modes else "mean"
        return cls(model=model, tokenizer=load_tokenizer(folder), pooling=way, max_tokens=most)

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
            ValueError: a text has no token.
        """
        check_texts("texts", texts)
        limits = (self.max_tokens, getattr(self.model, "max_length", None))
        most = min((limit for limit in limits if limit is not None), default=None)
        rows = [encoded(self.tokenizer, text, most) for text in texts]
        found = np.zeros((len(rows), self.model.config.embed_size), np.float32)
        for real, tokens, lengths in in_batches(rows, batch_size=self.batch_size, most=most, progress=progress):
            found[real] = np.asarray(_vectors(self._still, tokens, lengths, self.pooling))[: len(real)]
        return found


@eqx.filter_jit
def _vectors(model: Any, tokens: Any, lengths: Any, pooling: str) -> Any:
    return jax.vmap(lambda row, length: model.embed(row, length, pooling=pooling))(
        jnp.asarray(tokens), jnp.asarray(lengths)
    )


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return content if isinstance(content, dict) else {}
