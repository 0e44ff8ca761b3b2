"""A tiny model with everything that `training` must cope with: dropout, a frozen table, integers, a function."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from data.pipeline import pipeline
from training import Checkpoints, Run, adamw, fit, next_token_loss

VOCAB = 11
LENGTH = 5


class Tiny(eqx.Module):
    table: Float[Array, "vocab embed"]
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    shift: Int[Array, ""]  # an array that can't be trained

    def __init__(self, *, key: PRNGKeyArray, dropout_p: float = 0.0):
        table, mlp = jax.random.split(key)
        self.table = jax.random.normal(table, (VOCAB, 6))
        self.mlp = eqx.nn.MLP(6, VOCAB, 7, 1, key=mlp)
        self.dropout = eqx.nn.Dropout(dropout_p)
        self.shift = jnp.asarray(np.int32(3))

    def __call__(self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None) -> Float[Array, "seq vocab"]:
        return jax.vmap(self.mlp)(self.dropout(self.table[tokens], key=key))


@pytest.fixture
def tiny():
    """The class, so that tests can make as many as they need."""
    return Tiny


@pytest.fixture
def make_batches():
    """A function that makes n batches to learn `target = input + 1` from, some targets without weight."""

    def make(n: int, *, seed: int = 0, rows: int = 4):
        draws = np.random.default_rng(seed)
        batches = []
        for _ in range(n):
            inputs = draws.integers(0, VOCAB, (rows, LENGTH), np.int32)
            weights = draws.integers(0, 2, (rows, LENGTH)).astype(np.float32)
            weights[:, 0] = 1
            batches.append({"inputs": inputs, "targets": (inputs + 1) % VOCAB, "weights": weights})
        return batches

    return make


def noisy(model, batch, carry, key):
    """The loss of the tiny model, with a carry that counts and has a part in it."""
    sums, _ = next_token_loss(model, batch, None, key)
    return dataclasses.replace(sums, loss=sums.loss * (1 + 0.01 * carry)), carry + 1


optimiser = adamw(3e-2, total_steps=30, schedule="constant")  # one for all, so that a step is compiled once


@pytest.fixture
def train(tiny, make_batches):
    """A function that trains for three epochs of fourteen items into a folder, or goes on in it."""
    source = [
        {name: array[i] for name, array in items.items()} for items in make_batches(2, rows=7) for i in range(7)
    ]
    validation = make_batches(2, seed=1)
    misleading = [{**batch, "targets": (batch["inputs"] + 3) % 11} for batch in validation]

    def train(folder, *, resume=False, model=None, batches=None, **changed):
        run = Run("test", None if resume else folder, resume=folder if resume else None)
        arguments = {
            "steps": None,
            "key": jax.random.key(1),
            "carry": jnp.zeros(()),
            "evaluation": validation if changed.get("patience", 2) is None else misleading,
            "eval_every": 4,
            "patience": 2,
            "on_eval": lambda step, model, figures: f"after {step}: {figures['loss']}",
            **changed,
        }
        checkpoints = changed.pop("checkpoints", {})
        arguments["checkpoints"] = Checkpoints(
            **{"folder": folder / "checkpoints", "every": 1, "keep": None, "resume": resume, **checkpoints}
        )
        result = fit(
            tiny(key=jax.random.key(0), dropout_p=0.2) if model is None else model,
            pipeline(source, 3, seed=5, epochs=3) if batches is None else batches,
            noisy,
            optimiser,
            run=run,
            **arguments,
        )
        run.finish(metrics={}, steps=result.steps, seconds=result.seconds, parameters=0)
        return result

    return train
