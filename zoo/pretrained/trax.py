"""Reads Trax checkpoints: gzipped pickles whose weights are one flat list in the order of the model's layers.

A family of models is a table that names our leaf for every array of that list (`TRANSFORMER_LM`); another
family is another table. Trax's matrices are (in, out), ours (out, in).
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Shaped

from zoo.models.transformer_lm import TransformerLM, TransformerLMConfig
from zoo.pretrained import PretrainedError
from zoo.pretrained.inert_pickle import read_inert_pickle
from zoo.rebuild import with_arrays

Array = Shaped[np.ndarray, "..."]

# The number of heads leaves no trace in a Trax file; of published ones it is known (by their sha256).
NUM_HEADS = {"79e5d9868f4fe48e0f8112d776ff36333d805cbb3331b207b247eb9b9c3beb0d": 2}  # transformerlm_copy.pkl.gz


class Leaf(NamedTuple):
    """One of our leaves, and how to make it from Trax's array."""

    name: str
    convert: Callable[[Array], Array] = lambda array: array


class Part(NamedTuple):
    """Some layers in order. With `blocks` they are one block of several, stacked under that name."""

    leaves: Sequence[Leaf]
    blocks: str | None = None


def _norm(name: str) -> tuple[Leaf, ...]:
    return Leaf(f"{name}.weight"), Leaf(f"{name}.bias")


def _dense(name: str) -> tuple[Leaf, ...]:
    return Leaf(f"{name}.weight", np.transpose), Leaf(f"{name}.bias")


TRANSFORMER_LM = (
    # Older versions of Trax gave the table of positions a leading axis of one.
    Part(
        [Leaf("embedding.weight"), Leaf("position_embedding.weight", lambda table: table.reshape(table.shape[-2:]))]
    ),
    Part(
        [
            *_norm("attention_norm"),
            *_dense("attention.query"),
            *_dense("attention.key"),
            *_dense("attention.value"),
            *_dense("attention.output"),
            *_norm("mlp_norm"),
            *_dense("mlp.up"),
            *_dense("mlp.down"),
        ],
        blocks="stack.blocks",
    ),
    Part([*_norm("final_norm"), *_dense("head")]),
)


def load_transformer_lm(path: str | Path, *, num_heads: int | None = None) -> TransformerLM:
    """The `TransformerLM` in a Trax checkpoint. All its sizes but one are read from the weights.

    Trax's decoder puts a start symbol 0 of its own before every prompt; to get its answers, do so too.

    Args:
        path: a `.pkl.gz` file.
        num_heads: heads of attention, a divisor of the embedding size; needed unless the file is a published
            one whose number is known. Trax's own default is 8.

    Raises:
        PretrainedError: the file is not a checkpoint of that family, or it is damaged or hostile.
        ValueError: `num_heads` does not fit, or it is needed and not given.
        OSError: the file can't be read.
    """
    tree = read_trax(path)
    try:
        weights = name_weights(_flat_weights(tree), TRANSFORMER_LM)
        num_layers, mlp_size, embed_size = weights["stack.blocks.mlp.up.weight"].shape
        vocab_size, _ = weights["embedding.weight"].shape
        max_length, _ = weights["position_embedding.weight"].shape
    except (ValueError, IndexError) as error:
        raise PretrainedError(f"{path} holds no Trax TransformerLM: {error}") from error
    if num_heads is None:
        num_heads = NUM_HEADS.get(hashlib.sha256(Path(path).read_bytes()).hexdigest())
    if num_heads is None or num_heads < 1 or embed_size % num_heads:
        raise ValueError(
            f"num_heads must be a divisor of the embedding size {embed_size} of {path}, which does not say "
            f"how many heads it was trained with (Trax's default is 8); got {num_heads}"
        )
    weights = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in weights.items()}
    try:
        config = TransformerLMConfig(
            vocab_size=vocab_size, embed_size=embed_size, num_layers=num_layers, num_heads=num_heads,
            mlp_size=mlp_size, max_length=max_length,
        )  # fmt: skip
        return with_arrays(eqx.filter_eval_shape(TransformerLM, config, key=jax.random.key(0)), weights)
    except ValueError as error:
        raise PretrainedError(f"{path} holds no Trax TransformerLM: {error}") from error


def read_trax(path: str | Path, *, max_bytes: int = 2**32) -> Any:
    """What a Trax checkpoint holds: plain containers, numpy arrays, and placeholders for Trax's own objects.

    Nothing in the file is executed, imported or looked up (`zoo.pretrained.inert_pickle`).

    Args:
        path: a `.pkl.gz` file.
        max_bytes: most bytes to unpack it to. A hundred times its own size is a limit, too: weights hardly
            shrink, so a file that grows more is a bomb.

    Raises:
        PretrainedError: it is not such a file, has anything else in it, is damaged, or unpacks to too much.
        OSError: the file can't be read.
    """
    limit = min(max_bytes, 100 * os.path.getsize(path) + 2**20)
    try:
        with gzip.open(path) as unpacked:
            content = unpacked.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PretrainedError(f"{path} is not a complete gzip file: {error}") from error
    if len(content) > limit:
        raise PretrainedError(f"{path} unpacks to more than {limit} bytes")
    try:
        return read_inert_pickle(content, tolerate=lambda name: name.startswith("trax."))
    except ValueError as error:
        raise PretrainedError(f"{path} is refused, nothing in it was executed: {error}") from error


def _flat_weights(tree: Any) -> list[Array]:
    weights = tree.get("flat_weights") if isinstance(tree, dict) else None
    if not isinstance(weights, list | tuple) or not all(map(_is_numbers, weights)):
        raise ValueError("there is no list of arrays under `flat_weights`")
    return list(weights)


def _is_numbers(array: Any) -> bool:
    return isinstance(array, np.ndarray) and not array.dtype.hasobject


def name_weights(flat: Sequence[Array], table: Sequence[Part]) -> dict[str, Array]:
    """Maps the names of our leaves to their arrays; those of a block are stacked along a leading layer axis.

    Args:
        flat: Trax's list.
        table: what its entries are. Parts with blocks all have the same number of them.

    Raises:
        ValueError: the list has not the length that the table asks for, or blocks differ in shape.
    """
    once = sum(len(part.leaves) for part in table if part.blocks is None)
    per_layer = sum(len(part.leaves) for part in table if part.blocks is not None)
    num_layers, rest = divmod(len(flat) - once, per_layer)
    if rest or num_layers < 1:
        raise ValueError(f"{len(flat)} arrays instead of {once} and {per_layer} for each layer")
    arrays = iter(flat)
    named: dict[str, Array] = {}
    for part in table:
        if part.blocks is None:
            named |= {leaf.name: leaf.convert(next(arrays)) for leaf in part.leaves}
        else:
            layers = [[leaf.convert(next(arrays)) for leaf in part.leaves] for _ in range(num_layers)]
            for leaf, *of_layers in zip(part.leaves, *layers, strict=True):
                named[f"{part.blocks}.{leaf.name}"] = np.stack(of_layers)
    return named
