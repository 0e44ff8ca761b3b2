"""Train a character language model on tiny Shakespeare, or any text file, and let it write.

python examples/shakespeare.py
python examples/shakespeare.py --write "ROMEO:" --temperature 0.8 --checkpoint runs/shakespeare/1/model.safetensors
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax

import zoo
import zoo.text
from data.pipeline import evaluation_batches, pipeline
from data.text import load_text, split_tail
from data.windows import Windows
from examples.pictures import draw_looks
from training import (
    Evaluation,
    Options,
    Precision,
    adamw,
    cli,
    data_fingerprint,
    evaluate,
    fit,
    may_fail,
    newest_file,
    next_token_loss,
)
from training.launch.options import check_numbers
from zoo import TransformerLM, TransformerLMConfig
from zoo.text import CharacterTokenizer, Writer


@dataclasses.dataclass(frozen=True)
class Size:
    """What both presets of a size have in common: nanoGPT's two configurations."""

    num_layers: int
    num_heads: int
    embed_size: int
    context: int
    batch_size: int
    steps: int
    dropout_p: float
    precision: Precision


SIZES = {
    "cpu": Size(4, 4, 128, 64, 12, 2000, 0.0, "float32"),
    "gpu": Size(6, 6, 384, 256, 64, 5000, 0.2, "bfloat16"),
}
EVALUATED = 128  # rows of the held-out text at a time
# nanoGPT's CPU model on tiny Shakespeare: learned positions, exact gelu, no biases, tied head, weights of 0.02.
NANOGPT = TransformerLMConfig(
    vocab_size=65, embed_size=128, num_layers=4, num_heads=4, mlp_size=512, max_length=64, position_init="normal",
    activation="gelu", norm_epsilon=1e-5, use_bias=False, use_head_bias=False, tie_embeddings=True, weight_std=0.02,
)  # fmt: skip
# Llama's parts at the same width: as many numbers in the three matrices of a gated layer as in two of nanoGPT's.
BEST = TransformerLMConfig(
    vocab_size=65, embed_size=128, num_layers=4, num_heads=4, mlp_size=344, max_length=64, positions="rotary",
    norm="rms", activation="silu", gated=True, use_bias=False, use_head_bias=False,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Train on a text, or write with a saved model."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "steps"),
        "model": ("size",),
        "data": ("text", "data_dir"),
        "write with a saved model": ("write", "checkpoint", "temperature", "top_p", "max_new_tokens"),
    }

    text: str = "tinyshakespeare"
    """A UTF-8 text file, or the name of a known text (downloaded once)."""
    data_dir: Path | None = None
    """A folder that holds the data already, instead of a download; also ZOO_DATA_DIR."""
    size: Literal["cpu", "gpu"] = "cpu"
    """4 layers of width 128 for a CPU, or 6 layers of width 384 for a GPU."""
    preset: Literal["best", "nanogpt"] = "best"
    """Our model and schedule, or nanoGPT's."""
    steps: int | None = None
    """Training steps; by default those of the size."""
    write: str | None = None
    """Write on from this text with a saved model instead of training one."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""
    temperature: float = 0.8
    """0 always takes the likeliest character."""
    top_p: float = 1.0
    """Write with the likeliest characters of so much probability alone."""
    max_new_tokens: int = 500
    """Characters to write."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, math.inf, "steps")
        check_numbers(self, 0, math.inf, "max_new_tokens", "temperature")
        check_numbers(self, 0, 1, "top_p")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a character language model on a text, or let a saved one write."""
    return train(arguments) if arguments.write is None else write(arguments, arguments.write)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on all but the last tenth of the text, which measures the model, and saves the best one."""
    size = SIZES[arguments.size]
    arguments.check_rows(size.batch_size, EVALUATED)
    sharding = arguments.make_sharding()
    shard = sharding.shard
    steps = arguments.steps or (10 if arguments.smoke else size.steps)
    text = load_text(arguments.text, arguments.data_dir)
    text = text[:20_000] if arguments.smoke else text
    tokenizer = CharacterTokenizer.from_text(text)
    train_ids, held_out_ids = split_tail(tokenizer.encode(text))
    held_out = evaluation_batches(Windows(held_out_ids, size.context, stride=size.context), EVALUATED, shard=shard)

    model_key, fit_key, write_key = jax.random.split(jax.random.key(arguments.seed), 3)
    model = eqx.filter_jit(make_model)(arguments, tokenizer.vocab_size, model_key)
    run = arguments.make_run("shakespeare")
    print(zoo.summary(model))
    print(f"{len(train_ids):,} characters to learn from, {len(held_out_ids):,} held out -> {run.folder}")

    def show(step: int, model: TransformerLM, metrics: dict[str, Any]) -> str:
        writer = Writer(model=model, tokenizer=tokenizer, temperature=0.8)
        return "  | " + writer(text[:1], max_new_tokens=size.context - 1, key=write_key).replace("\n", "\n  | ")

    result = fit(
        model,
        pipeline(Windows(train_ids, size.context), size.batch_size, seed=arguments.seed, shard=shard),
        next_token_loss,
        make_optimiser(arguments, steps),
        steps=steps,
        key=fit_key,
        evaluation=Evaluation(held_out, every=max(steps // 8, 1), on_eval=show),
        **arguments.fit_options(run, sharding, precision=size.precision, contents=data_fingerprint(text)),
    )
    Writer(model=result.model, tokenizer=tokenizer, temperature=0.8).save(run.path("model.safetensors"))
    with may_fail("attention.png could not be drawn"):
        draw_looks(run.path("attention.png"), result.model, tokenizer, text[-len(held_out_ids) :])
    # In float32, whatever it was trained in.
    figures = evaluate(result.model, held_out, next_token_loss, sharding=sharding)
    metrics = {"validation_loss": figures["loss"], "accuracy": figures["accuracy"], "best_step": result.best_step}
    seconds = run.finish(result, metrics)["seconds"]["total"]
    print(
        f"validation loss {figures['loss']:.4f} nats per character on {int(figures['weight']):,} held-out characters "
        f"after {seconds:.0f} s\nlet it write: python examples/shakespeare.py --write {text[:5]!r} "
        f"--checkpoint {run.path('model.safetensors')}"
    )
    return metrics


def make_model(arguments: Arguments, vocab_size: int, key: Any) -> TransformerLM:
    size, nanogpt = SIZES[arguments.size], arguments.preset == "nanogpt"
    config = dataclasses.replace(
        NANOGPT if nanogpt else BEST,
        vocab_size=vocab_size,
        embed_size=size.embed_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        mlp_size=4 * size.embed_size if nanogpt else 8 * math.ceil(size.embed_size / 3),
        max_length=size.context,
        dropout_p=size.dropout_p,
    )
    return TransformerLM(config, key=key)


def make_optimiser(arguments: Arguments, steps: int) -> Any:
    nanogpt = arguments.preset == "nanogpt"
    return adamw(
        1e-3 if nanogpt else 3e-3,
        total_steps=steps,
        warmup_steps=min(100, steps // 10),
        final_fraction=0.1 if nanogpt else 0.0,
        weight_decay=0.1,
        clip_norm=1.0,
        b2=0.99,
    )


def write(arguments: Arguments, prompt: str) -> dict[str, Any]:
    """Prints a prompt and what a saved model makes of it, character by character."""
    checkpoint = arguments.checkpoint or newest_file("shakespeare", "model.safetensors")
    writer = zoo.text.load(checkpoint)
    if not isinstance(writer, Writer):
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    pieces = writer.stream(
        prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        key=jax.random.key(arguments.seed),
    )
    written = [prompt]
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
        written.append(piece)
    print()
    return {"text": "".join(written)}


if __name__ == "__main__":
    cli(main)
