"""What comes from outside, checked and brought into few shapes: prompts, stop ids, capacity."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from zoo.decoder import AbstractDecoder

PROMPT_BUCKET = 16  # the smallest; larger ones are its doubles
CAPACITY_BUCKET = 64
STOP_BUCKET = 8

Prompts = Sequence[Any] | Int[np.ndarray, "..."] | Int[jax.Array, "..."]


class NonFiniteLogitsError(ArithmeticError):
    """Logits that hold NaN or +inf, or nothing but -inf: no token can be chosen from them."""


def pad_prompts(
    prompts: Prompts, vocab_size: int
) -> tuple[Int[np.ndarray, "*batch prompt"], Int[np.ndarray, "*batch"]]:
    """Prompts of any lengths as one array of a bucket's length, and their lengths; ids are checked."""
    if isinstance(prompts, str):
        raise ValueError(f"prompts must be token ids, got the text {prompts!r}: encode it first")
    if not isinstance(prompts, Sequence | np.ndarray | jax.Array) or getattr(prompts, "ndim", 1) == 0:
        raise ValueError(f"prompts must be a sequence of token ids, or of such sequences, got {prompts!r}")
    if len(prompts) == 0:
        raise ValueError("an empty prompt: a decoder needs at least one token, so prepend a start id")
    single = np.ndim(prompts[0]) == 0
    rows = [np.asarray(row) for row in ([prompts] if single else prompts)]
    for i, row in enumerate(rows):
        where = "the prompt" if single else f"prompt {i}"
        if row.ndim != 1:
            raise ValueError(f"{where} must be a sequence of token ids, got an array of shape {row.shape}")
        if row.size == 0:
            raise ValueError(f"{where} is empty: a decoder needs at least one token, so prepend a start id")
        if not np.issubdtype(row.dtype, np.integer):
            raise ValueError(f"{where} must hold whole numbers, got {row.dtype}")
        wrong = np.flatnonzero((row < 0) | (row >= vocab_size))
        if wrong.size:
            raise ValueError(
                f"token {row[wrong[0]]} at index {wrong[0]} of {where} is outside the vocabulary "
                f"(0 to {vocab_size - 1})"
            )
    length = np.array([row.size for row in rows], np.int32)
    padded = np.zeros((len(rows), bucket(int(length.max()), PROMPT_BUCKET)), np.int32)
    for i, row in enumerate(rows):
        padded[i, : row.size] = row
    return (padded[0], np.asarray(length[0])) if single else (padded, length)


def pad_stop_ids(stop_ids: Sequence[int], vocab_size: int) -> Int[np.ndarray, " stops"]:
    """Stop ids as an array of a bucket's length, filled up with -1, which is no token; ids are checked."""
    if not isinstance(stop_ids, Iterable):
        raise ValueError(f"stop_ids must be a sequence of token ids, got {stop_ids!r}")
    checked = [check_integer("stop_ids", stop_id, 0) for stop_id in stop_ids]
    if checked and max(checked) >= vocab_size:
        raise ValueError(f"stop_ids holds {max(checked)}, which is outside the vocabulary (0 to {vocab_size - 1})")
    padded = np.full(bucket(len(checked), STOP_BUCKET), -1, np.int32)
    padded[: len(checked)] = checked
    return padded


def check_capacity(decoder: AbstractDecoder, longest: int, max_new_tokens: int) -> None:
    """Raises `ValueError` if a prompt and its answer are more than the model can take."""
    most = decoder.max_length
    if most is not None and longest + max_new_tokens > most:
        raise ValueError(
            f"{longest} tokens and max_new_tokens ({max_new_tokens}) exceed the model's max_length ({most}): "
            f"there is room for {max(most - longest, 0)}"
        )


def capacity_for(decoder: AbstractDecoder, tokens: int) -> int:
    """So many tokens, rounded up to a bucket but not beyond what the model can take."""
    capacity = bucket(tokens, CAPACITY_BUCKET)
    return capacity if decoder.max_length is None else min(capacity, decoder.max_length)


def bucket(size: int, smallest: int) -> int:
    """The smallest double of `smallest` that holds `size`.

    Example:
        >>> bucket(65, 64)
        128
    """
    while smallest < size:
        smallest *= 2
    return smallest


def check_integer(name: str, value: Any, low: int) -> int:
    """`value` as an int; `ValueError` unless it is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return int(value)
