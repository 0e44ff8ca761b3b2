"""Errors for wrong constructor arguments: which one, what was given, what is allowed."""

import dataclasses
import math
import numbers
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np


def check_sizes(**sizes: int | None) -> None:
    """Raises `ValueError` for the first size that is not a whole number of at least 1 (`None` is skipped).

    Example:
        >>> check_sizes(embed_size=0)
        Traceback (most recent call last):
        ...
        ValueError: embed_size must be a whole number of at least 1, got 0
    """
    for name, size in sizes.items():
        if size is not None and not _is_size(size):
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")


def check_sizes_in(name: str, sizes: Any) -> None:
    """Raises `ValueError` unless `sizes` is a tuple of whole numbers of at least 1."""
    if not isinstance(sizes, tuple) or not all(_is_size(size) for size in sizes):
        raise ValueError(f"{name} must be whole numbers of at least 1, got {sizes!r}")


def check_index(name: str, index: int, size: int) -> None:
    """Raises `ValueError` unless `index` is a whole number in 0 to size - 1."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < size:
        raise ValueError(f"{name} must be in 0..{size - 1}, got {index!r}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises `ValueError` unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_probability(**probabilities: float) -> None:
    """Raises `ValueError` for the first number that is not in [0, 1)."""
    for name, value in probabilities.items():
        if not _is_number(value) or not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}")


def check_flags(**flags: bool) -> None:
    """Raises `ValueError` for the first that is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False, got {flag!r}")


def check_positive(**numbers: float | None) -> None:
    """Raises `ValueError` for the first number that is not finite and above 0 (`None` is skipped)."""
    for name, number in numbers.items():
        if number is not None and (not _is_number(number) or not 0.0 < number < math.inf):
            raise ValueError(f"{name} must be finite and above 0, got {number!r}")


def check_bands(bands: Any) -> None:
    """Raises `ValueError` unless these are bands of `RotaryPositions`, or None."""
    if bands is None:
        return
    if not isinstance(bands, tuple) or len(bands) != 3 or not all(_is_number(number) for number in bands):
        raise ValueError(f"rotary_bands must be (low, high, length), got {bands!r}")
    low, high, length = bands
    if not 0.0 < low < high or not 0.0 < length < math.inf:
        raise ValueError(
            f"rotary_bands must be (low, high, length) with 0 < low < high and 0 < length, got {bands!r}"
        )


def check_ids(name: str, ids: Any, max_length: int | None = None) -> None:
    """Raises unless these are the ids of one example: an array of integers with one axis, at least one of them.

    Raises:
        TypeError: it is no array of integers.
        ValueError: it has another number of axes, or nothing in it, or more than `max_length`.
    """
    if not hasattr(ids, "shape") or not hasattr(ids, "dtype"):
        raise TypeError(f"{name} must be an array of integers, got a {type(ids).__name__}: jnp.asarray makes it one")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {ids.dtype}")
    if len(ids.shape) != 1:
        how = ": a model takes one example at a time, and jax.vmap(model) a batch" if len(ids.shape) > 1 else ""
        raise ValueError(f"{name} must have one axis, got shape {tuple(ids.shape)}{how}")
    if ids.shape[0] == 0:
        raise ValueError(f"{name} is empty: there must be at least one id")
    if max_length is not None and ids.shape[0] > max_length:
        raise ValueError(f"{name} has {ids.shape[0]} ids, more than max_length ({max_length})")


def check_jax_array(name: str, leaf: Any) -> None:
    """Raises `TypeError` for weights of NumPy's, which a model computes with only as an argument of `jax.jit`."""
    if isinstance(leaf, np.ndarray):
        # Of arrays alone: a dropout's flag that became an array is no longer a flag under `jax.jit`.
        raise TypeError(
            f"{name} is an array of NumPy's: jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else "
            "leaf, model) makes a model of JAX's arrays"
        )


def head_sizes(
    embed_size: int, num_heads: int, num_kv_heads: int | None = None, head_size: int | None = None
) -> tuple[int, int]:
    """The number of heads of keys and values, and the length of a head's vectors, with their defaults.

    Raises:
        ValueError: heads that cannot be divided as asked.

    Example:
        >>> head_sizes(embed_size=12, num_heads=4)
        (4, 3)
    """
    check_sizes(embed_size=embed_size, num_heads=num_heads, num_kv_heads=num_kv_heads, head_size=head_size)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads ({num_heads}) must be a multiple of num_kv_heads ({num_kv_heads})")
    if head_size is None and embed_size % num_heads:
        raise ValueError(
            f"embed_size ({embed_size}) must be a multiple of num_heads ({num_heads}), or head_size must be given"
        )
    return num_kv_heads, embed_size // num_heads if head_size is None else head_size


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_plain(config: Any) -> None:
    """Makes a frozen dataclass plain JSON: lists become tuples, and what JSON would not give back is refused.

    For the `__post_init__` of a model's config, so that `Config(**json.loads(json.dumps(asdict(config))))` is equal
    to it. NumPy's and JAX's scalars are refused, because they would come back as Python's or not at all.

    Raises:
        ValueError: a field is not an int, a finite float, a bool, a str, None, or a tuple or list of such.
    """
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, _plain(field.name, getattr(config, field.name)))


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(name, item) for item in value)
    if type(value) not in (int, float, bool, str, type(None)):
        raise ValueError(
            f"{name} must be plain JSON (int, float, bool, str, None, or lists of them), got {value!r} of type "
            f"{type(value).__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return value


def check_buckets(num_buckets: int, max_distance: int, *, bidirectional: bool) -> None:
    """Raises `ValueError` for numbers that `RelativeBias` cannot have."""
    check_sizes(num_buckets=num_buckets, max_distance=max_distance)
    sides = 2 if bidirectional else 1
    if num_buckets % (2 * sides):
        raise ValueError(f"num_buckets must be a multiple of {2 * sides}, got {num_buckets}")
    if max_distance <= (exact := num_buckets // (2 * sides)):
        raise ValueError(
            f"max_distance must be more than {exact}, which have buckets of their own, got {max_distance}"
        )
