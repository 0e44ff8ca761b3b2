"""A tiny training with the options of every example, for several processes: test_processes.py starts it.

It imports no model and draws nothing: what is tested there is how processes meet, save and end.
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

import training.reporting.run
from data.pipeline import evaluation_batches, pipeline
from training import Evaluation, Options, Sums, adamw, cli, fit, init_state

WIDTH, ROWS = 16, 8  # every matrix has the 256 numbers from which on it is split over devices
TEACHER = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Train together."""

    steps: int = 5
    """Training steps."""


class Items:
    """Random access to what is to be learned: a matrix, of which some rows count more than others."""

    def __len__(self):
        return 64

    def __getitem__(self, i):
        x = np.random.default_rng(int(i)).normal(size=WIDTH).astype(np.float32)
        return {"x": x, "y": x @ TEACHER, "weights": np.float32(1 + i % 3)}


def loss(model: Any, batch: Any, carry: Any, key: Any) -> Any:
    """With noise from the key, which is the same however many devices share the rows."""
    x = batch["x"] if key is None else batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    error = jax.vmap(model)(x) - batch["y"]
    return Sums.of((batch["weights"][:, None] * error**2).sum(), batch["weights"].sum()), carry


def main(arguments: Arguments) -> None:
    """Train together."""
    training.reporting.run.draw_curves = lambda history, path, title: None  # they take as long as all the rest
    arguments.check_rows(ROWS)
    sharding = arguments.make_sharding()
    run = arguments.make_run("processes")
    model = eqx.nn.MLP(WIDTH, WIDTH, WIDTH, 1, key=jax.random.key(0))
    optimiser = adamw(1e-2, total_steps=arguments.steps, clip_norm=1.0)
    result = fit(
        init_state(model, optimiser, key=jax.random.key(1), sharding=sharding),
        pipeline(Items(), ROWS, seed=0, shard=sharding.shard),
        loss,
        optimiser,
        steps=arguments.steps,
        evaluation=Evaluation(evaluation_batches(Items(), 64, shard=sharding.shard), every=2),
        **arguments.fit_options(run, sharding),
    )
    run.finish(result, {})
    print(f"finished after {result.steps} steps")


if __name__ == "__main__":
    cli(main)
