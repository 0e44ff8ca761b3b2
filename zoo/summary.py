"""A model as a table of its parts."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree


def summary(model: PyTree) -> str:
    """A table of a model's parts, a line each: class, shapes of its arrays, how many numbers and bytes they hold.

    Parts of a `Stack` carry the number of layers as their first axis.

    Args:
        model: any pytree of arrays, or of shapes (`eqx.filter_eval_shape`).

    Example:
        >>> from zoo import TransformerLM, TransformerLMConfig
        >>> config = TransformerLMConfig(
        ...     vocab_size=11, embed_size=12, num_layers=2, num_heads=2, mlp_size=24, max_length=16
        ... )
        >>> lm = TransformerLM(config, key=jax.random.key(0))
        >>> print(" ".join(summary(lm).splitlines()[-1].split()))
        total TransformerLM 3,059 12.2 kB
    """
    parts: dict[tuple[Any, ...], list[tuple[str, Any]]] = {}
    arrays = eqx.filter(model, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        parts.setdefault(path[:-1], []).append((_entry(path[-1:]), leaf))

    rows = [("part", "class", "arrays", "parameters", "bytes")]
    for path, leaves in parts.items():
        shapes = ", ".join(f"{name} {' x '.join(map(str, leaf.shape)) or 'scalar'}" for name, leaf in leaves)
        rows.append((_entry(path) or "(itself)", type(_at(model, path)).__name__, shapes, *_sizes(leaves)))
    everything = [leaf for leaves in parts.values() for leaf in leaves]
    total = ("total", type(model).__name__, "", *_sizes(everything))
    widths = [max(len(row[column]) for row in [*rows, total]) for column in range(len(total))]
    ruler = tuple("-" * width for width in widths)
    return "\n".join(_line(row, widths) for row in [rows[0], ruler, *rows[1:], ruler, total])


def count_parameters(model: PyTree) -> int:
    """How many numbers the arrays of a model hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def _sizes(leaves: Sequence[tuple[str, Any]]) -> tuple[str, str]:
    size = sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves)
    return f"{sum(leaf.size for _, leaf in leaves):,}", format_bytes(size)


def format_bytes(size: float | int) -> str:
    """A number of bytes for people, in powers of 1,000.

    Example:
        >>> format_bytes(372_352)
        '372.4 kB'
    """
    for unit in (" B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if unit.strip() != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    left, right = row[:3], row[3:]
    cells = [cell.ljust(width) for cell, width in zip(left, widths, strict=False)]
    cells += [cell.rjust(width) for cell, width in zip(right, widths[3:], strict=True)]
    return "  ".join(cells).rstrip()


def _entry(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _at(tree: PyTree, path: tuple[Any, ...]) -> Any:
    """The node of a tree that a path leads to."""
    for step in path:
        if isinstance(step, jax.tree_util.GetAttrKey):
            tree = getattr(tree, step.name)
        else:
            tree = tree[step.idx if isinstance(step, jax.tree_util.SequenceKey) else step.key]
    return tree
