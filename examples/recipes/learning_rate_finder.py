"""How do I find a good learning rate?

By a range test (Smith, 2015, arXiv:1506.01186): the rate rises exponentially in one short run, and the best one is a
little below that at which the loss stops falling. Then an ensemble trains with several rates at once, to check it.
"""

from contextlib import suppress
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data.pipeline import pipeline
from data.synthetic import SequenceTask
from training import NonFiniteError, adamw, fit, init_state, next_token_loss
from zoo import TransformerLM, TransformerLMConfig

STEPS = 60


def range_test(model: Any, batches: Any) -> float:
    """A third of the rate at which the smoothed loss is lowest."""
    rates = jnp.geomspace(1e-5, 10.0, STEPS)
    losses: list[float] = []
    with suppress(NonFiniteError):  # as good as any other end: the rate was too high
        fit(
            model, batches, next_token_loss, optax.adam(lambda count: rates[count]), steps=STEPS, log_every=STEPS,
            key=jax.random.key(1), log=lambda step, figures: losses.append(figures["loss"]),
        )  # fmt: skip
    smoothed = np.convolve(losses, np.ones(5) / 5, mode="valid")
    return float(rates[np.nanargmin(smoothed) + 2]) / 3


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    batches = pipeline(SequenceTask("copy", length=3, max_value=9), 32, seed=None)
    found = range_test(TransformerLM(config, key=jax.random.key(0)), batches)
    print(f"suggested: {found:.1e}")

    rates = np.array([found / 30, found, found * 30], np.float32)
    keys = jnp.broadcast_to(jax.random.key(0), (3,))  # the same start for all: nothing differs but the rate
    models = eqx.filter_vmap(lambda key: TransformerLM(config, key=key))(keys)
    optimiser = adamw(1e-3, total_steps=STEPS, schedule="constant")
    state = init_state(models, optimiser, ensemble_size=3, learning_rates=rates, key=jax.random.key(1))
    losses = fit(state, batches, next_token_loss, optimiser, steps=STEPS, log_every=STEPS).history[-1]["loss"]
    for rate, loss in zip(rates, losses, strict=True):
        print(f"learning rate {rate:.1e}: loss {loss:.3f} after {STEPS} steps")
    return {"found": found, "losses": losses}


if __name__ == "__main__":
    main()
