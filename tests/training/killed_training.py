"""A tiny training with all that `fit` can do, as a process to be killed: `killed_training.py OUT [--resume]`.

It ends with the sha256 of everything that has to be the same after any number of kills.
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import training.reporting.run
from data.buckets import Buckets
from data.pipeline import pipeline, prebatched
from data.ragged import Ragged
from data.windows import Streams, Windows
from training import (
    Checkpoints,
    Evaluation,
    Run,
    SequenceToSequenceLoss,
    Sums,
    adamw,
    classification_loss,
    cli,
    fit,
    init_state,
    next_token_loss,
    stream_carry,
    stream_loss,
)
from zoo import (
    CharRNN,
    CharRNNConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    TextConvNet,
    TextConvNetConfig,
    TransformerClassifier,
    TransformerClassifierConfig,
    TransformerLM,
    TransformerLMConfig,
)

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
    error = model["w"][None] * (batch["x"] + noise) + model["b"][None] + 1e-3 * carry - batch["y"]
    return Sums.of(jnp.sum(error**2), float(error.size)), carry + 1


def tokens(*shape):
    return np.random.default_rng(0).integers(0, 9, shape).astype(np.int32)


def model_loop(name: str, seed: int) -> dict[str, Any]:
    """A tiny model of the zoo, its batches, loss and carry, as its example trains it."""

    def make(model: Any, config: Any) -> Any:
        return eqx.filter_jit(model)(config, key=jax.random.key(seed))

    if name == "char_rnn":
        model = make(CharRNN, CharRNNConfig(vocab_size=9, hidden_size=8, num_layers=2, cell="lstm", dropout_p=0.2))
        carry = stream_carry(model, 3)
        return {"model": model, "batches": prebatched(Streams(tokens(100), 3, 7)), "loss": stream_loss,
                "carry": carry}  # fmt: skip
    if name == "transformer_lm":
        model = make(
            TransformerLM,
            TransformerLMConfig(
                vocab_size=9, embed_size=8, num_layers=2, num_heads=2, mlp_size=16, max_length=8, dropout_p=0.2
            ),
        )
        return {"model": model, "batches": pipeline(Windows(tokens(60), 8), 4, seed=seed), "loss": next_token_loss}
    if name == "encoder_decoder":
        model = make(
            EncoderDecoder,
            EncoderDecoderConfig(
                vocab_size=9, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=8, dropout_p=0.2
            ),
        )
        pair = {"source": tokens(3, 6), "source_length": np.array([6, 2, 4]), "inputs": tokens(3, 5),
                "targets": tokens(3, 5), "weights": np.ones((3, 5), np.float32)}  # fmt: skip
        return {"model": model, "batches": [pair] * 40, "loss": SequenceToSequenceLoss(label_smoothing=0.1)}
    rows = Ragged.of([tokens(n) for n in range(2, 9)] * 4)
    source = Buckets(
        {"tokens": rows}, {"labels": np.arange(28) % 2}, batch_size=4, bucket_boundaries={"tokens": (8,)}, seed=seed
    )
    if name == "text_convnet":
        model = make(
            TextConvNet, TextConvNetConfig(vocab_size=9, num_classes=2, embed_size=4, num_filters=4, hidden_size=4)
        )
    else:
        model = make(
            TransformerClassifier,
            TransformerClassifierConfig(vocab_size=9, num_classes=2, embed_size=8, max_length=8, token_dropout_p=0.2),
        )
    return {"model": model, "batches": prebatched(source), "loss": classification_loss}


def linear_loop(seed: int) -> dict[str, Any]:
    """The smallest there is: it starts in no time, so that it can be killed often."""
    model, carry = {"w": jnp.zeros(3), "b": jnp.zeros(3)}, jnp.zeros(())
    return {"model": model, "batches": pipeline(Items(), 5, seed=seed), "loss": loss, "carry": carry}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    out: Path = Path("run")
    resume: bool = False
    pause: float = 0.0
    """Seconds that each evaluation takes longer."""
    hold: Path | None = None
    """A file; while it is there, an evaluation does not end."""
    every: int = 3
    steps: int = STEPS
    seed: int = 0
    model: str = "linear"
    curves: bool = False


def wait(seconds: float, hold: Path | None) -> None:
    time.sleep(seconds)
    while hold is not None and hold.exists():
        time.sleep(0.01)


def main(arguments: Arguments):
    """Train."""
    out, resume, pause, hold, every, steps, seed, model, curves = dataclasses.astuple(arguments)
    if not curves:  # they take as long as all the rest
        training.reporting.run.draw_curves = lambda history, path, title: None
    again = resume and any((out / "checkpoints").glob("step_*"))
    run = Run("killed", None if again else out, resume=out if again else None)
    loop = linear_loop(seed) if model == "linear" else model_loop(model, seed)
    optimiser = adamw(0.1, total_steps=steps, schedule="constant")
    result = fit(
        init_state(loop["model"], optimiser, key=jax.random.key(7), carry=loop.get("carry")),
        loop["batches"],
        loop["loss"],
        optimiser,
        steps=steps,
        evaluation=Evaluation(
            [batch for batch, _ in zip(loop["batches"], range(2), strict=False)],
            every=4,
            on_eval=lambda step, model, figures: wait(pause, hold) or f"after {step}",
            on_best=lambda best: np.save(run.path("best.npy"), jax.tree.leaves(eqx.filter(best, eqx.is_array))[0]),
        ),
        run=run,
        checkpoints=Checkpoints(folder=run.path("checkpoints"), every=every, resume=again),
    )
    run.finish(result, {})
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(result.state, eqx.is_array)):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes())
    for file in ("metrics.jsonl", "samples.txt"):
        digest.update(run.path(file).read_bytes())
    print("finished", result.steps, digest.hexdigest(), flush=True)


if __name__ == "__main__":
    sys.exit(cli(main))
