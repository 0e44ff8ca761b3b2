"""Many devices: where weights, optimiser state and rows of a batch lie. No model and no loss knows of it.

One mesh with one axis, `data`. Rows of a batch are always split over it. Weights and optimiser state are there on
every device, or fully sharded: each array split along one of its axes. XLA's partitioner does the rest, and a step
computes the numbers that one device would, but for the order of sums.
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
_SMALL = 2**8  # an array of fewer elements lies whole on every device: splitting it would only cost messages

Tree = TypeVar("Tree")
Rule = Callable[[Any], NamedSharding]
"""Where an array of some shape lies."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How a train state and its batches lie on the devices of all processes.

    Attributes:
        mesh: of one axis, `data`; its axis type is Auto, since code that is not written for it fails under
            Explicit, which `jax.make_mesh` takes by default.
        fully: whether weights and optimiser state are split as well.

    Example:
        >>> sharding = Sharding.over(jax.devices()[:1])
        >>> sharding.num_devices, sharding.shard, sharding.rows({"x": np.arange(3)})["x"].shape
        (1, (0, 1), (3,))
    """

    mesh: Mesh
    fully: bool = False

    @classmethod
    def over(cls, devices: Any = None, *, fully: bool = False) -> "Sharding":
        """Over these devices; by default all of all processes, equally many of each."""
        chosen = list(jax.devices() if devices is None else devices)
        return cls(jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen), fully)

    @property
    def num_devices(self) -> int:
        return self.mesh.devices.size

    @property
    def shard(self) -> tuple[int, int]:
        """(which, of how many): the part of each batch that this process reads, as `data.pipeline` takes it."""
        return jax.process_index(), jax.process_count()

    def everywhere(self, leaf: Any = None) -> NamedSharding:
        """Where an array lies whole on every device, so that every process can read it."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of_weight(self, leaf: Any) -> NamedSharding:
        """Where an array of the model or the optimiser lies: split along its longest axis that divides evenly."""
        longest = splits(leaf.shape, self.num_devices) if self.fully else None
        if longest is None:
            return self.everywhere()
        return NamedSharding(self.mesh, PartitionSpec(*(AXIS if a == longest else None for a in range(leaf.ndim))))

    def of_rows(self, leaf: Any) -> NamedSharding:
        """Where an array with a leading axis of rows lies, such as a carry; a single number lies everywhere."""
        if leaf.ndim == 0 or leaf.shape[0] % self.num_devices:
            return self.everywhere()
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def place(self, tree: Tree, rule: Rule) -> Tree:
        """A tree on the devices; every process brings all of it, alike. What lies right already is not copied."""
        return _place(tree, _layout(tree, rule))

    def keep(self, tree: Tree, rule: Rule) -> Tree:
        """Within a compiled function: a tree, held where `place` puts it."""
        return _keep(tree, _layout(tree, rule))

    def place_state(self, state: Tree) -> Tree:
        """`place` for a `TrainState`: its carry has rows, all else follows the weights."""
        return _place(state, self._layout_of_state(state))

    def keep_state(self, state: Tree) -> Tree:
        """`keep` for a `TrainState`."""
        return _keep(state, self._layout_of_state(state))

    def _layout_of_state(self, state: Any) -> Any:
        return dataclasses.replace(_layout(state, self.of_weight), carry=_layout(state.carry, self.of_rows))

    def rows(self, batch: Batch) -> Any:
        """A batch on the devices; each process brings its own rows, those that `shard` names.

        Raises:
            ValueError: the rows can't be split evenly.
        """
        here = self.num_devices // jax.process_count()

        def put(path: Any, leaf: Any) -> Any:
            array = np.asarray(leaf)
            if array.ndim and len(array) % here:
                name = jax.tree_util.keystr(path, simple=True)
                raise ValueError(
                    f"rows of a batch must be a multiple of the {here} devices they go to; {name} has {len(array)}"
                )
            spec = PartitionSpec(AXIS) if array.ndim else PartitionSpec()
            return jax.make_array_from_process_local_data(NamedSharding(self.mesh, spec), array)

        return jax.tree_util.tree_map_with_path(put, batch)

    def whole(self, tree: Tree) -> Tree:
        """A tree with each array whole on one device of this process: for whatever knows nothing of many devices.

        All processes have to ask for it.
        """
        arrays, rest = eqx.partition(tree, eqx.is_array)
        arrays = _mover(self.everywhere())(arrays)
        return eqx.combine(jax.tree.map(lambda leaf: leaf.addressable_data(0), arrays), rest)


def splits(shape: tuple[int, ...], devices: int) -> int | None:
    """The axis along which a weight of this shape is split over devices; None if every device has all of it."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < _SMALL or not axes:
        return None
    return max(axes, key=lambda axis: (shape[axis], axis))


def _layout(tree: Any, rule: Rule) -> Any:
    return jax.tree.map(rule, eqx.filter(tree, eqx.is_array))


def _place(tree: Any, layout: Any) -> Any:
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


def _keep(tree: Any, layout: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(jax.lax.with_sharding_constraint, arrays, layout), rest)


@functools.lru_cache(maxsize=8)
def _mover(sharding: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def on_host(leaf: Any) -> Any:
    """An array of any layout, whole, as NumPy's; a random key on one device; what is no array as it is.

    All processes have to ask for an array that is split over them.
    """
    if not isinstance(leaf, jax.Array):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf.addressable_data(0)
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def whole_batch(batch: Batch, sharding: Sharding | None) -> Batch:
    """The rows of all processes' batches, one process after another, on the host."""
    if sharding is None or jax.process_count() == 1:
        return batch

    def gather(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return multihost_utils.process_allgather(array, tiled=True) if array.ndim else array

    return jax.tree.map(gather, batch)
