"""From a source of items to batches: shuffled for training, in order and complete for evaluation.

Everything runs in this process and on this thread. The data sets here lie in memory, where Grain's reader
threads and worker processes only cost: batches are made from a `MapDataset` (batching an `IterDataset` is
several times slower), and the state of an iterator is then one number, exact after every batch.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import grain
import numpy as np

_MOST_SHUFFLED = 2**32 - 1  # Grain's shuffle permutes 32-bit indices

Batch = Mapping[str, np.ndarray]


@runtime_checkable
class Source(Protocol):
    """Random access to items: a length, and a dictionary of numpy arrays for every index below it."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def pipeline(
    source: Source,
    batch_size: int,
    *,
    seed: int | None,
    epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    drop_remainder: bool = True,
) -> grain.IterDataset:
    """Batches of a source's items, epoch after epoch; a batch may go from one into the next.

    `iter(...)` gives an iterator whose `get_state()` is exact after every batch, and `set_state` goes there
    at once, however far: the order follows from the seed alone.

    Args:
        source: items are dictionaries of numpy arrays of the same shapes.
        batch_size: items in a batch of all processes together, at least 1.
        seed: orders every epoch anew; None keeps the source's order. A source of 2**32 items or more (an
            endless one) can't be shuffled as a whole and takes None.
        epochs: how often the source is read, at least 1; None for ever, as it must be if the source has no end.
        shard: (which, of how many): this process reads its part of each batch alone, `batch_size / of how many`
            items that stand together. One after another the parts of all processes are the batch that one process
            reads, and all have equally many batches.
        drop_remainder: drop the last batch if it is short, which several processes have to. `evaluation_batches`
            pads it instead.

    Raises:
        ValueError: an argument is out of its range, or the source is smaller than one batch.

    Example:
        >>> items = [{"x": np.array(i)} for i in range(5)]
        >>> [batch["x"].tolist() for batch in pipeline(items, 2, seed=None, epochs=2)]
        [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    """
    _check_epochs(epochs, source, len(source))
    items = _ordered(source, batch_size, seed, shard)
    if drop_remainder and len(items) < batch_size:
        raise ValueError(f"0 batches: batch_size is {batch_size}, and the source has only {len(items)} items")
    items = items.repeat(epochs)
    what = ("pipeline", source, batch_size, seed, epochs, drop_remainder)
    if shard[1] > 1:
        if not drop_remainder:
            raise ValueError("drop_remainder must be True where several processes share each batch")
        part: Any = _Part(items, len(items) // batch_size, batch_size, shard)
        items, batch_size = grain.MapDataset.source(part), part.size
    return _in_process(items.batch(batch_size, drop_remainder=drop_remainder), what)


def prebatched(source: Source, *, epochs: int | None = None) -> grain.IterDataset:
    """Batches of a source whose items are batches already, in order, epoch after epoch.

    Where several processes share each batch, it is the source that knows of it: `data.buckets.Buckets` and
    `data.windows.Streams` take a `shard`, too.

    Args:
        source: items are dictionaries of numpy arrays, such as `data.windows.Streams` has. One that goes on with
            another order after each epoch, and so has no end, says how long they are as `batches_per_epoch`.
        epochs: how often the source is read, at least 1; None for ever.

    Raises:
        ValueError: an argument is out of its range, or the source is empty, or has neither an end nor epochs.

    Example:
        >>> from data.buckets import Buckets
        >>> from data.ragged import Ragged
        >>> rows = {"x": Ragged.of([[1], [2], [3], [4]])}
        >>> source = Buckets(rows, {}, batch_size=2, bucket_boundaries={"x": (1,)}, seed=0)
        >>> len(list(prebatched(source, epochs=3)))
        6
    """
    per_epoch = getattr(source, "batches_per_epoch", len(source))
    _check_epochs(epochs, source, per_epoch)
    if len(source) < 1:
        raise ValueError(f"0 batches: {source!r} is empty")
    batches, described = grain.MapDataset.source(cast(Any, source)), ("prebatched", source, epochs)
    if epochs is not None and per_epoch < len(source):
        return _in_process(batches[: epochs * per_epoch], described)
    return _in_process(batches.repeat(epochs), described)


def evaluation_batches(source: Source, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> grain.IterDataset:
    """Every item of a source once, in order, in batches of one shape.

    A short last batch is filled up with copies of its last row whose `weights` are 0, so that they change
    no weighted sum (and, being real rows, cause no trouble such as an empty sequence would).

    Args:
        source: items are dictionaries of numpy arrays of the same shapes; one of them is called `weights`.
        batch_size: items in a batch of all processes together, at least 1; may be more than the source has.
        shard: as for `pipeline`; also of the last batch each process has a part, if of weight 0.

    Raises:
        ValueError: an argument is out of its range, the source has no end, or its items no `weights`.

    Example:
        >>> items = [{"x": np.array(i), "weights": np.array(1.0)} for i in range(3)]
        >>> [batch["weights"].tolist() for batch in evaluation_batches(items, 2)]
        [[1.0, 1.0], [1.0, 0.0]]
    """
    items = _ordered(source, batch_size, None, shard)
    if len(items) > _MOST_SHUFFLED:
        raise ValueError(f"{source!r} has no end, so it can't be evaluated whole; give it a size")
    first = source[0]
    if "weights" not in first:
        raise ValueError(f"items need `weights` so that padding can have weight 0; got {sorted(first)}")
    part: Any = _Part(items, -(-len(items) // batch_size), batch_size, shard)
    whole = grain.MapDataset.source(part).batch(part.size, drop_remainder=True)
    return _in_process(whole, ("evaluation_batches", source, batch_size))


class _Part:
    """The items of one process's part of each batch; after the last item come copies of it of weight 0."""

    def __init__(self, items: grain.MapDataset, batches: int, batch_size: int, shard: tuple[int, int]):
        self._items, self._batch_size, self._which = items, batch_size, shard[0]
        self.size = batch_size // shard[1]
        self._length = batches * self.size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Any:
        batch, row = divmod(int(i), self.size)
        place = batch * self._batch_size + self._which * self.size + row
        if place < len(self._items):
            return self._items[place]
        last: Any = self._items[len(self._items) - 1]
        return {**last, "weights": np.zeros_like(last["weights"])}


def _check_epochs(epochs: int | None, source: Source, per_epoch: int) -> None:
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1 or None; got {epochs}")
    if epochs is not None and per_epoch > _MOST_SHUFFLED:
        raise ValueError(f"{source!r} has no end, so it can't be read {epochs} times; use epochs=None")


def _ordered(source: Source, batch_size: int, seed: int | None, shard: tuple[int, int]) -> grain.MapDataset:
    """One epoch of all items, in the order in which they are read."""
    which, of = shard
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if of < 1 or not 0 <= which < of:
        raise ValueError(f"shard must be (which, of) with 0 <= which < of; got {shard}")
    if batch_size % of:
        raise ValueError(f"batch_size must be a multiple of the {of} processes that share it; got {batch_size}")
    if len(source) < 1:
        raise ValueError(f"0 batches: {source!r} is empty")
    items = grain.MapDataset.source(cast(Any, source))
    if seed is None:
        return items
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..{2**32 - 1} or None; got {seed}")
    if len(source) > _MOST_SHUFFLED:
        raise ValueError(f"{source!r} is too long to be shuffled as a whole; use seed=None, or give it a size")
    return items.seed(seed).shuffle()


class _Batches(grain.IterDataset):
    """Batches that know what they are made from: the same whichever part of them this process reads."""

    def __init__(self, batches: grain.IterDataset, made_from: tuple[Any, ...]):
        super().__init__(batches)
        self._made_from = made_from

    def __iter__(self) -> grain.DatasetIterator:
        return iter(self._parent)

    def fingerprint(self) -> tuple[Any, ...]:
        """What makes these batches these, for `training` to tell runs apart."""
        return self._made_from


def _in_process(batches: grain.MapDataset, made_from: tuple[Any, ...]) -> grain.IterDataset:
    return _Batches(batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)), made_from)
