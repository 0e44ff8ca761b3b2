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
from training import Checkpoints, Evaluation, Run, TrainState, adamw, fit, init_state, next_token_loss

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


# One for all, so that a step is compiled once.
optimiser = adamw(3e-2, total_steps=30, schedule="constant", clip_norm=1.0)


@pytest.fixture
def train(tiny, make_batches, monkeypatch):
    """A function that trains for three epochs of fourteen items into a folder, or resumes in it.

    No curves are drawn, which took longer than the training: test_run.py has them.
    """
    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    source = [
        {name: array[i] for name, array in items.items()} for items in make_batches(2, rows=7) for i in range(7)
    ]
    validation = make_batches(2, seed=1)
    misleading = [{**batch, "targets": (batch["inputs"] + 3) % 11} for batch in validation]

    def train(
        folder,
        *,
        resume=False,
        model=None,
        key=jax.random.key(1),  # noqa: B008
        batches=None,
        steps=None,
        checkpoints=None,
        evaluate_on=None,
        every=4,
        patience=2,
        **ensemble,
    ):
        run = Run("test", None if resume else folder, resume=folder if resume else None)
        saving = {"folder": folder / "checkpoints", "every": 1, "keep": None}
        if model is None:
            model = tiny(key=jax.random.key(0), dropout_p=0.2)
        if not isinstance(model, TrainState):
            model = init_state(model, optimiser, key=key, carry=jnp.zeros(()), **ensemble)
        result = fit(
            model,
            pipeline(source, 3, seed=5, epochs=3) if batches is None else batches,
            noisy,
            optimiser,
            steps=steps,
            evaluation=Evaluation(
                evaluate_on or (validation if patience is None else misleading),
                every=every,
                patience=patience,
                on_eval=lambda step, model, figures: f"after {step}: {figures['loss']}",
            ),
            checkpoints=Checkpoints(**{**saving, "resume": resume, **(checkpoints or {})}),
            run=run,
        )
        run.finish(result, {})
        return result

    return train
