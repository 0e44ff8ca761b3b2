"""Ids of a text as training data for next-token prediction: windows, or parallel streams."""

import numpy as np
from jaxtyping import Float32, Int32, Integer


class Windows:
    """Windows of ids for next-token prediction: item i is `inputs`, the `targets` one further, `weights` 1.

    Windows start at 0, stride, 2 * stride, ... until one reaches the end. With stride 1 (training) every
    possible window is an item, so a shuffle of the items gives random crops; with `stride=length`
    (evaluation) every target is in exactly one window. What the last window lacks is padding on the right, of
    weight 0.

    Args:
        ids: the text's ids, at least two.
        length: of `inputs` and of `targets`, at least 1.
        stride: from the start of a window to that of the next, in 1..length.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> windows = Windows(np.arange(6), length=3, stride=3)
        >>> for i in range(len(windows)):
        ...     print({name: array.tolist() for name, array in windows[i].items()})
        {'inputs': [0, 1, 2], 'targets': [1, 2, 3], 'weights': [1.0, 1.0, 1.0]}
        {'inputs': [3, 4, 0], 'targets': [4, 5, 0], 'weights': [1.0, 1.0, 0.0]}
    """

    def __init__(self, ids: Integer[np.ndarray, " n"], length: int, stride: int = 1):
        if len(ids) < 2:
            raise ValueError(f"ids must have at least 2 entries, one to read and one to predict; got {len(ids)}")
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        if not 1 <= stride <= length:
            raise ValueError(f"stride must be in 1..{length} (length); got {stride}")
        self.ids = ids
        self.length = length
        self.stride = stride
        self._ones = np.ones(length, np.float32)
        self._ones.flags.writeable = False

    def __len__(self) -> int:
        beyond_the_first = max(0, len(self.ids) - 1 - self.length)
        return 1 + -(-beyond_the_first // self.stride)

    def __getitem__(
        self, index: int | np.integer
    ) -> dict[str, Int32[np.ndarray, " length"] | Float32[np.ndarray, " length"]]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are windows 0..{len(self) - 1}")
        start = int(index) * self.stride
        ids = self.ids[start : start + self.length + 1].astype(np.int32)
        inputs, targets, weights = ids[:-1], ids[1:], self._ones
        if (missing := self.length - len(inputs)) > 0:
            inputs, targets, weights = (
                np.concatenate([part, np.zeros(missing, part.dtype)])
                for part in (inputs, targets, self._ones[missing:])
            )
        return {"inputs": inputs, "targets": targets, "weights": weights}

    def __repr__(self) -> str:
        return f"Windows({len(self.ids)} ids, length={self.length}, stride={self.stride})"


class Streams:
    """A text as parallel streams, cut into chunks of one shape: item i is a whole batch, chunk i of every stream.

    Stream b is the b-th of `num_streams` equal parts of the text, so a model that hands its state from batch to
    batch reads each of them from end to end. Every target is in exactly one chunk; what the streams lack at the
    end is padding on the right, of weight 0. `reset` is True for the first chunk, before which
    the state is set to zeros.

    With a `part_length` the text is cut into parts first, each of which is read like a text of its own, one after
    the other.

    Args:
        ids: the text's ids, at least two. Only those of a chunk are read at a time, should they lie in a file.
        num_streams: rows of a batch, at least 1.
        length: of a chunk, at least 1.
        part_length: targets of a part, the last of which may have fewer; None for the whole text.
        shard: (which, of): every process has its own `num_streams / of` streams.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> streams = Streams(np.arange(8), num_streams=2, length=3)
        >>> for batch in (streams[0], streams[1]):
        ...     print(batch["inputs"].tolist(), batch["targets"].tolist(), batch["reset"])
        [[0, 1, 2], [4, 5, 6]] [[1, 2, 3], [5, 6, 7]] True
        [[3, 0, 0], [0, 0, 0]] [[4, 0, 0], [0, 0, 0]] False
    """

    def __init__(
        self,
        ids: Integer[np.ndarray, " n"],
        num_streams: int,
        length: int,
        *,
        part_length: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        which, of = shard
        if of < 1 or not 0 <= which < of:
            raise ValueError(f"shard must be (which, of) with 0 <= which < of; got {shard}")
        if num_streams % of:
            raise ValueError(f"num_streams must be a multiple of the {of} shards; got {num_streams}")
        if len(ids) < 2:
            raise ValueError(f"ids must have at least 2 entries, one to read and one to predict; got {len(ids)}")
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        if part_length is not None and part_length < 1:
            raise ValueError(f"part_length must be at least 1, or None; got {part_length}")
        targets = len(ids) - 1
        of_part = min(part_length or targets, targets)
        before_last = (targets - 1) // of_part * of_part
        fewest = targets - before_last
        if not 1 <= num_streams <= fewest:
            raise ValueError(f"num_streams must be in 1..{fewest} (the number of targets); got {num_streams}")
        self._ids = ids
        self.num_streams = num_streams
        self.length = length
        self.part_length = part_length
        self.num_ids = len(ids)
        self._of_part, self._last_part = of_part, before_last // of_part
        self._rows = np.arange(which * num_streams // of, (which + 1) * num_streams // of)
        self._chunks = self._last_part * self._chunks_of(of_part) + self._chunks_of(fewest)

    def _chunks_of(self, targets: int) -> int:
        return -(-self._per_stream(targets) // self.length)

    def _per_stream(self, targets: int) -> int:
        return -(-targets // self.num_streams)

    def fingerprint(self) -> tuple[object, ...]:
        """What makes the chunks what they are, for all shards alike."""
        return self._ids, self.num_streams, self.length, self.part_length

    def __len__(self) -> int:
        return self._chunks

    def __getitem__(self, index: int | np.integer) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are chunks 0..{len(self) - 1}")
        part, chunk = divmod(int(index), self._chunks_of(self._of_part))
        begin = part * self._of_part
        targets = min(self._of_part, self.num_ids - 1 - begin)
        within = chunk * self.length + np.arange(self.length)
        place = self._rows[:, None] * self._per_stream(targets) + within[None]
        real = (within < self._per_stream(targets))[None] & (place < targets)
        place = np.where(real, begin + place, 0)
        return {
            "inputs": np.where(real, self._ids[place], 0).astype(np.int32),
            "targets": np.where(real, self._ids[place + 1], 0).astype(np.int32),
            "weights": real.astype(np.float32),
            "reset": np.array(chunk == 0),
        }

    def __repr__(self) -> str:
        part = "" if self.part_length is None else f", part_length={self.part_length}"
        return f"Streams({self.num_ids} ids, num_streams={self.num_streams}, length={self.length}{part})"
