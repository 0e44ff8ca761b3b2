"""How do I go on training a saved model on other data?

Load it and call `fit` again, with an optimiser of its own. Here a model that can copy integers learns to reverse
them, in fewer steps than a new one needs.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax

from data.pipeline import evaluation_batches, pipeline
from data.synthetic import SequenceTask, Task
from training import Evaluation, FitResult, adamw, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig, load, save


def train(model: TransformerLM, task: Task, *, steps: int, learning_rate: float) -> FitResult:
    held_out = evaluation_batches(SequenceTask(task, length=3, max_value=9, part="validation", size=64), 64)
    return fit(
        model,
        pipeline(SequenceTask(task, length=3, max_value=9), 64, seed=None),
        next_token_loss,
        adamw(learning_rate, total_steps=steps),
        steps=steps,
        key=jax.random.key(1),
        evaluation=Evaluation(held_out, every=steps),
        log_every=steps,
    )


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    fresh = TransformerLM(config, key=jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "copies.safetensors")
        save(file, train(fresh, "copy", steps=200, learning_rate=5e-3).model, extra={"task": "copy"})
        saved = load(file)

    tuned = train(saved, "reverse", steps=100, learning_rate=3e-3)
    scratch = train(fresh, "reverse", steps=100, learning_rate=3e-3)
    print(
        f"validation loss after 100 steps: {tuned.best_value:.3f} fine-tuned, {scratch.best_value:.3f} from scratch"
    )
    return {"fine_tuned": tuned.best_value, "from_scratch": scratch.best_value}


if __name__ == "__main__":
    main()
