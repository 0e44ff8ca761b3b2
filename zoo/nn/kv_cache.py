"""Keys and values of the tokens so far, and how many slots of them are in use."""

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Bool, DTypeLike, Float, Int


class KVCache(eqx.Module):
    """Keys and values of the tokens seen so far, heads first; slot i belongs to position i.

    With this layout one query against the cache reads memory in order and runs near its bandwidth.
    """

    keys: Float[Array, "kv_heads capacity head"]
    values: Float[Array, "kv_heads capacity head"]

    @staticmethod
    def empty(num_kv_heads: int, capacity: int, head_size: int, dtype: DTypeLike) -> "KVCache":
        """An empty cache for so many tokens."""
        shape = (num_kv_heads, capacity, head_size)
        return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    @property
    def capacity(self) -> int:
        return self.keys.shape[-2]

    def write(
        self,
        keys: Float[Array, "kv_heads seq head"],
        values: Float[Array, "kv_heads seq head"],
        slots: Int[Array, " seq"],
    ) -> "KVCache":
        """Puts token i into `slots[i]`; what is meant for a slot outside the capacity is dropped, never moved."""
        return KVCache(
            self.keys.at[:, slots].set(keys.astype(self.keys.dtype), mode="drop", wrap_negative_indices=False),
            self.values.at[:, slots].set(values.astype(self.values.dtype), mode="drop", wrap_negative_indices=False),
        )


def slots_in_use(mask: Bool[Array, "query capacity"]) -> Int[Array, ""]:
    """How many slots, counted from the first, hold all that any query may attend to.

    Under `vmap` it is the most of any row, and the same number for all: so it may choose between programs
    (`lax.switch`), of which `vmap` would otherwise run every one for every row.

    Example:
        >>> import jax
        >>> masks = jnp.array([[[True, True, False, False]], [[True, False, False, False]]])
        >>> jax.vmap(slots_in_use, out_axes=None)(masks).item()
        2
    """
    return _most_p.bind(jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[-1] + 1), 0)))


def _most_of_rows(args: tuple[Array], axes: tuple[int]) -> tuple[Array, None]:
    return _most_p.bind(jnp.max(args[0], axis=axes[0])), None


_most_p = Primitive("most_of_rows")
_most_p.def_impl(lambda number: number)
_most_p.def_abstract_eval(lambda number: number)
mlir.register_lowering(_most_p, lambda _, number: [number])
batching.primitive_batchers[_most_p] = _most_of_rows
