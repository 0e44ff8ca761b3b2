"""What a traced function costs: floating-point operations, and bytes that are alive at once.

Both follow XLA: its count of operations leaves out exponentials and their like, and its fusions compute a chain of
elementwise operations where the result is used, without keeping what is between.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FREE = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "convert_element_type", "copy", "stop_gradient",
    "sharding_constraint", "slice", "rev", "optimization_barrier",
}  # fmt: skip
_COSTLESS = _FREE | {
    "transpose", "concatenate", "gather", "dynamic_slice", "dynamic_update_slice", "pad", "select_n", "random_bits",
    "random_wrap", "random_unwrap", "random_split", "random_fold_in", "threefry2x32", "split", "sort", "copy_p",
}  # fmt: skip
_TRANSCENDENTAL = {
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "erf_inv", "erfc", "rsqrt", "sqrt", "sin",
    "cos", "pow", "cbrt", "tan", "atan2",
}  # fmt: skip
_PRODUCTS = {"dot_general", "rows_times_matrix", "conv_general_dilated"}
_LOOPS = {"scan", "while", "cond"}
_IN_PLACE = {"scatter-add", "scatter", "dynamic_update_slice"}
# Operations whose arguments XLA wants in memory, and those whose results it always puts there.
_WANT_BUFFERS = _PRODUCTS | _IN_PLACE | _LOOPS | {"gather", "sort", "cumsum", "concatenate"}
_SEPARATE = _WANT_BUFFERS | {"random_bits", "threefry2x32", "transpose"}


def bytes_of(aval: Any) -> int:
    """Of an array of this shape and type; a random key has eight."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(aval.shape)
    return math.prod(aval.shape) * aval.dtype.itemsize


def flops(jaxpr: Any) -> float:
    """Floating-point operations of a traced function, loops with all their rounds."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        out: Any = equation.outvars[0].aval if equation.outvars else None
        inner = list(_inner(equation))
        if inner:
            times = equation.params.get("length", 1) if name == "scan" else 1
            total += times * sum(flops(body) for body in inner)
        elif name == "rows_times_matrix":  # of zoo.nn.products
            total += 2.0 * out.size * equation.invars[0].aval.shape[-1]
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2.0 * out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            numbers = equation.params["dimension_numbers"]
            total += 2.0 * out.size * kernel.size / kernel.shape[numbers.rhs_spec[0]]
        elif name.startswith("reduce_") or name in ("argmax", "cumsum", "scatter-add"):
            total += equation.invars[-1 if name == "scatter-add" else 0].aval.size
        elif out is not None and name not in _COSTLESS | _TRANSCENDENTAL:
            total += out.size
    return total


def _inner(equation: Any) -> Iterator[Any]:
    """The functions that an operation calls."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(one, "jaxpr") and hasattr(one.jaxpr, "eqns"):
                yield one.jaxpr


@dataclasses.dataclass
class _Operation:
    name: str
    reads: list[Any]
    writes: list[Any]
    inside: int  # bytes that are alive only while it runs


def peak_bytes(jaxpr: Any) -> int:
    """The most bytes alive at once, without what is given or comes out: a step writes its state where it lay."""
    operations, given, outputs = _in_order(jaxpr)
    uses: dict[Any, list[str]] = {}
    for operation in operations:
        for var in operation.reads:
            uses.setdefault(var, []).append(operation.name)

    def is_fused(operation: _Operation) -> bool:
        """Whether XLA computes the result where it is used, and keeps it nowhere."""
        (var,), name = operation.writes[:1], operation.name
        if name in _SEPARATE or name.startswith("reduce_") or len(operation.writes) > 1:
            return False
        used = uses.get(var, [])
        if any(use in _WANT_BUFFERS for use in used):
            return False
        if name in _FREE or len(used) <= 1:
            return True
        # A cheap one is computed twice sooner than kept.
        return len(used) == 2 and name not in _TRANSCENDENTAL | {"div"}

    # From which buffers a value is computed.
    buffers: dict[Any, frozenset[Any]] = {value: frozenset() for value in given.values()}
    size: dict[Any, int] = {}
    born: dict[Any, int] = {}
    last: dict[Any, int] = {}
    in_place: list[tuple[int, frozenset[Any], Any]] = []
    for time, operation in enumerate(operations):
        read = frozenset().union(*(buffers.get(var, frozenset()) for var in operation.reads))
        if operation.writes and is_fused(operation):
            buffers[operation.writes[0]] = read
            continue
        for buffer in read:
            last[buffer] = time
        if operation.name in _IN_PLACE and operation.reads:
            in_place.append((time, buffers.get(operation.reads[0], frozenset()), operation.writes[0]))
        for var in operation.writes:
            buffers[var], born[var], last[var] = frozenset([var]), time, time
            size[var] = 0 if var in outputs else bytes_of(var.aval)
    for time, operand, written in in_place:
        if len(operand) == 1 and last[next(iter(operand))] == time and _same_size(operand, written, size):
            last[next(iter(operand))] = time - 1
    change = np.zeros(len(operations) + 2, np.int64)
    for var, start in born.items():
        change[start] += size[var]
        change[last[var] + 1] -= size[var]
    alive = np.cumsum(change)[: len(operations)]
    inside = np.array([operation.inside for operation in operations], np.int64)
    return int(np.max(alive + inside, initial=0))


