"""How a step is executed: all that changes memory and time, and no result but for rounding."""

import dataclasses

from training.devices.precision import Precision
from training.devices.sharding import Sharding


@dataclasses.dataclass(frozen=True)
class Execution:
    """How `fit` executes its steps.

    Attributes:
        accumulate: Gradient accumulation: micro-batches per step, as for `train_step`.
        precision: what the model computes in, see `training.devices.precision`; None for its own types.
        sharding: the devices to train on. Each process of several runs the same program, brings its part of each
            batch, equally often, and gets the same result; `on_eval` and the result have models that lie whole on
            one device, and the first process alone writes.
    """

    accumulate: int = 1
    precision: Precision | None = None
    sharding: Sharding = dataclasses.field(default_factory=Sharding.single)
