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
        batch_size: items in a batch, at least 1.
        seed: orders every epoch anew; None keeps the source's order. A source of 2**32 items or more (an
            endless one) can't be shuffled as a whole and takes None.
        epochs: how often the source is read, at least 1; None for ever.
        shard: (which, of how many): this process reads every `of how many`-th item. The shards of an epoch
            are disjoint and together complete; their lengths may differ by one item.
        drop_remainder: drop the last batch if it is short. `evaluation_batches` pads it instead.

    Raises:
        ValueError: an argument is out of its range, or the shard is smaller than one batch.

    Example:
        >>> items = [{"x": np.array(i)} for i in range(5)]
        >>> [batch["x"].tolist() for batch in pipeline(items, 2, seed=None, epochs=2)]
        [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1 or None; got {epochs}")
    items = _shuffled_shard(source, batch_size, seed, shard)
    if drop_remainder and len(items) < batch_size:
        raise ValueError(
            f"0 batches: batch_size is {batch_size}, and the source has only {len(items)} items"
            + (f" for shard {shard}" if shard[1] > 1 else "")
        )
    return _in_process(items.repeat(epochs).batch(batch_size, drop_remainder=drop_remainder))


def whole_batches(source: Source, *, epochs: int | None = None) -> grain.IterDataset:
    """Batches of a source whose items are batches already, in order, epoch after epoch.

    Args:
        source: items are dictionaries of numpy arrays, such as `data.text.Streams` has.
        epochs: how often the source is read, at least 1; None for ever.

    Raises:
        ValueError: an argument is out of its range, or the source is empty.
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1 or None; got {epochs}")
    if len(source) < 1:
        raise ValueError(f"0 batches: {source!r} is empty")
    items: Any = source
    return _in_process(grain.MapDataset.source(items).repeat(epochs))


def evaluation_batches(source: Source, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> grain.IterDataset:
    """Every item of a source once, in order, in batches of one shape.

    A short last batch is filled up with copies of its last row whose `weights` are 0, so that they change
    no weighted sum (and, being real rows, cause no trouble such as an empty sequence would).

    Args:
        source: items are dictionaries of numpy arrays of the same shapes; one of them is called `weights`.
        batch_size: items in a batch, at least 1; may be more than the source has.
        shard: as for `pipeline`.

    Raises:
        ValueError: an argument is out of its range, the source has no end, or its items no `weights`.

    Example:
        >>> items = [{"x": np.array(i), "weights": np.array(1.0)} for i in range(3)]
        >>> [batch["weights"].tolist() for batch in evaluation_batches(items, 2)]
        [[1.0, 1.0], [1.0, 0.0]]
    """
    items = _shuffled_shard(source, batch_size, None, shard)
    if len(items) > _MOST_SHUFFLED:
        raise ValueError(f"{source!r} has no end, so it can't be evaluated whole; give it a size")
    first = source[shard[0]]
    if "weights" not in first:
        raise ValueError(f"items need `weights` so that padding can have weight 0; got {sorted(first)}")
    batches = items.batch(batch_size, drop_remainder=False)
    return _in_process(batches.map(lambda batch: _fill_up(batch, batch_size)))


def _shuffled_shard(source: Source, batch_size: int, seed: int | None, shard: tuple[int, int]) -> grain.MapDataset:
    """One epoch of this process's items; shuffled before it is split, so that shards stay disjoint."""
    which, of = shard
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if of < 1 or not 0 <= which < of:
        raise ValueError(f"shard must be (which, of) with 0 <= which < of; got {shard}")
    if len(source) <= which:
        raise ValueError(f"0 batches: the source has {len(source)} items, none of them for shard {shard}")
    items = grain.MapDataset.source(cast(Any, source))
    if seed is not None:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in 0..{2**32 - 1} or None; got {seed}")
        if len(source) > _MOST_SHUFFLED:
            raise ValueError(f"{source!r} is too long to be shuffled as a whole; use seed=None, or give it a size")
        items = items.seed(seed).shuffle()
    return items[which::of]


def _in_process(batches: grain.MapDataset) -> grain.IterDataset:
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def _fill_up(batch: Batch, batch_size: int) -> dict[str, np.ndarray]:
    rows = len(batch["weights"])
    if rows == batch_size:
        return dict(batch)
    filled = {
        name: np.concatenate([array, np.repeat(array[-1:], batch_size - rows, axis=0)])
        for name, array in batch.items()
    }
    filled["weights"][rows:] = 0
    return filled
