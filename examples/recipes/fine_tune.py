"""How do I go on training a saved model on other data?

Load it and call `fit` again: the optimiser's state starts anew. Here a model that has read a page about a harbour
reads three lines about a lake, and then knows a fourth one better than a model that has read these lines alone.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.pipeline import evaluation_batches, pipeline
from data.windows import Windows
from training import Evaluation, FitResult, adamw, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig, load, save

HARBOUR = """the boats come home in the evening. the nets are full and the men are tired. the gulls cry over the pier.
the smell of the salt is in the air. the lights of the harbour are on and the water is black. the old men sit on the
pier and tell of the storms of the past. in the morning the boats go out to the sea and the women wait at the harbour.
"""
LAKE = """the lake is still in the morning. the trees stand in the water. a bird cries over the lake.
the men go out in the boats and the air is cold. in the evening the lights of the village are on the water.
"""
HELD_OUT = "the birds sit in the trees at the lake and the water is still."
LETTERS = sorted(set(HARBOUR + LAKE + HELD_OUT))
OPTIMISER = adamw(5e-3, total_steps=80, schedule="constant")


def windows(text: str, stride: int) -> Windows:
    return Windows(np.array([LETTERS.index(letter) for letter in text]), 24, stride)


def train(model: TransformerLM, text: str, steps: int) -> FitResult:
    evaluation = Evaluation(evaluation_batches(windows(HELD_OUT, 24), 4), every=steps)
    batches, key = pipeline(windows(text, 1), 16, seed=0), jax.random.key(1)
    return fit(
        model, batches, next_token_loss, OPTIMISER, steps=steps, key=key, evaluation=evaluation, log_every=steps
    )


def main() -> dict[str, Any]:
    config = TransformerLMConfig(
        vocab_size=len(LETTERS), embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=24
    )
    fresh = TransformerLM(config, key=jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "harbour.safetensors")
        save(file, train(fresh, HARBOUR, 80).model, extra={"letters": LETTERS})
        tuned = train(load(file), LAKE, 20)
    scratch = train(fresh, LAKE, 20)
    print(f"loss on the held-out line: {tuned.best_value:.2f} fine-tuned, {scratch.best_value:.2f} from scratch")
    return {"fine_tuned": tuned.best_value, "from_scratch": scratch.best_value}


if __name__ == "__main__":
    main()
