"""How do I see what a model attends to?

`EncoderDecoder.cross_attention_weights` has a matrix for each layer and head: how much each target token attends to
each source token. A model that has learned to reverse reads its source from the end to the beginning.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from training import SequenceToSequenceLoss, adamw, fit
from zoo import EncoderDecoder, EncoderDecoderConfig

LENGTH, START, STEPS = 5, 0, 200


def batch(seed: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed).integers(1, 10, (32, LENGTH))
    targets = source[:, ::-1]
    return {
        "source": source, "source_length": np.full(32, LENGTH),
        "inputs": np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=START), "targets": targets,
        "weights": np.ones((32, LENGTH), np.float32),
    }  # fmt: skip


def main(picture: str | Path | None = None) -> dict[str, Any]:
    config = EncoderDecoderConfig(
        vocab_size=10, embed_size=32, num_heads=2, mlp_size=64, max_length=LENGTH, dropout_p=0.0
    )
    model = EncoderDecoder(config, key=jax.random.key(0))
    optimiser, loss = adamw(5e-3, total_steps=STEPS), SequenceToSequenceLoss()
    result = fit(
        model, map(batch, range(STEPS)), loss, optimiser, steps=STEPS, key=jax.random.key(1), log_every=STEPS
    )

    one = {name: jnp.asarray(column[0]) for name, column in batch(STEPS).items()}
    weights = result.model.cross_attention_weights(one["source"], one["inputs"])[-1].mean(axis=0)  # over the heads
    figure = Figure()
    axes = figure.subplots()
    image = axes.imshow(np.asarray(weights), vmin=0, vmax=1)
    axes.set(xlabel="source token", ylabel="target token", title="Attention of the last layer")
    axes.set_xticks(range(LENGTH), one["source"].tolist())
    axes.set_yticks(range(LENGTH), one["targets"].tolist())
    figure.colorbar(image, label="weight")
    path = Path(tempfile.gettempdir(), "attention.png") if picture is None else picture
    figure.savefig(path)
    attended = jnp.argmax(weights, axis=1).tolist()
    print(f"target tokens 0 to {LENGTH - 1} look most at source tokens {attended}: {path}")
    return {"attended": attended, "accuracy": result.history[-1]["accuracy"]}


if __name__ == "__main__":
    main()
