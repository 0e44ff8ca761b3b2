"""How much of a cache is in use, as one number for all rows of a batch."""

import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Bool, Int


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
