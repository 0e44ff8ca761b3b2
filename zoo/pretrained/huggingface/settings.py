"""Values out of other people's `config.json`, each checked where it is read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from zoo.pretrained import PretrainedError

MOST_BYTES = 2**24  # of a JSON file
Choice = TypeVar("Choice")
_REQUIRED: Any = object()


class Settings:
    """A JSON object of a file, read key by key. A key whose value is null is as one that is not there (see `nulls`).

    A value that is of the wrong kind, or that we cannot do, is a `PretrainedError` that names file, key and value.

    Example:
        >>> settings = Settings({"hidden_size": 64, "hidden_act": "gelu_new"}, "config.json")
        >>> settings.size("hidden_size"), settings.choice("hidden_act", {"gelu_new": "gelu_tanh"})
        (64, 'gelu_tanh')
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values = {key: value for key, value in values.items() if value is not None}
        self.nulls = values.keys() - self.values.keys()
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, allowed: str) -> PretrainedError:
        """To be raised: the value of a key is not what it may be."""
        return PretrainedError(f"{self.where} has {key} = {_short(self.values.get(key))}, which must be {allowed}")

    def _get(self, key: str, default: Any) -> Any:
        if key not in self.values and default is _REQUIRED:
            raise PretrainedError(f"{self.where} has no {key}")
        return self.values.get(key, default)

    def size(self, key: str, default: Any = _REQUIRED) -> Any:
        """A whole number of at least 1, or the default."""
        value = self._get(key, default)
        if key in self.values and (type(value) is not int or not 1 <= value < 2**31):
            raise self.error(key, "a whole number of at least 1")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """A finite number, as a float, or the default."""
        value = self._get(key, default)
        if key not in self.values:
            return value
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, Choice], default: str = _REQUIRED) -> Choice:
        """What one of their words is in ours; `default` is a word of theirs."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"one of {', '.join(map(repr, choices))} for us to read it")
        return choices[value]

    def only(self, key: str, *allowed: Any) -> None:
        """Raises unless the key is absent or has one of these values: for what we cannot do otherwise."""
        if key in self.values and self.values[key] not in allowed:
            words = " or ".join(_short(value) for value in allowed) or "absent"
            raise self.error(key, f"{words} for us to read it")

    def part(self, key: str) -> "Settings | None":
        """An object within the object, if there is one."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "an object")
        return None if value is None else Settings(value, f"{key} of {self.where}")

    def ids(self, key: str) -> tuple[int, ...] | None:
        """One id or a list of them; None where the key is absent."""
        if key not in self.values:
            return None
        value = self.values[key]
        ids = value if isinstance(value, list) else [value]
        if not all(type(item) is int and item >= 0 for item in ids):
            raise self.error(key, "an id or a list of ids")
        return tuple(ids)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of moderate size.

    Raises:
        PretrainedError: there is no such file, it is too large, or it holds anything else.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PretrainedError(f"{path} can't be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise PretrainedError(f"{path} is larger than {MOST_BYTES:,} bytes")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PretrainedError(f"{path} holds no JSON object")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."
