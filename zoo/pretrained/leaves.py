"""Puts arrays into a model by the names of its leaves."""

from collections.abc import Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

Model = TypeVar("Model", bound=eqx.Module)


def with_leaves(like: Model, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Model:
    """The model with all its arrays replaced, each by the one under its name, in the model's own types.

    Args:
        like: a model, or its shapes alone (`equinox.filter_eval_shape`).
        arrays: the name of a leaf is its path, such as "stack.blocks.mlp.up.weight".

    Raises:
        ValueError: an array is missing, left over, of another shape, or holds no floating-point numbers.

    Example:
        >>> like = eqx.filter_eval_shape(lambda: eqx.nn.Linear(2, 1, key=jax.random.key(0)))
        >>> with_leaves(like, {"weight": np.ones((1, 2)), "bias": np.array([3.0])})(jnp.array([1.0, 2.0])).tolist()
        [6.0]
    """
    shapes, rest = eqx.partition(like, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    if wrong := sorted(named.keys() ^ arrays.keys()):
        raise ValueError(f"the model and the arrays differ in {', '.join(wrong[:5])} ({len(wrong)} in all)")
    for name, leaf in named.items():
        if arrays[name].shape != leaf.shape:
            raise ValueError(f"{name} has shape {arrays[name].shape} instead of {leaf.shape}")
        if not np.issubdtype(arrays[name].dtype, np.floating):
            raise ValueError(f"{name} holds {arrays[name].dtype} instead of floating-point numbers")
    filled = [jnp.array(arrays[name], leaf.dtype) for name, leaf in named.items()]
    return eqx.combine(jax.tree.unflatten(structure, filled), rest)
