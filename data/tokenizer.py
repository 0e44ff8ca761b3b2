"""What `data` asks of a tokenizer. Those of `zoo.text` are such, and so is any object of yours with these methods."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32


@runtime_checkable
class Tokenizer(Protocol):
    """Makes ids of texts."""

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The ids of a text."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All that the ids depend on: what is tokenised once is kept under it."""
        ...


@runtime_checkable
class TargetTokenizer(Tokenizer, Protocol):
    """Makes ids of texts that a model is to write, between a start and a stop id that no text has."""

    @property
    def start_id(self) -> int: ...

    @property
    def stop_id(self) -> int: ...
