"""What a run is: all that has to be the same for another one to go on from its checkpoints."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from training.batch_stream import BatchStream
from training.evaluation import Batches
from training.sharding import on_host
from training.state import TrainState
from zoo.serialisation import description


def identify(
    configuration: Mapping[str, Any],
    state: TrainState,
    stream: BatchStream,
    evaluation: Batches | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run is: everything that has to be the same for another one to go on from its checkpoints.

    Args:
        configuration: the caller's, of `Checkpoints`.
        state: before the first step.
        stream: the data, of which nothing was read.
        evaluation: the data to evaluate on.
        arguments: of `fit`, those that change its outcome.
    """
    first = None
    if evaluation is not None:
        first = next(iter(evaluation() if callable(evaluation) else evaluation), None)
    return {
        "model": _described(state.model),
        "configuration": configuration,
        "data": {
            "first batch": stream.first_digest(),
            "first to evaluate on": None if first is None else stream.digest(first),
        },
        "fit": arguments,
        "key": np.asarray(jax.random.key_data(on_host(state.key))).tolist(),
    }


def _described(model: Any) -> dict[str, Any]:
    """A model's class and its config, or its constructor's arguments as far as it keeps them and they are plain."""
    try:
        kept = next(iter(description(model).values()))
    except (TypeError, ValueError):
        kept = {}
    return {"class": type(model).__name__, "arguments": {name: _plain(value) for name, value in kept.items()}}


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return getattr(value, "__name__", type(value).__name__)


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two of them, a line for each."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [f"{name} was {was!r} and is {now!r}"]
    names = list(was) + [added for added in now if added not in was]
    return [line for n in names for line in differences(was.get(n), now.get(n), f"{name}.{n}" if name else n)]
