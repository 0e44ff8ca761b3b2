"""The position in the data: batches one after another, and how to come back to where a run was."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import PyTree

from training.batches import as_arrays, check_batch, check_batches
from training.devices.sharding import Sharding
from training.errors import CheckpointError
from training.saving.fingerprint import data_fingerprint
from training.state import named_leaves


class BatchStream:
    """Reads batches, and counts them.

    Args:
        batches: what `fit` was given, from its beginning.
        sharding: of several processes, where each reads its part of a batch; None for one device.
    """

    def __init__(self, batches: Iterable[PyTree], sharding: Sharding | None = None):
        check_batches(batches)
        self._batches: Any = batches
        self._iterator: Iterator[PyTree] = iter(batches)
        self._sharding = sharding or Sharding.single()
        self._waiting: list[PyTree] = []
        self._checked = False
        self.count = 0

    def next(self) -> PyTree | None:
        """The next batch, on the devices; None after the last."""
        batch = self._read()
        if batch is not None and not self._checked:
            check_batch(batch)
            self._checked = True
        return None if batch is None else self._sharding.rows(as_arrays(batch))

    def _read(self) -> PyTree | None:
        batch = self._waiting.pop() if self._waiting else next(self._iterator, None)
        self.count += batch is not None
        return batch

    def fingerprint(self) -> str:
        """What tells all of the data from others. To be called before anything is read."""
        return data_fingerprint(self._batches)

    def first_digest(self) -> str | None:
        """What tells the first batch from others, which is also what tells seeds and data apart; None without one.

        To be called before anything is read.
        """
        first = next(self._iterator, None)
        if first is None:
            return None
        self._waiting.append(first)
        return self.digest(first)

    def digest(self, batch: PyTree) -> str:
        """Of a whole batch, also where each process has a part of it: another number of them reads the same data."""
        return batch_digest(self._sharding.gather_rows(batch))

    def position(self) -> dict[str, Any]:
        """The position as plain JSON: batches read, and the iterator's own state if it has one."""
        state = None
        if hasattr(self._iterator, "set_state") and not self._waiting:
            state = getattr(self._iterator, "get_state")()  # noqa: B009
            try:
                state = state if json.loads(json.dumps(state)) == state else None
            except (TypeError, ValueError):  # not plain: batches will be counted instead
                state = None
        return {"batches": self.count, "iterator": state}

    def go_to(self, position: dict[str, Any]) -> None:
        """Go to where another stream of the same batches was, from the beginning of this one.

        An iterator with a state of its own, such as Grain's, goes there at once; of any other the batches up to
        there are read and thrown away.

        Raises:
            CheckpointError: there are not that many batches, or the state is not one of this iterator.
        """
        try:
            count, state = int(position["batches"]), position["iterator"]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{position!r} is not a position in the data") from None
        if state is not None and hasattr(self._iterator, "set_state"):
            try:
                getattr(self._iterator, "set_state")(state)  # noqa: B009
            except Exception as error:  # whatever an iterator of another version says
                raise CheckpointError(f"the data can't go to {state!r}: {error!r}") from error
            self._waiting.clear()
            self.count = count
            return
        while self.count < count:
            if self._read() is None:
                raise CheckpointError(f"the data end after {self.count} batches, but {count} were read before")


def batch_digest(batch: PyTree) -> str:
    """Sixteen hexadecimal digits of the sha256 of all names, types, shapes and values of a batch."""
    digest = hashlib.sha256()
    for name, leaf in named_leaves(batch):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
