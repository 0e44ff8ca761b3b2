"""What comes in as batches: one after another, of arrays."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from training.losses import Batch

_NUMBERS = (bool, int, float, complex, np.generic)


def check_batches(batches: Any) -> None:
    """Raises `TypeError` if that is one batch in the place of many."""
    if isinstance(batches, Mapping):
        raise TypeError("batches must be a sequence of batches, such as a list of them; got one batch, a mapping")


def check_batch(batch: Batch) -> None:
    """Raises `TypeError` unless all of a batch is arrays of NumPy's or JAX's, or numbers that stand alone."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch, is_leaf=_is_list_of_numbers):
        if not eqx.is_array_like(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct):
            name, kind = jax.tree_util.keystr(path, simple=True, separator="."), type(leaf)
            how = "call .numpy() on it" if kind.__module__.startswith("torch") else "numpy.asarray may make it one"
            kind = f"{kind.__module__.split('.')[0]}.{kind.__name__}".removeprefix("builtins.")
            raise TypeError(f"{name or 'it'} in a batch is a {kind}, not an array of NumPy's or JAX's: {how}")


def _is_list_of_numbers(node: Any) -> bool:
    """Which JAX takes for so many constants, not for a column."""
    return isinstance(node, list | tuple) and bool(node) and all(isinstance(item, _NUMBERS) for item in node)


def as_arrays(batch: Batch) -> Any:
    """The same batch with arrays for numbers, for each of which a step would be compiled anew."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, _NUMBERS) else leaf, batch)
