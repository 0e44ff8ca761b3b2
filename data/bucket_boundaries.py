"""Which lengths batches should be padded to: those with which the least padding is computed on."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Int64


def suggest_bucket_boundaries(
    lengths: Mapping[str, Int[np.ndarray, " rows"]], num_shapes: int, *, multiple_of: int = 1
) -> dict[str, tuple[int, ...]]:
    """The boundaries for `data.buckets.Buckets` with the fewest entries, padding included, if rows stood alone.

    A row is padded to the first boundaries that hold it in all its columns. Exact, by dynamic programming over the
    last boundaries: what they cost does not depend on how the rows below the ones before them are divided.

    Args:
        lengths: of the rows, for each column: of one, or of two (a pair's source and target). Rows of a length that
            should not have a bucket of its own are to be cut or left out before.
        num_shapes: how many boundaries there may be, each of which is compiled once; at least 1.
        multiple_of: what all boundaries but the last are multiples of.

    Returns:
        For each column as many boundaries, growing; the last are the largest lengths. Fewer than `num_shapes` where
        more would save nothing, or where not all columns have so many different lengths.

    Raises:
        ValueError: a number is less than 1, or there are no lengths, or not equally many in each column.

    Example:
        >>> suggest_bucket_boundaries({"tokens": np.array([2, 2, 2, 3, 9, 10])}, 2)
        {'tokens': (3, 10)}
    """
    if num_shapes < 1 or multiple_of < 1:
        raise ValueError(f"num_shapes and multiple_of must be at least 1; got {num_shapes} and {multiple_of}")
    sizes = {name: len(column) for name, column in lengths.items()}
    if not lengths or len(set(sizes.values())) > 1 or not all(sizes.values()):
        raise ValueError(f"lengths must be at least one, and equally many in each column; got {sizes}")
    # An empty row takes the place of one entry: no boundary is 0.
    rows = np.stack([np.maximum(column, 1) for column in lengths.values()], axis=1)
    candidates, inside = _candidates(rows, multiple_of)
    # cost[i]: the fewest entries of the rows inside candidate i, if it is the last boundary.
    width = candidates.sum(axis=1)
    cost = (width * inside).astype(np.float64)
    before = np.full((num_shapes, len(candidates)), -1)
    best, costs = 0, [cost[-1]]
    for number in range(1, num_shapes):
        longer = np.full(len(candidates), np.inf)
        for i in range(len(candidates)):
            smaller = np.flatnonzero(_all_less(candidates[:i], candidates[i]))
            if len(smaller):
                entries = cost[smaller] + width[i] * (inside[i] - inside[smaller])
                before[number, i] = smaller[entries.argmin()]
                longer[i] = entries.min()
        cost = longer
        costs.append(cost[-1])
        if costs[number] < costs[best]:
            best = number
    chosen = [len(candidates) - 1]
    for number in range(best, 0, -1):
        chosen.insert(0, int(before[number, chosen[0]]))
    return {name: tuple(candidates[chosen, column].tolist()) for column, name in enumerate(lengths)}


def _candidates(
    rows: Int[np.ndarray, "rows columns"], multiple_of: int
) -> tuple[Int64[np.ndarray, "candidates columns"], Int64[np.ndarray, " candidates"]]:
    """What boundaries may be, all columns in all combinations, the largest last; and how many rows fit into each."""
    edges, places = [], []
    for column in rows.T:
        rounded = np.minimum(-(-column // multiple_of) * multiple_of, column.max())
        distinct, place = np.unique(rounded, return_inverse=True)
        edges.append(distinct)
        places.append(place)
    counts = np.zeros([len(edge) for edge in edges], np.int64)
    np.add.at(counts, tuple(places), 1)
    for axis in range(counts.ndim):
        counts = counts.cumsum(axis=axis)
    grid = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, len(edges))
    return grid.astype(np.int64), counts.reshape(-1)


def _all_less(
    candidates: Int64[np.ndarray, "some columns"], one: Int64[np.ndarray, " columns"]
) -> Bool[np.ndarray, " some"]:
    return np.all(candidates < one[None], axis=1)
