"""Many devices: where weights, optimiser state and rows of a batch lie. No model and no loss knows of it.

One mesh with one axis, `data`. Rows of a batch are always split over it. Weights and optimiser state are replicated,
or fully sharded (FSDP): each array split along one of its axes. XLA's partitioner does the rest, and a step computes
the numbers that one device would, but for the order of sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from training.losses import Batch

AXIS = "data"
_SMALL = 2**8  # an array of fewer elements is replicated: splitting it would only cost messages

Tree = TypeVar("Tree")
Rule = Callable[[Any], NamedSharding]
"""The layout of an array of some shape."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How a train state and its batches lie on the devices of all processes.

    Attributes:
        mesh: of one axis, `data`; its axis type is Auto, since code that is not written for it fails under
            Explicit, which `jax.make_mesh` takes by default. None for one device, JAX's own choice, where nothing
            is moved and nothing is constrained.
        fsdp: whether weights and optimiser state are split as well.

    Example:
        >>> sharding = Sharding.over(jax.devices()[:1])
        >>> sharding.num_devices, sharding.shard, sharding.rows({"x": np.arange(3)})["x"].shape
        (1, (0, 1), (3,))
    """

    mesh: Mesh | None
    fsdp: bool = False

    @classmethod
    def single(cls) -> "Sharding":
        """One device: every method gives back what it was given."""
        return cls(None)

    @classmethod
    def over(cls, devices: Any = None, *, fsdp: bool = False) -> "Sharding":
        """Over these devices; by default all of all processes, equally many of each."""
        chosen = list(jax.devices() if devices is None else devices)
        return cls(jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen), fsdp)

    @property
    def num_devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.devices.size

    @property
    def shard(self) -> tuple[int, int]:
        """(which, of how many): the part of each batch that this process reads, as `data.pipeline` takes it."""
        return (0, 1) if self.mesh is None else (jax.process_index(), jax.process_count())

    def replicated(self, leaf: Any = None) -> NamedSharding:
        """The layout of an array that every device has all of, so that every process can read it."""
        return self._split_along(None, 0)

    def for_params(self, leaf: Any) -> NamedSharding:
        """The layout of an array of the model or the optimiser: split along its longest axis that divides evenly."""
        return self._split_along(splits(leaf.shape, self.num_devices) if self.fsdp else None, leaf.ndim)

    def for_batch(self, leaf: Any) -> NamedSharding:
        """The layout of an array with a leading axis of rows, such as a carry; a single number is replicated."""
        return self._split_along(None if leaf.ndim == 0 or leaf.shape[0] % self.num_devices else 0, 1)

    def _split_along(self, axis: int | None, ndim: int) -> NamedSharding:
        assert self.mesh is not None, "one device has no layouts"
        spec = PartitionSpec() if axis is None else PartitionSpec(*(AXIS if a == axis else None for a in range(ndim)))
        return NamedSharding(self.mesh, spec)

    def put(self, tree: Tree, rule: Rule) -> Tree:
        """A tree on the devices; every process brings all of it, alike. What lies right already is not copied."""
        return tree if self.mesh is None else _put(tree, _layout(tree, rule))

    def constrain(self, tree: Tree, rule: Rule) -> Tree:
        """Within a compiled function: a tree, constrained to the layout that `put` gives it."""
        return tree if self.mesh is None else _constrain(tree, _layout(tree, rule))

    def put_state(self, state: Tree) -> Tree:
        """`put` for a `TrainState`: its carry has rows, all else follows the weights."""
        return state if self.mesh is None else _put(state, self._layout_of_state(state))

    def constrain_state(self, state: Tree) -> Tree:
        """`constrain` for a `TrainState`."""
        return state if self.mesh is None else _constrain(state, self._layout_of_state(state))

    def _layout_of_state(self, state: Any) -> Any:
        return dataclasses.replace(_layout(state, self.for_params), carry=_layout(state.carry, self.for_batch))

    def rows(self, batch: Batch) -> Any:
        """A batch on the devices; each process brings its own rows, those that `shard` names.

        Raises:
            ValueError: the rows can't be split evenly.
        """
        if self.mesh is None:
            return batch
        here = self.num_devices // jax.process_count()

        def put(path: Any, leaf: Any) -> Any:
            array = np.asarray(leaf)
            if array.ndim and len(array) % here:
                name = jax.tree_util.keystr(path, simple=True)
                raise ValueError(
                    f"rows of a batch must be a multiple of the {here} devices they go to; {name} has {len(array)}"
                )
            return jax.make_array_from_process_local_data(self._split_along(0 if array.ndim else None, 1), array)

        return jax.tree_util.tree_map_with_path(put, batch)

    def gather_rows(self, batch: Batch) -> Batch:
        """The rows of all processes' batches, one process after another, on the host."""
        if self.shard[1] == 1:
            return batch

        def gather(leaf: Any) -> Any:
            array = np.asarray(leaf)
            return multihost_utils.process_allgather(array, tiled=True) if array.ndim else array

        return jax.tree.map(gather, batch)

    def gather(self, tree: Tree) -> Tree:
        """A tree with each array whole on one device of this process: for whatever knows nothing of many devices.

        All processes have to ask for it.
        """
        if self.mesh is None:
            return tree
        arrays, rest = eqx.partition(tree, eqx.is_array)
        arrays = _mover(self.replicated())(arrays)
        return eqx.combine(jax.tree.map(lambda leaf: leaf.addressable_data(0), arrays), rest)


def splits(shape: tuple[int, ...], devices: int) -> int | None:
    """The axis along which a weight of this shape is split over devices; None if every device has all of it."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < _SMALL or not axes:
        return None
    return max(axes, key=lambda axis: (shape[axis], axis))


def _layout(tree: Any, rule: Rule) -> Any:
    return jax.tree.map(rule, eqx.filter(tree, eqx.is_array))


def _put(tree: Any, layout: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)

    def put(leaf: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return _mover(sharding)(leaf)
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return eqx.combine(jax.tree.map(put, arrays, layout), rest)


def _constrain(tree: Any, layout: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(jax.lax.with_sharding_constraint, arrays, layout), rest)


@functools.lru_cache(maxsize=8)
def _mover(sharding: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def on_host(leaf: Any) -> Any:
    """An array of any layout, whole, as NumPy's; a random key on one device; what is not an array as it is.

    All processes have to ask for an array that is split over them.
    """
    if not isinstance(leaf, jax.Array):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf.addressable_data(0)
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
