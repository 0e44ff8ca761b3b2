"""How do I log every step to TensorBoard or Weights & Biases?

`fit` calls `log(step, figures)` after every step and evaluation. Neither tracker comes with this package: the first
one that is installed is used, and the figures are printed where none is.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax

from data.pipeline import evaluation_batches, pipeline
from data.synthetic import SequenceTask
from training import Evaluation, adamw, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig


def open_tracker(folder: str) -> tuple[str, Callable[[int, str, Any], object], Callable[[], object]]:
    """Its name, what logs one figure of a step, and what closes it."""
    if find_spec("wandb"):
        import wandb  # pyright: ignore[reportMissingImports]

        run = wandb.init(project="pytree-zoo", dir=folder, mode="offline")  # "online" where you are logged in
        return "Weights & Biases", lambda step, name, value: run.log({name: value}, step=step), run.finish
    if find_spec("tensorboardX"):  # torch.utils.tensorboard has the same SummaryWriter
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        writer = SummaryWriter(folder)
        return "TensorBoard", lambda step, name, value: writer.add_scalar(name, value, step), writer.close
    return "no tracker, they were printed", lambda step, name, value: print(f"{step} {name} {value}"), lambda: None


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    lm, optimiser = TransformerLM(config, key=jax.random.key(0)), adamw(1e-2, total_steps=4)
    batches = pipeline(SequenceTask("copy", length=3, max_value=9), 32, seed=None)
    held_out = SequenceTask("copy", length=3, max_value=9, part="validation", size=64)
    evaluation = Evaluation(evaluation_batches(held_out, 64), every=2)
    logged: list[tuple[int, str]] = []

    def log(step: int, figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            log_one(step, name, value)
            logged.append((step, name))

    with tempfile.TemporaryDirectory() as folder:  # take one of yours, to look at it afterwards
        tracker, log_one, close = open_tracker(folder)
        fit(lm, batches, next_token_loss, optimiser, steps=4, key=jax.random.key(1), evaluation=evaluation, log=log)
        close()
    print(f"{len(logged)} figures went to: {tracker}")
    return {"tracker": tracker, "logged": logged}


if __name__ == "__main__":
    main()
