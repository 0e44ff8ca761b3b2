"""Translate English into Spanish with an encoder-decoder Transformer trained on 83,000 sentence pairs.

python examples/translate.py
python examples/translate.py --translate "Where did you learn to speak Spanish?"
python examples/translate.py --translate - < english.txt > spanish.txt
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import zoo
from data.buckets import Buckets
from data.pipeline import prebatched
from data.ragged import Ragged
from data.spa_eng import Pairs, TranslationBatches, load_pairs, normalise, split_pairs, standardise
from data.text import given_lines, join_lines, split_lines
from data.vocabularies import fetch_vocabulary
from examples.translate_presets import NOTES, PRESETS, SEED_LENGTH
from training import Evaluation, Options, SequenceToSequenceLoss, adamw, cli, evaluate, fit, may_fail, newest_file
from training.launch.options import check_numbers
from training.metrics import bleu_and_chrf
from training.reporting.plots import write_figure
from training.saving.fingerprint import data_fingerprint
from training.state import FitResult
from zoo import EncoderDecoder, beam_search, generate
from zoo.text import BytePairTokenizer, tokenizer_from_json

SHOWN = ("Where is the station?", "I've been waiting for you for two hours.", "She didn't know what to say.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Train a translator, or let a saved one translate."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "epochs"),
        "data": ("pairs", "standardise", "data_dir"),
        "ask a saved model": ("translate", "checkpoint", "beams"),
    }
    HELP_NOTES: ClassVar = NOTES

    preset: str = "best"
    """Our best, or the tutorial to the letter (see --help-all)."""
    pairs: Path | None = None
    """A file of tab-separated pairs, English first; by default the tutorials' own (downloaded once)."""
    data_dir: Path | None = None
    """A folder that holds the data already, instead of a download; also ZOO_DATA_DIR."""
    standardise: bool = False
    """Lower case without punctuation rather than text as people write it; the seed preset does so anyway."""
    epochs: int | None = None
    """Passes over the training pairs; by default the preset's."""
    translate: str | None = None
    """Translate this sentence, each line of this file, or with "-" of the standard input (both UTF-8), with a saved
    model. What names no file, but looks like a path by two of no spaces, a slash and a suffix, is an error."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""
    beams: int = 4
    """Width of the search when translating; 1 is greedy."""

    def __post_init__(self):
        super().__post_init__()
        if self.preset not in PRESETS:
            raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        check_numbers(self, 1, 1_000_000, "epochs")
        check_numbers(self, 1, 1_000, "beams")


@dataclasses.dataclass(frozen=True)
class Translator:
    """A model with its two tokenizers: text in, text out."""

    model: EncoderDecoder
    source: BytePairTokenizer
    target: BytePairTokenizer
    lower: bool

    def __call__(self, sentences: Sequence[str], *, beams: int = 1, batch_size: int = 256) -> list[str]:
        """The translation of each sentence, in order. Beams are ranked by their mean log-probability.

        Raises:
            ValueError: a sentence is empty or too long for the model.
        """
        texts = [standardise(text) if self.lower else normalise(text).strip() for text in sentences]
        rows = [self.source.encode(text) for text in texts]
        most = self.model.max_length
        for text, row in zip(texts, rows, strict=True):
            if not 1 <= len(row) <= most:
                raise ValueError(f"a sentence must have 1 to {most} tokens, got {len(row)} in {text!r}")
        # Few shapes to compile: widths are multiples of 8, rows powers of 2. All of a batch have one width: no
        # sentence's company has a say in how long its translation may be.
        widths = np.array([min(-(-len(row) // 8) * 8, most) for row in rows])
        found: dict[int, str] = {}
        for width in np.unique(widths).tolist():
            chosen = np.flatnonzero(widths == width)
            batches = Buckets(
                {"source": Ragged.of([rows[i] for i in chosen], np.int32)},
                {"sentence": chosen},
                batch_size=1 if len(chosen) == 1 else min(batch_size, max(16, 1 << (len(chosen) - 1).bit_length())),
                bucket_boundaries={"source": (width,)},
                seed=None,
            )
            for i in range(len(batches)):
                batch = batches[i]
                written = self._write(batch["source"], batch["source_length"], min(2 * width + 8, most - 1), beams)
                for sentence, ids in zip(batch["sentence"].tolist(), written, strict=True):
                    found[sentence] = self.target.decode(ids[ids >= 0])
        return [found[i] for i in range(len(rows))]

    def _write(self, source: np.ndarray, lengths: np.ndarray, longest: int, beams: int) -> np.ndarray:
        decoder, in_axes = self.model.decoders(source, lengths)
        prompts = [[self.target.start_id]] * len(source)
        options: Any = {"max_new_tokens": longest, "stop_ids": [self.target.stop_id], "in_axes": in_axes}
        if beams == 1:
            return np.asarray(generate(decoder, prompts, **options).tokens)
        found = beam_search(decoder, prompts, num_beams=beams, length_penalty=1.0, **options)
        return np.asarray(found.tokens)[:, 0]


def main(arguments: Arguments) -> dict[str, Any]:
    """Train an English-Spanish translator, or let a saved one translate."""
    return train(arguments) if arguments.translate is None else translate(arguments, arguments.translate)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 70 % of the sentences, keeps the model that is best on 15 %, and scores it on the rest."""
    preset = PRESETS[arguments.preset]
    arguments.check_rows(preset.batch_size, preset.batch_size)
    sharding = arguments.make_sharding()
    lower = arguments.standardise or preset.standardise
    pairs = load_pairs(arguments.pairs, arguments.data_dir)
    parts = split_pairs(pairs.standardised() if lower else pairs)
    if arguments.smoke:
        parts = {name: Pairs(part.english[:600], part.spanish[:600]) for name, part in parts.items()}
    whole = BytePairTokenizer.named("cl100k_base", fetch_vocabulary("cl100k_base", arguments.data_dir))
    sides = parts["train"].english, parts["train"].spanish
    if preset.min_count is None:
        source = target = whole.compacted([*sides[0], *sides[1]])
    else:
        source, target = (whole.compacted(side, min_count=preset.min_count) for side in sides)

    def batches(part: str, seed: int | None) -> TranslationBatches:
        options: Any = {"batch_size": preset.batch_size, "bucket_boundaries": preset.bucket_boundaries}
        return TranslationBatches(parts[part], source, target, **options, seed=seed, shard=sharding.shard)

    train_batches = batches("train", arguments.seed)
    per_epoch = train_batches.batches_per_epoch
    steps = 3 if arguments.smoke else per_epoch * (arguments.epochs or preset.epochs)
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))
    own = None if source is target else source.vocab_size
    config = dataclasses.replace(preset.model, vocab_size=target.vocab_size, source_vocab_size=own)
    model = eqx.filter_jit(EncoderDecoder)(config, key=model_key)
    run = arguments.make_run("translate")
    print(zoo.summary(model))
    print(
        f"{len(parts['train']):,} pairs to learn from ({train_batches.left_out} too long), "
        f"{len(parts['validation']):,} to choose the best model, {len(parts['test']):,} for the test\n"
        f"{steps / per_epoch:.3g} epochs of {per_epoch} steps -> {run.folder}"
    )
    most = preset.model.max_length
    references = {
        text: found for text, found in parts["test"].references().items() if len(source.encode(text)) <= most
    }
    sample = list(references)[:: max(len(references) // 600, 1)]  # they stand in the order of their lengths

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        translator = Translator(model, source, target, lower)
        written = translator([*SHOWN, *sample])
        bleu = bleu_and_chrf(written[len(SHOWN) :], [references[text] for text in sample])["bleu"]
        run.timing({"step": step, "minutes": run.seconds() / 60, "bleu": bleu})
        lines = [f"  {english}  ->  {spanish}" for english, spanish in zip(SHOWN, written, strict=False)]
        i = len(SHOWN) + step % len(sample)
        lines.append(f"  {sample[i - len(SHOWN)]}  ->  {written[i]}  ({references[sample[i - len(SHOWN)]][0]})")
        return f"  BLEU {bleu:.1f} of {len(sample)} test sentences, greedy\n" + "\n".join(lines)

    rates: Any = {"warmup_steps": min(preset.warmup_steps, steps // 4), "schedule": preset.schedule}
    optimiser = adamw(preset.learning_rate, total_steps=steps, clip_norm=preset.clip_norm, b2=preset.b2, **rates)
    of_validation = batches("validation", None)
    validation, held_out = prebatched(of_validation, epochs=1), prebatched(batches("test", None), epochs=1)
    plain_loss = SequenceToSequenceLoss()
    result = fit(
        model,
        prebatched(train_batches),
        SequenceToSequenceLoss(label_smoothing=preset.label_smoothing),
        optimiser,
        steps=steps,
        key=fit_key,
        evaluation=Evaluation(validation, plain_loss, every=per_epoch, on_eval=show),
        **arguments.fit_options(run, sharding, contents=data_fingerprint(pairs)),
    )

    translator = Translator(eqx.nn.inference_mode(result.model), source, target, lower)
    extra = {"source": source.to_json(), "target": target.to_json(), "standardise": lower}
    zoo.save(model_file := run.path("model.safetensors"), result.model, extra=extra)
    sentences = list(references)[: 50 if arguments.smoke else None]
    answers = [references[text] for text in sentences]
    test = evaluate(result.model, held_out, plain_loss, sharding=sharding)
    print(f"translating {len(sentences):,} test sentences, greedily and with 4 beams, ten of them:")
    written = {beams: translator(sentences, beams=beams) for beams in (1, 4)}
    greedy, beam = (bleu_and_chrf(translations, answers) for translations in written.values())
    metrics = beam | {"bleu_greedy": greedy["bleu"], "chrf_greedy": greedy["chrf"]}
    metrics |= {"token_accuracy": test["accuracy"], "test_loss": test["loss"], "validation_loss": result.best_value}
    if preset.differs_from_seed:
        metrics |= _as_the_seed_counts(result, validation, of_validation.buckets.num_rows, sharding)
    chosen = np.random.default_rng(arguments.seed).choice(len(sentences), min(10, len(sentences)), replace=False)
    print(ten := "\n".join(f"  {sentences[i]}  ->  {written[4][i]}  ({answers[i][0]})" for i in chosen))
    run.sample(result.steps, ten)
    with may_fail("bleu.png could not be drawn"):
        _draw_bleu(run.path("bleu.png"), run.path("timing.jsonl"))
    with may_fail("attention.png could not be drawn"):
        _draw_attention(run.path("attention.png"), translator, SHOWN[1])
    seconds = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)["seconds"]["total"]
    print(f"BLEU {beam['bleu']:.2f} with 4 beams ({greedy['bleu']:.2f} greedy), chrF {beam['chrf']:.1f}, "
          f"token accuracy {test['accuracy']:.2%}, {seconds / 60:.0f} min in all\n"
          f"{beam['signature_bleu']}\n{beam['signature_chrf']}")  # fmt: skip
    print(f'let it translate: python examples/translate.py --checkpoint {model_file} --translate "{SHOWN[0]}"')
    return metrics


def translate(arguments: Arguments, text: str) -> dict[str, Any]:
    """Prints the translation of a sentence, or of each line of a file, in the order of the lines."""
    lines = given_lines(text)
    checkpoint = arguments.checkpoint or newest_file("translate", "model.safetensors")
    model, extra = zoo.load(checkpoint, EncoderDecoder), zoo.read_extra(checkpoint)
    tokenizers = [tokenizer_from_json(extra[side]) for side in ("source", "target")]
    if not all(isinstance(tokenizer, BytePairTokenizer) for tokenizer in tokenizers):
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    translator = Translator(eqx.nn.inference_mode(model), *tokenizers, lower=extra["standardise"])  # pyright: ignore
    if not (spoken := [line for line in lines if line.strip()]):
        raise ValueError("there is nothing to translate")
    written = iter(translator(spoken, beams=arguments.beams))
    translations = [join_lines(next(written)) if line.strip() else "" for line in lines]
    print("\n".join(translations))
    return {"translations": translations}


def _as_the_seed_counts(result: FitResult, batches: Any, pairs: int, sharding: Any) -> dict[str, Any]:
    """Loss and accuracy of the last model, counted as the seed does: over all 100,277 ids, and with padding.

    Rows of ids that don't occur are at their initial values. What follows the stop id is padding, which nobody has to
    predict here: in each of the seed's targets it counts as right, with a loss of 0.
    """
    whole = zoo.rebuild(result.last, vocab_size=PRESETS["seed"].model.vocab_size, key=jax.random.key(0))
    found = evaluate(whole, batches, SequenceToSequenceLoss(), sharding=sharding)
    share = found["weight"] / (pairs * (SEED_LENGTH - 1))  # of targets that are real
    losses = [record["validation_loss"] for record in result.history if "validation_loss" in record]
    return {
        "loss_as_the_seed_counts": found["loss"] * share,
        "accuracy_as_the_seed_counts": 1 - (1 - found["accuracy"]) * share,
        "loss_over_all_ids": found["loss"],
        "loss_with_padding_of_each_epoch": [loss * share for loss in losses],  # over the ids that occur
    }


def _draw_attention(path: Path, translator: Translator, sentence: str) -> None:
    """Where the last layer looks in the sentence (columns) as it writes each piece (rows), mean of its heads."""
    from matplotlib.figure import Figure

    sentence = standardise(sentence) if translator.lower else sentence
    source = translator.source.encode(sentence)
    target = translator.target.encode(translator([sentence])[0])
    if not len(target):
        return
    inputs = jnp.asarray([translator.target.start_id, *target.tolist()[:-1]])
    weights = np.asarray(translator.model.cross_attention_weights(jnp.asarray(source), inputs))[-1].mean(axis=0)
    figure = Figure(figsize=(0.5 * len(source) + 2, 0.35 * len(target) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    read, written = (
        [tokenizer.decode([i]).strip().replace("$", r"\$") for i in ids.tolist()]
        for tokenizer, ids in ((translator.source, source), (translator.target, target))
    )
    axes.set_xticks(range(len(read)), read, rotation=60, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(written)), written)
    write_figure(path, figure)


def _draw_bleu(path: Path, timing: Path) -> None:
    """BLEU against minutes."""
    from matplotlib.figure import Figure

    lines = map(json.loads, split_lines(timing.read_text(encoding="utf-8")))
    curve = [(line["minutes"], line["bleu"]) for line in lines if "bleu" in line]
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), "o-", markersize=3, color="#c8553d")
    axes.set(xlabel="minutes", ylabel="BLEU, greedy")
    axes.grid(alpha=0.25, linewidth=0.6)
    write_figure(path, figure)


if __name__ == "__main__":
    cli(main)
