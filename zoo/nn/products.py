"""The product of many vectors with one matrix, as one large matrix product also under `vmap`.

Models here take one example, and `vmap` turns `x @ w.T` into a product of a three-dimensional array. XLA's CPU
backend computes that, and above all its gradient for `w`, a good deal slower than the same product with the rows of
the whole batch stacked. So the product is a primitive of its own, whose rule for `vmap` stacks the rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float, Float32

from zoo.varying import vary_together


def rows_times_matrix(x: Float[Array, "*rows in"], matrix: Float[Array, "out in"]) -> Float32[Array, "*rows out"]:
    """`x @ matrix.T`, summed in float32 whatever the types.

    Example:
        >>> rows_times_matrix(jnp.ones((2, 3, 4)), jnp.ones((5, 4))).shape
        (2, 3, 5)
    """
    # JAX widens no operand of another's primitive: unless both vary alike, neither the result's type nor the
    # gradient's, which has to be summed over the devices that share the matrix, would be right in `jax.shard_map`.
    rows, matrix = vary_together(x.reshape(-1, x.shape[-1]), matrix)
    return _rows_p.bind(rows, matrix).reshape(*x.shape[:-1], matrix.shape[0])


def _product(rows: Array, matrix: Array) -> Array:
    return lax.dot_general(rows, matrix, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def _product_on_cpu(rows: Array, matrix: Array) -> Array:
    """XLA's CPU backend has fast kernels for 16-bit products of two rows and more, a very slow one for one row."""
    if rows.shape[0] > 1 or matrix.dtype.itemsize != 2:
        return _product(rows, matrix)
    return _product(jnp.concatenate([rows, jnp.zeros_like(rows)]), matrix)[:1]


def _shape(rows: Any, matrix: Any) -> Any:
    return rows.update(shape=(rows.shape[0], matrix.shape[0]), dtype=jnp.dtype(jnp.float32), weak_type=False)


def _gradient_for_rows(g: Array, rows: Any, matrix: Array) -> Array:
    g = g.astype(matrix.dtype)
    out = lax.dot_general(g, matrix, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return out.astype(rows.aval.dtype)


def _gradient_for_matrix(g: Array, rows: Array, matrix: Any) -> Array:
    g = g.astype(rows.dtype)
    out = lax.dot_general(g, rows, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return out.astype(matrix.aval.dtype)


def _under_vmap(args: tuple[Array, Array], axes: tuple[Any, Any]) -> tuple[Array, int]:
    (rows, matrix), (rows_axis, matrix_axis) = args, axes
    if rows.size == 0:
        raise ValueError("the batch is empty: it must have at least one row")
    if matrix_axis is not None:  # a matrix for each example: nothing to stack
        return jax.vmap(_product, in_axes=(rows_axis, matrix_axis))(rows, matrix), 0
    rows = jnp.moveaxis(rows, rows_axis, 0)
    stacked = _rows_p.bind(rows.reshape(-1, rows.shape[-1]), matrix)
    return stacked.reshape(*rows.shape[:2], -1), 0


_rows_p = Primitive("rows_times_matrix")
_rows_p.def_impl(jax.jit(_product))
_rows_p.def_abstract_eval(_shape)
mlir.register_lowering(_rows_p, mlir.lower_fun(_product, multiple_results=False))
mlir.register_lowering(_rows_p, mlir.lower_fun(_product_on_cpu, multiple_results=False), platform="cpu")
ad.defbilinear(_rows_p, _gradient_for_rows, _gradient_for_matrix)
batching.primitive_batchers[_rows_p] = _under_vmap
