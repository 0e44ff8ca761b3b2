"""What makes a run this one: all that has to be the same for another one to resume from its checkpoints."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

from training.devices.sharding import on_host
from training.evaluation import Evaluation
from training.saving.data_position import BatchStream
from training.state import TrainState


def run_fingerprint(
    configuration: Mapping[str, Any],
    state: TrainState,
    stream: BatchStream,
    evaluation: Evaluation | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that has to be the same for another run to resume from the checkpoints of this one, by name."""
    first = None if evaluation is None else evaluation.first()
    rates = optax.tree_utils.tree_get_all_with_path(state.opt_state, "learning_rate")
    return {
        "model": _described(state.model),
        "configuration": configuration,
        "data": {
            "first batch": stream.first_digest(),
            "first to evaluate on": None if first is None else stream.digest(first),
        },
        "fit": options,
        "learning rates": [np.asarray(on_host(rate)).tolist() for _, rate in rates],
        "key": np.asarray(jax.random.key_data(on_host(state.key))).tolist(),
    }


def _described(model: Any) -> dict[str, Any]:
    """A model's class and its fields: what it was constructed with, as far as that is plain."""
    fields = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
    return {"class": type(model).__name__, "arguments": {f.name: _plain(getattr(model, f.name)) for f in fields}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type | eqx.Module):
        value = dataclasses.asdict(value)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return getattr(value, "__name__", type(value).__name__)


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two fingerprints, a line for each."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [f"{name} was {was!r} and is {now!r}"]
    names = list(was) + [added for added in now if added not in was]
    return [line for n in names for line in differences(was.get(n), now.get(n), f"{name}.{n}" if name else n)]