class _Value:
    """What a variable stands for, anew in each call of a function that was traced once; perhaps a stack of parts."""

    def __init__(self, aval: Any, parts: "list[_Value] | None" = None):
        self.aval = aval
        self.parts = parts


def _same_size(operand: frozenset[Any], written: Any, size: dict[Any, int]) -> bool:
    return size[next(iter(operand))] == size[written]


def _in_order(jaxpr: Any) -> tuple[list[_Operation], dict[Any, _Value], set[_Value]]:
    """All operations, those of called functions among them; what is given, and what comes out."""
    operations: list[_Operation] = []

    def walk(body: Any, values: dict[Any, _Value]) -> list[_Value | None]:
        for var in body.constvars:
            values.setdefault(var, _Value(var.aval))
        for equation in body.eqns:
            reads = [None if _is_literal(var) else values[var] for var in equation.invars]
            inner, name = list(_inner(equation)), equation.primitive.name
            if name == "scan" and _is_unrolled(equation):
                written = unrolled(equation, reads)
            elif inner and name not in _LOOPS:
                function = inner[0]
                given = {var: value or _Value(var.aval) for var, value in zip(function.invars, reads, strict=False)}
                written = walk(function, given)
            else:
                written = [_Value(var.aval) for var in equation.outvars]
                inside = max((peak_bytes(body) for body in inner), default=0)
                operations.append(_Operation(name, [value for value in reads if value], written, inside))
            for var, value in zip(equation.outvars, written, strict=True):
                values[var] = value or _Value(var.aval)
        return [None if _is_literal(var) else values[var] for var in body.outvars]

    def unrolled(equation: Any, reads: list[_Value | None]) -> list[_Value]:
        """A loop that XLA has no loop for: its body, time after time; what is stacked stays in parts."""
        parameters, body = equation.params, equation.params["jaxpr"].jaxpr
        num_consts, num_carry = _consts_and_carry(parameters)
        consts, rest = reads[:num_consts], reads[num_consts:]
        carry, stacked = rest[:num_carry], rest[num_carry:]
        length = parameters["length"]
        rows: list[list[_Value | None]] = [[]] * length
        for i in reversed(range(length)) if parameters["reverse"] else range(length):
            parts: list[_Value | None] = []
            for var, whole in zip(body.invars[len(consts) + len(carry) :], stacked, strict=True):
                if whole is None or whole.parts is not None:
                    parts.append(None if whole is None or whole.parts is None else whole.parts[i])
                    continue
                parts.append(_Value(var.aval))
                operations.append(_Operation("slice", [whole], [parts[-1]], 0))
            given = zip(body.invars, (*consts, *carry, *parts), strict=True)
            written = walk(body, {var: value or _Value(var.aval) for var, value in given})
            carry, rows[i] = written[: len(carry)], written[len(carry) :]
        out = [value or _Value(var.aval) for var, value in zip(equation.outvars, carry, strict=False)]
        for var, column in zip(equation.outvars[len(carry) :], zip(*rows, strict=True), strict=True):
            parts_of = [value or _Value(var.aval) for value in column]
            out.append(_Value(var.aval, parts_of))
            operations.append(_Operation("reshape", parts_of, [out[-1]], 0))
        return out

    given = {var: _Value(var.aval) for var in (*jaxpr.invars, *jaxpr.constvars)}
    outputs = walk(jaxpr, dict(given))
    return operations, given, {value for value in outputs if value is not None}


def _consts_and_carry(parameters: dict[str, Any]) -> tuple[int, int]:
    """How many arguments of a `lax.scan` are the same each time, and how many are its carry."""
    if "ft_in" in parameters:  # since JAX 0.12
        consts, carry, _ = parameters["ft_in"].unpack()
        return len(consts), len(carry)
    return parameters["num_consts"], parameters["num_carry"]


def _is_unrolled(equation: Any) -> bool:
    unroll = equation.params["unroll"]
    return equation.params["length"] <= (equation.params["length"] if unroll is True else int(unroll))


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")
