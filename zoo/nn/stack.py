"""Equal blocks stored as one module with a leading layer axis, applied one after another by a scan."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray, PyTree

from zoo.nn.checks import check_sizes
from zoo.varying import vary_together

Block = TypeVar("Block", bound=eqx.Module)

UNROLLED = 4  # most layers whose scan is unrolled

# What a scan keeps for its backward pass: the results of products, and which entries dropout drops (`lt`), because
# random numbers are dear. All else is computed again from these, which is faster than to write and read it: a scan
# copies whatever it keeps into one array of all layers and out of it again. So are a long sequence's scores of
# attention, much larger than the queries and keys whose products they are.
KEPT = ("rows_times_matrix", "dot_general", "lt")


class Stack(eqx.Module, Generic[Block]):
    """`num_layers` equal blocks whose arrays carry a leading layer axis: compiling hardly grows with depth.

    `stack[i]` is block i as a plain module and `unstack()` all of them, for a decoder, pictures or surgery;
    `Stack.of(blocks)` goes back.

    Example:
        >>> stack = Stack.make(lambda key: eqx.nn.Linear(3, 3, key=key), 4, key=jax.random.key(0))
        >>> stack.blocks.weight.shape, stack[1].weight.shape
        ((4, 3, 3), (3, 3))
    """

    blocks: Block
    num_layers: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True, default=False)

    stacked_axes: ClassVar[int] = 1  # of every array: what is a matrix in a block has three axes here

    @staticmethod
    def make(
        make_block: Callable[[PRNGKeyArray], Block],
        num_layers: int,
        *,
        remat: bool = False,
        key: PRNGKeyArray,
    ) -> "Stack[Block]":
        """A stack of new blocks.

        Args:
            make_block: makes one block from a key.
            num_layers: how many.
            remat: whether training recomputes activations in the backward pass instead of keeping them
                (`jax.checkpoint`): less memory for about a third more time.
            key: split between the blocks.
        """
        check_sizes(num_layers=num_layers)
        return Stack(eqx.filter_vmap(make_block)(jax.random.split(key, num_layers)), num_layers, remat)

    @staticmethod
    def of(blocks: Sequence[Block]) -> "Stack[Block]":
        """Stacks blocks, at least one, that differ in nothing but the values of their arrays."""
        if len(blocks) == 0:
            raise ValueError("blocks is empty: a stack has at least one")
        arrays = [eqx.filter(block, eqx.is_array) for block in blocks]
        static = eqx.filter(blocks[0], eqx.is_array, inverse=True)
        return Stack(eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays), static), len(blocks))

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: int) -> Block:
        if not -self.num_layers <= index < self.num_layers:
            raise IndexError(f"index {index} is out of range for {self.num_layers} layers")
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: leaf[index], arrays), static)

    def unstack(self) -> tuple[Block, ...]:
        """All blocks as plain modules, the first one first."""
        return tuple(self[index] for index in range(self.num_layers))

    def scan(
        self, apply: Callable[[Block, Array, Any], tuple[Array, Any]], x: Array, per_layer: PyTree = None
    ) -> tuple[Array, PyTree]:
        """`apply(block, x, entry) -> (x, result)` for each block in turn.

        Args:
            apply: what to do with a block; `entry` is its slice of `per_layer`.
            x: what goes into the first block.
            per_layer: arrays with a leading layer axis.

        Returns:
            What comes out of the last block, and the results with a leading layer axis.
        """
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x, arrays, per_layer = vary_together(x, arrays, per_layer)  # the carry of a scan has one type

        def body(x, layer):
            arrays, entry = layer
            return apply(eqx.combine(arrays, static), x, entry)

        # A few blocks compile as fast unrolled, and then run without copies in and out of stacked arrays.
        unrolled = self.num_layers <= UNROLLED
        if self.remat:
            body = jax.checkpoint(body)
        elif not unrolled:
            body = jax.checkpoint(body, prevent_cse=False, policy=_is_kept)
        return jax.lax.scan(body, x, (arrays, per_layer), unroll=self.num_layers if unrolled else 1)

    def __call__(
        self, x: Float[Array, "seq embed"], *, key: PRNGKeyArray | None = None, **shared: Any
    ) -> Float[Array, "seq embed"]:
        """`block(x, key=..., **shared)` for each block in turn: `shared` goes to all, `key` is split between them."""
        keys = None if key is None else jax.random.split(key, self.num_layers)
        x, shared = vary_together(
            x, shared
        )  # `scan` does not see them: a mask or a memory may vary where `x` does not
        call: Callable = lambda block, x, key: (block(x, key=key, **shared), None)  # noqa: E731
        return self.scan(call, x, keys)[0]

    def states(self, x: Float[Array, "seq embed"], **shared: Any) -> Float[Array, "layers seq embed"]:
        """What goes into the first block and what comes out of each: one more than there are layers."""
        x, shared = vary_together(x, shared)

        def apply(block: Any, x: Array, _: None) -> tuple[Array, Array]:
            y = block(x, **shared)
            return y, y

        return jnp.concatenate([x[None], self.scan(apply, x)[1]])

    def attention_weights(self, x: Float[Array, "seq embed"], **shared: Any) -> Float[Array, "layers heads seq seq"]:
        """How much each token attends to each one in each block and head. The blocks have such a method."""
        x, shared = vary_together(x, shared)

        def apply(block: Any, x: Array, _: None) -> tuple[Array, Array]:
            return block(x, **shared), block.attention_weights(x, **shared)

        return self.scan(apply, x)[1]


def _is_kept(primitive: Any, *operands: Any, **params: Any) -> bool:
    if primitive.name != "dot_general":
        return primitive.name in KEPT
    left, right = operands
    (summed, _), (shared, _) = params["dimension_numbers"]
    repeated = math.prod(left.shape[i] for i in (*summed, *summed, *shared))
    result_size = left.size * right.size // max(repeated, 1)
    return result_size <= left.size + right.size
