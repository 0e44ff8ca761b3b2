"""How do I train with a loss of my own?

A loss maps (model, batch, carry, key) to sums over the batch, whose ratio `fit` differentiates, and the carry. This
one adds PaLM's z-loss (Chowdhery et al., 2022, section 5), which keeps log-partition functions near 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import pipeline
from data.synthetic import SequenceTask
from training import Loss, Sums, adamw, fit, next_token_loss, softmax_cross_entropy
from zoo import TransformerLM, TransformerLMConfig


def log_partition(logits: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits, axis=-1)


def with_z_loss(model: Any, batch: Any, carry: Any, key: Any) -> tuple[Sums, Any]:
    # The model takes one example, `vmap` a batch. It has no dropout, so it needs no key.
    logits = jax.vmap(model)(jnp.asarray(batch["inputs"]))
    sums = softmax_cross_entropy(logits, batch["targets"], batch["weights"])
    z_loss = jnp.sum(batch["weights"] * log_partition(logits) ** 2)
    # Sums, not means: `fit` adds them over micro-batches and devices before it divides once.
    return Sums.of(sums.loss + 0.01 * z_loss, sums.weight, sums.correct), carry


def main() -> dict[str, Any]:
    task, steps = SequenceTask("copy", length=3, max_value=9), 200
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    lm = TransformerLM(config, key=jax.random.key(0))

    def train(loss: Loss) -> tuple[float, float]:
        batches, optimiser = pipeline(task, 32, seed=None), adamw(1e-2, total_steps=steps)
        result = fit(lm, batches, loss, optimiser, steps=steps, key=jax.random.key(1), log_every=steps)
        inputs = jnp.asarray(np.stack([task[i]["inputs"] for i in range(64)]))
        size = jnp.abs(log_partition(jax.vmap(result.model)(inputs))[:, 4:]).mean()  # of the answers
        return float(size), result.history[-1]["accuracy"]

    (plain, plain_accuracy), (small, accuracy) = train(next_token_loss), train(with_z_loss)
    print(f"mean |log Z|: {plain:.2f} by cross-entropy alone (accuracy {plain_accuracy:.1%})")
    print(f"              {small:.2f} with the z-loss        (accuracy {accuracy:.1%})")
    return {"log_z": (plain, small), "accuracy": (plain_accuracy, accuracy)}


if __name__ == "__main__":
    main()
