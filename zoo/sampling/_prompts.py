"""What comes from outside, checked and brought into few shapes: prompts, stop ids, capacity."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from zoo.decoder import AbstractDecoder
from zoo.sampling._checks import check_integer

PROMPT_BUCKET = 16  # the smallest; larger ones are its doubles
CAPACITY_BUCKET = 64
IDS_BUCKET = 8

Prompts = Sequence[Any] | Int[np.ndarray, "..."] | Int[jax.Array, "..."]


class NonFiniteLogitsError(ArithmeticError):
    """Logits that hold NaN or +inf, or nothing but -inf: no token can be chosen from them."""


def pad_prompts(
    prompts: Prompts, vocab_size: int
) -> tuple[Int[np.ndarray, "*batch prompt"], Int[np.ndarray, "*batch"]]:
    """Prompts of any lengths as one array of a bucket's length, and their lengths; ids are checked."""
    if isinstance(prompts, str | bytes):
        raise ValueError(f"prompts must be token ids, got the text {prompts!r}: encode it first")
    if not isinstance(prompts, Sequence | np.ndarray | jax.Array) or getattr(prompts, "ndim", 1) == 0:
        raise ValueError(f"prompts must be a sequence of token ids, or of such sequences, got {prompts!r}")
    if len(prompts) == 0:
        raise ValueError(
            "prompts is empty: one prompt needs at least one token (prepend a start id), a batch one row"
        )
    single = not (isinstance(prompts[0], Sequence) or getattr(prompts[0], "ndim", 0) > 0)
    rows = [prompts] if single else prompts
    rows = [_as_ids(row, vocab_size, "the prompt" if single else f"prompt {i}") for i, row in enumerate(rows)]
    length = np.array([row.size for row in rows], np.int32)
    padded = np.zeros((len(rows), bucket(int(length.max()), PROMPT_BUCKET)), np.int32)
    for i, row in enumerate(rows):
        padded[i, : row.size] = row
    return (padded[0], np.asarray(length[0])) if single else (padded, length)


def prompts_or_start(prompts: Prompts | None, decoder: AbstractDecoder) -> Prompts:
    """The prompts, or the ids with which a text of this decoder begins."""
    if prompts is None and not decoder.start_ids:
        raise ValueError("prompts must be given, because the decoder has no start_ids")
    return decoder.start_ids if prompts is None else prompts


def _as_ids(row: Any, vocab_size: int, where: str) -> Int[np.ndarray, " prompt"]:
    """One prompt as an array; `where` names it in messages."""
    if isinstance(row, str | bytes):
        raise ValueError(f"{where} must be token ids, got the text {row!r}: encode it first")
    try:
        ids = np.asarray(row)
    except (ValueError, TypeError):  # sequences of several lengths in a prompt, or what is not an array at all
        raise ValueError(f"{where} must be a sequence of token ids, got {row!r}") from None
    if ids.ndim != 1:
        raise ValueError(f"{where} must be a sequence of token ids, got an array of shape {ids.shape}")
    if ids.size == 0:
        raise ValueError(f"{where} is empty: a decoder needs at least one token, so prepend a start id")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{where} must hold whole numbers, got {ids.dtype}")
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if wrong.size:
        raise ValueError(
            f"token {ids[wrong[0]]} at index {wrong[0]} of {where} is outside the vocabulary (0 to {vocab_size - 1})"
        )
    return ids


def pad_ids(name: str, given: Sequence[int], vocab_size: int) -> Int[np.ndarray, " ids"]:
    """Checked ids, each once, as an array of a bucket's length, filled up with -1, which is not an id."""
    ids = given.tolist() if isinstance(given, np.ndarray | jax.Array) else given
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes):
        raise ValueError(f"{name} must be a sequence of token ids, such as [0], got {given!r}")
    checked = [check_integer(name, token, 0) for token in ids]
    if checked and max(checked) >= vocab_size:
        raise ValueError(f"{name} holds {max(checked)}, which is outside the vocabulary (0 to {vocab_size - 1})")
    padded = np.full(bucket(len(checked), IDS_BUCKET), -1, np.int32)
    once = sorted(set(checked))
    padded[: len(once)] = once
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
