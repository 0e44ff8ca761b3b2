"""Train a character RNN on Kafka's Metamorphosis, or any text file, and let it write.

python examples/char_rnn.py --cell lstm
python examples/char_rnn.py --write "Gregor" --temperature 0.8 --length 500
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
from data.pipeline import prebatched
from data.windows import Streams
from examples.char_rnn_presets import ABCD, NOTES, Preset, preset_of
from examples.fine_tuning import FineTuning, model_in
from examples.kneser_ney import KneserNey
from examples.pictures import draw_next_characters
from examples.text_corpus import TextCorpus
from training import (
    Evaluation,
    adamw,
    bits,
    cli,
    data_fingerprint,
    evaluate,
    fit,
    newest_file,
    stream_carry,
    stream_loss,
)
from training.launch.options import check_needed, check_numbers
from training.reporting.run import may_fail
from zoo import CharRNN
from zoo.text import CharacterTokenizer, Writer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FineTuning):
    """Train on a text, or write with a saved model."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "steps"),
        "model": ("cell",),
        "data": ("text", "data_dir"),
        "write with a saved model": ("write", "checkpoint", "temperature", "length"),
    }
    HELP_NOTES: ClassVar = NOTES

    preset: Literal["best", "seed", "kafka", "abcd"] = "best"
    """Our best, the tutorial to the letter (see --help-all), its model
    trained faster (kafka), or its repeated "abcd..."."""
    cell: Literal["rnn", "gru", "lstm"] | None = None
    """The recurrent cell; by default the preset's."""
    text: str = "metamorphosis"
    """A UTF-8 text file, or the name of a known text (downloaded once)."""
    data_dir: Path | None = None
    """A folder with the data already; also ZOO_DATA_DIR."""
    steps: int | None = None
    """Training steps; by default the preset's."""
    write: str | None = None
    """Write on from this text with a saved model instead of training one."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""
    temperature: float = 0.8
    """0 always takes the likeliest character."""
    length: int = 500
    """Characters to write."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, math.inf, "steps")
        check_numbers(self, 0, math.inf, "length", "temperature")
        check_needed(self, ("write",), "checkpoint", "temperature", "length")
        if self.preset == "abcd" and self.text != "metamorphosis":
            raise ValueError("give either --preset abcd, which has its own text, or --text")
        if self.cell is not None and self.init_from is not None:
            raise ValueError("give either --cell or --init-from, whose model has its own")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a character RNN on a text, or let a saved one write."""
    return train(arguments) if arguments.write is None else write(arguments, arguments.write)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on all but the last tenth of the text, which measures the model, and saves the best one."""
    preset = preset_of(arguments.preset, arguments.cell)
    arguments.check_rows(preset.num_streams)
    arguments.check_out("char_rnn")
    sharding = arguments.make_sharding()
    shard = sharding.shard
    base = arguments.base(CharRNN)
    steps = arguments.steps or (10 if arguments.smoke else preset.steps)
    made_by = "characters" if base is None else base.tokenizer
    if arguments.preset == "abcd":
        corpus = TextCorpus.of(ABCD, made_by)
    else:
        most = 20_000 if arguments.smoke else None
        corpus = TextCorpus.load(arguments.text, arguments.data_dir, made_by, most=most)
    tokenizer: Any = corpus.tokenizer
    chunks = Streams(corpus.train, preset.num_streams, preset.chunk, part_length=preset.part_length, shard=shard)
    # Three streams of held-out text, or one for each device: each starts without context, which costs a little.
    streams = 3 if sharding.num_devices == 1 else sharding.num_devices
    held_out = prebatched(Streams(corpus.held_out, streams, 512, shard=shard), epochs=1)

    model_key, fit_key, write_key = jax.random.split(jax.random.key(arguments.seed), 3)
    config = dataclasses.replace(preset.model, vocab_size=tokenizer.vocab_size)
    if base is None:
        model = eqx.filter_jit(CharRNN)(config, key=model_key)
    else:
        model = arguments.tuned(base.model, key=model_key)
    options = preset.optimiser | {"warmup_steps": min(preset.optimiser.get("warmup_steps", 0), steps // 10)}
    optimiser = adamw(arguments.rate(preset.learning_rate), total_steps=steps, **options)
    carry, held_out_carry = stream_carry(model, preset.num_streams), stream_carry(model, streams)
    state = arguments.init_state(model, optimiser, key=fit_key, carry=carry, sharding=sharding)
    run = arguments.make_run("char_rnn")
    print(zoo.summary(model))
    print(
        f"{len(corpus.train):,} characters to learn from, {len(corpus.held_out):,} held out, "
        f"{preset.num_streams} streams in chunks of {preset.chunk} -> {run.folder}"
    )
    prompt = preset.prompt if set(preset.prompt) <= set(tokenizer.alphabet) else corpus.beginning[:6]

    def save(model: Any) -> None:
        writer = Writer(model=arguments.merged(model, run), tokenizer=tokenizer, temperature=0.8)
        writer.save(run.path("model.safetensors"))

    def written(model: CharRNN, length: int) -> str:
        writer, lines = Writer(model=model, tokenizer=tokenizer), []
        for name, temperature in (("greedy", 0.0), ("0.8", 0.8)):
            text = prompt + writer(prompt, max_new_tokens=length, temperature=temperature, key=write_key)
            lines.append(f"  {name:>6} | " + text.replace("\n", "\n         | "))
        return "\n".join(lines)

    def show(step: int, model: CharRNN, metrics: dict[str, Any]) -> str:
        return f"  {bits(metrics['loss']):.3f} bits per character\n{written(model, 100)}"

    contents = data_fingerprint([corpus.train, corpus.held_out])
    result = fit(
        state,
        prebatched(chunks),
        stream_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(held_out, carry=held_out_carry, on_eval=show, on_best=save),
        **arguments.fit_options(run, sharding, schedule=options.get("schedule", "cosine"), contents=contents),
    )
    save(result.model)
    figures = evaluate(result.model, held_out, stream_loss, carry=held_out_carry, sharding=sharding)
    metrics = {
        "validation_loss": figures["loss"],
        "bits_per_character": bits(figures["loss"]),
        "training_loss": _last_training_loss(result.history, preset),
        "characters_seen": int(sum(record["weight"] for record in result.history if "loss" in record)),
    }
    if arguments.preset == "abcd":
        metrics["exact_characters"] = _exact_characters(result.model, tokenizer, 500)
    else:
        with may_fail("no n-grams to compare with"):
            seen = corpus.train[-10_000_000:]  # of a large text: all n-grams must fit into memory
            ngrams = KneserNey(seen, tokenizer.vocab_size, order=6)
            metrics["kneser_ney_bits_per_character"] = ngrams.bits(corpus.held_out, seen)
    with may_fail("next_characters.png could not be drawn"):
        draw_next_characters(
            run.path("next_characters.png"), result.model, tokenizer, tokenizer.decode(corpus.held_out[:60])
        )
    run.sample(result.steps, sample := written(result.model, 100 if arguments.smoke else 500))
    print(sample)
    seconds = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)["seconds"]["total"]
    for name, value in metrics.items():
        print(f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value:.4f}")
    words = shlex.join(["--write", prompt, "--checkpoint", str(run.path("model.safetensors"))])
    print(f"{seconds:.0f} s in all; let it write: python examples/char_rnn.py {words}")
    return metrics


def write(arguments: Arguments, prompt: str) -> dict[str, Any]:
    """Prints a prompt and what a saved model makes of it, character by character."""
    checkpoint = model_in(arguments.checkpoint or newest_file("char_rnn", "model.safetensors"))
    writer = zoo.text.load(checkpoint)
    if not isinstance(writer, Writer):
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    how: Any = {"temperature": arguments.temperature, "key": jax.random.key(arguments.seed)}
    pieces = writer.stream(prompt, max_new_tokens=arguments.length, **how)
    written = [prompt]
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
        written.append(piece)
    print()
    return {"text": "".join(written)}


def _last_training_loss(history: list[dict[str, Any]], preset: Preset) -> float:
    """Mean loss, in nats, of the last 119,000 characters that were trained on, each before its update."""
    count = math.ceil(119_000 / (preset.num_streams * preset.chunk))
    steps = [record for record in history if "loss" in record][-count:]
    return sum(r["loss"] * r["weight"] for r in steps) / sum(r["weight"] for r in steps)


def _exact_characters(model: CharRNN, tokenizer: CharacterTokenizer, length: int) -> int:
    """How many greedy characters after "abcd" continue the pattern."""
    given = Writer(model=model, tokenizer=tokenizer)("abcd", max_new_tokens=length)
    right = ("..." + ABCD)[:length]
    return next((i for i, pair in enumerate(zip(given, right, strict=True)) if pair[0] != pair[1]), length)


if __name__ == "__main__":
    cli(main)
