"""Train a language model on tiny Shakespeare, by character, or on any text file, and let it write.

python examples/shakespeare.py
python examples/shakespeare.py --write "ROMEO:" --temperature 0.8 --checkpoint runs/shakespeare/1/model.safetensors
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax

import zoo
import zoo.text
from data.pipeline import evaluation_batches, pipeline
from data.windows import Windows
from examples.fine_tuning import FineTuning, model_in
from examples.pictures import draw_looks
from examples.shakespeare_presets import BEST, NANOGPT, SIZES
from examples.text_corpus import TextCorpus, check_tokenizer
from training import (
    Evaluation,
    adamw,
    cli,
    data_fingerprint,
    evaluate,
    fit,
    may_fail,
    newest_file,
    next_token_loss,
)
from training.launch.options import check_needed, check_numbers
from zoo import Gemma, TransformerLM
from zoo.text import Writer

EVALUATED = 128  # rows of the held-out text at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FineTuning):
    """Train on a text, or write with a saved model."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "steps"),
        "model": ("size", "context"),
        "data": ("text", "tokenizer", "data_dir"),
        "write with a saved model": ("write", "checkpoint", "temperature", "top_p", "max_new_tokens"),
    }

    text: str = "tinyshakespeare"
    """A UTF-8 text file, or the name of a known text (downloaded once)."""
    tokenizer: str = "characters"
    """Or bytes, or bpe:8000: so many byte pairs trained on the text."""
    data_dir: Path | None = None
    """A folder with the data already; also ZOO_DATA_DIR."""
    size: Literal["cpu", "gpu"] = "cpu"
    """4 layers of width 128 for a CPU, or 6 layers of width 384 for a GPU."""
    context: int | None = None
    """Tokens seen at once; by default the size's."""
    preset: Literal["best", "nanogpt"] = "best"
    """Our model and schedule, or nanoGPT's."""
    steps: int | None = None
    """Training steps; by default those of the size."""
    write: str | None = None
    """Write on from this text, by a saved model."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""
    temperature: float = 0.8
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    """Write with the likeliest tokens of so much probability alone."""
    max_new_tokens: int = 500
    """Tokens to write."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, math.inf, "context", "steps")
        check_numbers(self, 0, math.inf, "max_new_tokens", "temperature")
        check_numbers(self, 0, 1, "top_p")
        check_tokenizer(self.tokenizer)
        check_needed(self, ("write",), "checkpoint", "temperature", "top_p", "max_new_tokens")
        if self.init_from is not None and self.tokenizer != "characters":
            raise ValueError("give either --tokenizer or --init-from, whose model has its own")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a language model on a text, or let a saved one write."""
    return train(arguments) if arguments.write is None else write(arguments, arguments.write)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on all but the last tenth of the text, which measures the model, and saves the best one."""
    size = SIZES[arguments.size]
    arguments.check_rows(size.batch_size, EVALUATED)
    arguments.check_out("shakespeare")
    sharding = arguments.make_sharding()
    shard = sharding.shard
    base = arguments.base(TransformerLM, Gemma)
    context = arguments.context or size.context
    if base is not None and (most := base.model.max_length) < context:
        if arguments.context is not None:
            raise ValueError(f"--context must be at most {most} with this --init-from; got {context}")
        context = most
    steps = arguments.steps or (10 if arguments.smoke else size.steps)
    corpus = TextCorpus.load(
        arguments.text,
        arguments.data_dir,
        arguments.tokenizer if base is None else base.tokenizer,
        most=20_000 if arguments.smoke else None,
    )
    train_batches = pipeline(Windows(corpus.train, context), size.batch_size, seed=arguments.seed, shard=shard)
    held_out = evaluation_batches(Windows(corpus.held_out, context, stride=context), EVALUATED, shard=shard)

    model_key, fit_key, write_key = jax.random.split(jax.random.key(arguments.seed), 3)
    if base is None:
        model = eqx.filter_jit(make_model)(arguments, corpus.tokenizer.vocab_size, model_key)
    else:
        model = arguments.tuned(base.model, key=model_key)
    optimiser = make_optimiser(arguments, steps)
    state = arguments.init_state(model, optimiser, key=fit_key, sharding=sharding)
    run = arguments.make_run("shakespeare")
    print(zoo.summary(model))
    print(f"{len(corpus.train):,} {corpus.unit}s to learn from, {len(corpus.held_out):,} held out -> {run.folder}")

    def save(model: Any) -> None:
        writer = Writer(model=arguments.merged(model, run), tokenizer=corpus.tokenizer, temperature=0.8)
        writer.save(run.path("model.safetensors"))

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        writer = Writer(model=model, tokenizer=corpus.tokenizer, temperature=0.8)
        written = writer(corpus.beginning[:1], max_new_tokens=min(context, 100) - 1, key=write_key)
        return "  | " + written.replace("\n", "\n  | ")

    contents = data_fingerprint([corpus.train, corpus.held_out])
    result = fit(
        state,
        train_batches,
        next_token_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(held_out, every=-(-steps // 8), on_eval=show, on_best=save),
        **arguments.fit_options(run, sharding, precision=size.precision, contents=contents),
    )
    save(result.model)
    with may_fail("attention.png could not be drawn"):
        shown = corpus.tokenizer.decode(corpus.held_out[:100])
        draw_looks(run.path("attention.png"), arguments.merged(result.model, run), corpus.tokenizer, shown)
    # In float32, whatever it was trained in.
    figures = evaluate(result.model, held_out, next_token_loss, sharding=sharding)
    metrics = {"validation_loss": figures["loss"], "accuracy": figures["accuracy"], "best_step": result.best_step}
    seconds = run.finish(result, metrics)["seconds"]["total"]
    words = shlex.join(["--write", corpus.beginning[:5], "--checkpoint", str(run.path("model.safetensors"))])
    print(
        f"validation loss {figures['loss']:.4f} nats per {corpus.unit} on {int(figures['weight']):,} held-out ones "
        f"after {seconds:.0f} s\nlet it write: python examples/shakespeare.py {words}"
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
        max_length=arguments.context or size.context,
        dropout_p=size.dropout_p,
    )
    return TransformerLM(config, key=key)


def make_optimiser(arguments: Arguments, steps: int) -> Any:
    nanogpt = arguments.preset == "nanogpt"
    return adamw(
        arguments.rate(1e-3 if nanogpt else 3e-3),
        total_steps=steps,
        warmup_steps=min(100, steps // 10),
        final_fraction=0.1 if nanogpt else 0.0,
        weight_decay=0.1,
        clip_norm=1.0,
        b2=0.99,
    )


def write(arguments: Arguments, prompt: str) -> dict[str, Any]:
    """Prints a prompt and what a saved model makes of it, character by character."""
    checkpoint = model_in(arguments.checkpoint or newest_file("shakespeare", "model.safetensors"))
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
