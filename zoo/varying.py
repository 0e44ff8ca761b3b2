"""Which arrays differ from device to device inside `jax.shard_map`, where its type checks are on (the default).

There the type of an array names the axes of the mesh over which it may vary. JAX's own operations widen an operand
that varies less than another one. A primitive of one's own and the carry of a loop are not widened by anyone: zeros
made inside meet values of the data, and the types do not match.
"""

from typing import Any

import jax
import numpy as np
from jax import lax
from jaxtyping import PyTree


def vary_together(*trees: PyTree) -> tuple[PyTree, ...]:
    """The same values, each array with the type that varies over every axis over which one of them does.

    Leaves that are not arrays stay as they are. Outside `jax.shard_map` nothing happens.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax.sharding import PartitionSpec as P
        >>> def total(rows):  # of a device's rows; `lax.scan` alone would refuse the zero
        ...     zero, rows = vary_together(jnp.zeros(()), rows)
        ...     return jax.lax.psum(jax.lax.scan(lambda so_far, x: (so_far + x, None), zero, rows)[0], "data")
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> jax.shard_map(total, mesh=mesh, in_specs=P("data"), out_specs=P())(jnp.arange(4.0))
        Array(6., dtype=float32)
    """
    axes = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves(trees)))
    if not axes:
        return trees

    def widen(leaf: Any) -> Any:
        missing = axes - _varying(leaf)
        if not missing or not _is_array(leaf):
            return leaf
        return lax.pcast(leaf, tuple(sorted(missing, key=str)), to="varying")

    return jax.tree.map(widen, trees)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _varying(leaf: Any) -> frozenset[Any]:
    """The axes over which a leaf varies: the one line that depends on JAX's version (0.10.0 to 0.12.0 tried)."""
    return jax.typeof(leaf).manual_axis_type.varying if _is_array(leaf) else frozenset()
