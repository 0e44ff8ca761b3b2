"""What is wrong with an argument, said before any compute: one sentence that names it and what to do."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Float32, Int

from zoo.decoder import AbstractDecoder

Scalar = (
    Float[jax.Array, ""]
    | Float[np.ndarray, ""]
    | Int[jax.Array, ""]
    | Int[np.ndarray, ""]
    | np.floating
    | np.integer
    | float
    | int
)
# The smallest float32 (what is smaller is flushed to zero) and the largest, and the largest int32.
TINY, HUGE, INT32_MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max), 2**31 - 1


def check_decoder(decoder: Any) -> None:
    """Raises `TypeError` if it is not a decoder: most often it is the model that makes one."""
    if isinstance(decoder, AbstractDecoder):
        return
    name = _name_of(decoder)
    if callable(getattr(decoder, "decoder", None)):
        raise TypeError(f"{name} is a model, not a decoder: call .decoder() on it and pass what that returns")
    raise TypeError(f"{name} is not a decoder: pass what a model's .decoder() returns, or your own AbstractDecoder")


def check_key(key: Any) -> None:
    """Raises `TypeError` if it is neither None nor one key, of the new style or the old."""
    if key is None:
        return
    whole = isinstance(key, np.ndarray | jax.Array) and key.ndim == 0 and jnp.issubdtype(key.dtype, np.integer)
    if whole or isinstance(key, bool | int | np.integer):
        raise TypeError(f"key must be a key, not a seed: jax.random.key({key})")
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a key, such as jax.random.key(0), got {key!r}")
    new_style = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not new_style and key.dtype != np.uint32:
        raise TypeError(f"key must be a key, such as jax.random.key(0), got an array of {key.dtype}")
    if key.ndim != (0 if new_style else 1):
        raise TypeError(f"key must be one key, from which each row gets its own, got an array of shape {key.shape}")


def check_integer(name: str, value: Any, low: int) -> int:
    """`value` as an int; `ValueError` unless it is a whole number from `low` to what an int32 holds."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if value > INT32_MAX:
        raise ValueError(f"{name} must be at most {INT32_MAX}, got {value!r}")
    return int(value)


def check_number(
    name: str, value: Any, low: float = -HUGE, high: float = HUGE, *, whole: bool = False, clipped: bool = False
) -> None:
    """Raises `ValueError` unless it is a number of this range; a traced one has no value yet, only a type.

    Args:
        name: for the message.
        value: a Python, NumPy or JAX scalar.
        low: the smallest that is allowed.
        high: the largest.
        whole: whether it must be a whole number.
        clipped: whether whole numbers beyond `high` are allowed, because they mean the same as `high`.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        number = np.shape(value) == () and jnp.issubdtype(dtype, jnp.number)
        number = number and not jnp.issubdtype(dtype, jnp.complexfloating)
    if not number:
        raise ValueError(f"{name} must be a number, got {value!r}")
    if isinstance(value, Tracer):
        return
    try:
        as_float = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        as_float = math.inf if value > 0 else -math.inf
        if clipped and value > 0:
            return
    if not low <= as_float or (not as_float <= high and not (clipped and math.isfinite(as_float))):
        least = "finite" if low == -HUGE else f"finite and at least {low:g}"
        raise ValueError(f"{name} must be {least}{'' if high == HUGE else f', at most {high:g}'}, got {value!r}")
    if whole and as_float != int(as_float):
        raise ValueError(f"{name} must be a whole number, got {value!r}")


def as_float32(value: Scalar) -> Float32[jax.Array | np.ndarray, ""]:
    """A number as float32, whatever its type and size: `TopK(10**400)` is allowed."""
    if isinstance(value, jax.Array):
        return value.astype(np.float32)
    if isinstance(value, int):
        value = max(-HUGE, min(value, HUGE))
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


def check_rows(prompts: Sequence[Any] | np.ndarray | jax.Array, in_axes: Any) -> None:
    """Raises `ValueError` if the decoder has rows of its own and `prompts`, already padded, has none."""
    if in_axes is not None and np.ndim(prompts) == 1:
        raise ValueError("in_axes takes a batch of prompts, one for each row of the decoder")


def check_samples(num_samples: Any, prompts: Any, in_axes: Any) -> None:
    """Raises `ValueError` unless it is a number of samples, of one prompt that is already padded."""
    check_integer("num_samples", num_samples, 1)
    if np.ndim(prompts) != 1 or in_axes is not None:
        raise ValueError("num_samples takes one prompt, not a batch")


def _name_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
