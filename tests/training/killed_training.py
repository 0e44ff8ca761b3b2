"""A tiny training with all that `fit` can do, as a process to be killed: `killed_training.py OUT [--resume]`.

It ends with the sha256 of everything that has to be the same after any number of kills.
"""

import hashlib
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import pipeline
from training import Checkpoints, Run, Sums, adamw, cli, fit

STEPS = 40


class Items:
    """Random access to what is to be learned: y = 2x - 1."""

    def __len__(self):
        return 37

    def __getitem__(self, i):
        x = np.random.default_rng(int(i)).normal(size=3).astype(np.float32)
        return {"x": x, "y": 2 * x - 1}


def loss(model, batch, carry, key):
    """With noise from the key, and a carry that counts."""
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, batch["x"].shape)
    error = model["w"] * (batch["x"] + noise) + model["b"] + 1e-3 * carry - batch["y"]
    return Sums.of(jnp.sum(error**2), float(error.size)), carry + 1


def main(out: Path, resume: bool = False, pause: float = 0.0, every: int = 3, steps: int = STEPS, seed: int = 0):
    """Train."""
    again = resume and any((out / "checkpoints").glob("step_*"))
    run = Run("killed", None if again else out, resume=out if again else None)
    batches = pipeline(Items(), 5, seed=seed)
    result = fit(
        {"w": jnp.zeros(3), "b": jnp.zeros(3)},
        batches,
        loss,
        adamw(0.1, total_steps=steps, schedule="constant"),
        steps=steps,
        key=jax.random.key(7),
        carry=jnp.zeros(()),
        evaluation=[batch for batch, _ in zip(batches, range(2), strict=False)],
        eval_every=4,
        on_eval=lambda step, model, figures: time.sleep(pause) or f"after {step}",
        run=run,
        checkpoints=Checkpoints(folder=run.path("checkpoints"), every=every, resume=again),
    )
    run.finish(metrics={}, steps=result.steps, seconds=result.seconds, parameters=6)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(result.state):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes())
    for file in ("metrics.jsonl", "samples.txt"):
        digest.update(run.path(file).read_bytes())
    print("finished", result.steps, digest.hexdigest(), flush=True)


if __name__ == "__main__":
    sys.exit(cli(main))
