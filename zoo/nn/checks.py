"""Errors for wrong constructor arguments: which one, what was given, what is allowed."""

import math
from collections.abc import Collection


def check_sizes(**sizes: int | None) -> None:
    """Raises `ValueError` for the first size that is not a whole number of at least 1 (`None` is skipped).

    Example:
        >>> check_sizes(embed_size=0)
        Traceback (most recent call last):
        ...
        ValueError: embed_size must be a whole number of at least 1, got 0
    """
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_probability(name: str, value: float) -> None:
    """Raises `ValueError` unless `value` is in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")


def check_positive(**numbers: float | None) -> None:
    """Raises `ValueError` for the first number that is not finite and above 0 (`None` is skipped)."""
    for name, number in numbers.items():
        if number is not None and not 0.0 < number < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {number!r}")
