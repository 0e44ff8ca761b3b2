"""Batches of rows of about one length, padded to one of a few lengths: little padding, few shapes to compile."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Int64

from data.ragged import Ragged
from data.synthetic import ENDLESS

_WINDOW = 32  # batches that are drawn at random together and then sorted by length


class Buckets:
    """A source whose items are whole batches, for `data.pipeline.prebatched`.

    Every column of rows (`Ragged`) becomes an array padded on the right to the smallest of its bucket boundaries that
    holds all rows of the batch, and beside it their lengths, as `NAME_length`; columns of numbers come as they are.
    `weights` is 1 for each row, or what a column of numbers of that name says. Columns have equally many boundaries,
    and all take the i-th of theirs for the smallest i that fits them all: so there are only as many shapes as
    boundaries.

    For training, every epoch shuffles anew, cuts the order into windows of some batches' worth of rows, sorts
    each window by length, and shuffles the batches. Rows that fill no batch are left out of that epoch; which
    ones is another draw each time. Batch i depends on nothing but the arguments and i.

    For evaluation (`seed=None`) there is one epoch of all rows, sorted by length; the last batch is filled up with
    copies of its last row of weight 0, whatever weight that row has itself.

    Args:
        rows: columns of rows of different lengths, cut to their last boundary.
        numbers: columns of one entry per row, such as labels. One called `weights` weighs the rows.
        batch_size: rows in a batch.
        bucket_boundaries: for each column of rows, the lengths it may be padded to, growing.
        seed: of the order; None for evaluation.
        pad_id: what rows are padded with.
        shard: (which, of): every process sees its own rows of each batch, `batch_size / of` of them that stand
            together, padded alike.

    Raises:
        ValueError: an argument is out of its range, or the columns don't fit together, or would have one name.

    Example:
        >>> rows = Ragged.of([[1, 1], [2, 2, 2, 2, 2], [3], [4, 4, 4, 4]])
        >>> batches = Buckets({"tokens": rows}, {}, batch_size=2, bucket_boundaries={"tokens": (2, 8)}, seed=None)
        >>> for i in range(len(batches)):
        ...     print(batches[i]["tokens"].tolist(), batches[i]["tokens_length"].tolist())
        [[3, 0], [1, 1]] [1, 2]
        [[4, 4, 4, 4, 0, 0, 0, 0], [2, 2, 2, 2, 2, 0, 0, 0]] [4, 5]
    """

    def __init__(
        self,
        rows: Mapping[str, Ragged],
        numbers: Mapping[str, np.ndarray],
        *,
        batch_size: int,
        bucket_boundaries: Mapping[str, Sequence[int]],
        seed: int | None,
        pad_id: int = 0,
        shard: tuple[int, int] = (0, 1),
    ):
        which, of = shard
        _check_names(rows, numbers)
        sizes = {name: len(column) for name, column in {**rows, **numbers}.items()}
        if not rows or set(rows) != set(bucket_boundaries):
            given = sorted(bucket_boundaries)
            raise ValueError(f"bucket_boundaries must be given for each column of rows, {sorted(rows)}; got {given}")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"all columns must have equally many rows; got {sizes}")
        if of < 1 or not 0 <= which < of:
            raise ValueError(f"shard must be (which, of) with 0 <= which < of; got {shard}")
        if batch_size < 1 or batch_size % of:
            raise ValueError(f"batch_size must be a positive multiple of the {of} shards; got {batch_size}")
        for name, lengths in bucket_boundaries.items():
            if not lengths or lengths[0] < 1 or any(a >= b for a, b in itertools.pairwise(lengths)):
                raise ValueError(f"bucket_boundaries of {name} must be positive and growing; got {lengths}")
        if len({len(lengths) for lengths in bucket_boundaries.values()}) > 1:
            raise ValueError(f"bucket_boundaries must be equally many for each column; got {dict(bucket_boundaries)}")
        self.num_rows = next(iter(sizes.values()))
        if self.num_rows < (1 if seed is None else batch_size):
            raise ValueError(f"0 batches: batch_size is {batch_size}, and there are only {self.num_rows} rows")
        self.rows, self.numbers, self.batch_size, self.seed = dict(rows), dict(numbers), batch_size, seed
        self.bucket_boundaries = {name: tuple(lengths) for name, lengths in bucket_boundaries.items()}
        self.pad_id, self.shard = pad_id, shard
        bounds = self.bucket_boundaries
        self._lengths = {name: np.minimum(column.lengths, bounds[name][-1]) for name, column in rows.items()}
        fits = [np.searchsorted(np.array(bounds[name]), lengths) for name, lengths in self._lengths.items()]
        self._bucket = np.max(fits, axis=0)
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)

    @property
    def batches_per_epoch(self) -> int:
        """Batches until the rows come again."""
        return -(-self.num_rows // self.batch_size) if self.seed is None else self.num_rows // self.batch_size

    def __len__(self) -> int:
        return self.batches_per_epoch if self.seed is None else ENDLESS

    def __getitem__(self, i: int | np.integer) -> dict[str, np.ndarray]:
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} is out of range: there are batches 0..{len(self) - 1}")
        epoch, number = divmod(int(i), self.batches_per_epoch)
        chosen = self._epoch(epoch)[number]
        real = len(chosen)
        chosen = np.concatenate([chosen, np.repeat(chosen[-1:], self.batch_size - real)])
        which, of = self.shard
        part = self.batch_size // of
        mine = slice(which * part, (which + 1) * part)
        batch: dict[str, np.ndarray] = {}
        bucket = int(self._bucket[chosen].max())
        for name, column in self.rows.items():
            width = self.bucket_boundaries[name][bucket]
            batch[name], batch[f"{name}_length"] = self._padded(column, chosen[mine], width)
        for name, column in self.numbers.items():
            batch[name] = column[chosen[mine]]
        is_real = (np.arange(self.batch_size) < real)[mine]
        weights = np.asarray(batch.get("weights", np.ones(len(is_real))), np.float32)
        # Chosen rather than multiplied: of a weight that is not finite, padding would make NaN.
        batch["weights"] = np.where(is_real.reshape(-1, *[1] * (weights.ndim - 1)), weights, np.float32(0))
        return batch

    def _padded(
        self, column: Ragged, chosen: Int[np.ndarray, " batch"], width: int
    ) -> tuple[Int[np.ndarray, "batch width"], Int[np.ndarray, " batch"]]:
        padded = np.full((len(chosen), width), self.pad_id, column.values.dtype)
        lengths = np.zeros(len(chosen), np.int32)
        for i, row in enumerate(chosen):
            entries = column[row][:width]
            padded[i, : len(entries)] = entries
            lengths[i] = len(entries)
        return padded, lengths

    def _plan(self, epoch: int) -> list[Int64[np.ndarray, " rows"]]:
        """The rows of each batch of an epoch; sorted by bucket before length, so that few straddle a boundary."""
        keys = [sum(self._lengths.values()), self._bucket]  # the last one counts most
        if self.seed is None:
            order = np.lexsort(keys)
            return [order[i : i + self.batch_size] for i in range(0, self.num_rows, self.batch_size)]
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.num_rows)[: self.batches_per_epoch * self.batch_size]
        window = _WINDOW * self.batch_size
        for start in range(0, len(order), window):
            part = order[start : start + window]
            order[start : start + window] = part[np.lexsort([key[part] for key in keys])]
        batches = order.reshape(-1, self.batch_size)
        return list(batches[rng.permutation(len(batches))])

    def __repr__(self) -> str:
        return (
            f"Buckets({self.rows}, {sorted(self.numbers)}, batch_size={self.batch_size}, "
            f"bucket_boundaries={self.bucket_boundaries}, seed={self.seed}, shard={self.shard})"
        )


def _check_names(rows: Mapping[str, Ragged], numbers: Mapping[str, np.ndarray]) -> None:
    """No array of a batch may take the place of another one without a word."""
    if "weights" in rows:
        raise ValueError("a column called weights must be one of numbers, one for each row; got rows")
    made = {f"{name}_length": name for name in rows}
    for name in [*rows, *numbers]:
        if name in made:
            raise ValueError(f"no column may be called {name}: batches have the lengths of {made[name]!r} there")
    if both := sorted(set(rows) & set(numbers)):
        raise ValueError(f"a column of rows and one of numbers must have different names; got {both[0]!r} twice")
