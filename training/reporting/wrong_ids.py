"""Which id of a batch a model does not know: asked only when a loss is not finite, so that no step pays for it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from training.devices.sharding import on_host
from training.losses import Batch

# The columns of this package's losses, and what says how many ids each may have: the first of these that there is.
_SIZES = {
    "inputs": ("vocab_size",),
    "tokens": ("vocab_size",),
    "source": ("source_vocab_size", "vocab_size"),
    "targets": ("vocab_size",),
    "labels": ("num_classes",),
}


def id_sizes(model: Any) -> dict[str, int]:
    """How many ids a model knows, for each column; a model says it in its config or by itself, or it is not known."""
    owners = (getattr(model, "config", None), model)
    found = {}
    for column, names in _SIZES.items():
        sizes = [getattr(owner, name, None) for name in names for owner in owners]
        known = [size for size in sizes if isinstance(size, int)]
        found |= {column: known[0]} if known else {}
    return found


def find_wrong_id(model: Any, batch: Batch) -> str | None:
    """The first id of a batch that the model does not know, where it is, and which it knows."""
    return first_wrong_id(id_sizes(model), [batch])


def first_wrong_id(sizes: Mapping[str, int], batches: Iterable[Batch]) -> str | None:
    """As `find_wrong_id`, of several batches, by the sizes of `id_sizes`."""
    for batch in batches:
        for name, size in sizes.items():
            if isinstance(batch, Mapping) and name in batch:
                ids = np.asarray(on_host(batch[name]))
                wrong = np.argwhere(((ids < 0) | (ids >= size)) & _counts(name, ids, batch))
                if len(wrong):
                    place = wrong[0].tolist()
                    return f"{name}{place} is {ids[tuple(place)]}, and the model knows 0 to {size - 1}"
    return None


def _counts(name: str, ids: np.ndarray, batch: Batch) -> Any:
    """Whether an id matters: anything may stand after a row's length, or where a target's weight is 0."""
    if name in ("targets", "labels") and np.shape(batch.get("weights", 0)) == ids.shape:
        return np.asarray(on_host(batch["weights"])) != 0
    if f"{name}_length" in batch and ids.ndim == 2:
        return np.arange(ids.shape[1]) < np.asarray(on_host(batch[f"{name}_length"]))[:, None]
    return True
