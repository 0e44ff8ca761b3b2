"""Plain values as JSON, whatever they hold."""

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values; what is infinite or not a number becomes null, paths and others their text.

    Example:
        >>> from pathlib import Path
        >>> to_json({"loss": float("nan"), "file": Path("a/b")})
        '{"loss": null, "file": "a/b"}'
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and JAX
        return _plain(value.tolist())
    return str(value)
