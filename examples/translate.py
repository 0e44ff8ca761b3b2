"""Translate with an encoder-decoder Transformer: English into Spanish by 83,000 pairs, or by any pairs of yours.

python examples/translate.py
python examples/translate.py --pairs mine.tsv
python examples/translate.py --translate "Where did you learn to speak Spanish?"
python examples/translate.py --translate - < english.txt > spanish.txt
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import numpy as np

import zoo
import zoo.text
from data.pairs import Pairs, TranslationBatches, repeated_sources
from data.pipeline import prebatched
from data.text import given_lines
from examples.fine_tuning import FineTuning, model_in
from examples.pictures import draw_bleu, draw_translation
from examples.translate_presets import NOTES, PRESETS, as_the_seed_counts, preset_for
from examples.translation_corpus import CorpusArguments, sides_of, suggested_boundaries
from examples.with_bar import translated_lines, with_bar
from training import Evaluation, SequenceToSequenceLoss, adamw, cli, evaluate, fit, may_fail, newest_file
from training.launch.options import check_needed, check_numbers
from training.metrics import bleu_and_chrf
from training.saving.fingerprint import data_fingerprint
from zoo import AbstractEncoderDecoder, EncoderDecoder
from zoo.text import Translator

SHOWN = ("Where is the station?", "I've been waiting for you for two hours.", "She didn't know what to say.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FineTuning, CorpusArguments):
    """Train a translator, or let a saved one translate."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "epochs"),
        "data": ("pairs", "train_source", "train_target", "tokenizer", "data_dir"),
        "advanced": ("validation_source", "validation_target", "test_source", "test_target", "standardise"),
        "ask a saved model": ("translate", "checkpoint", "beams"),
    }
    HELP_NOTES: ClassVar = NOTES

    preset: Literal["best", "seed"] = "best"
    """Our best, or the tutorial's (--help-all)."""
    standardise: bool = False
    """Lower case without punctuation rather than text as people write it; the seed preset does so anyway."""
    epochs: int | None = None
    """Passes over the training pairs; by default the preset's."""
    translate: str | None = None
    """Translate this sentence, each line of this file, or with "-" of the
    standard input (both UTF-8). What only looks like a file is an error."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""
    beams: int = 4
    """Width of the search when translating; 1 is greedy."""

    def __post_init__(self):
        super().__post_init__()
        self.check()
        check_numbers(self, 1, 1_000_000, "epochs")
        check_numbers(self, 1, 1_000, "beams")
        check_needed(self, ("translate",), "checkpoint", "beams")
        if self.init_from is not None and self.tokenizer is not None:
            raise ValueError("give either --tokenizer or --init-from, whose model has its own")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a translator, or let a saved one translate."""
    return train(arguments) if arguments.translate is None else translate(arguments, arguments.translate)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 70 % of the sentences, keeps the model best on 15 %, tests it on the rest; or by ready parts."""
    preset = PRESETS[arguments.preset]
    arguments.check_rows(preset.batch_size, preset.batch_size)
    arguments.check_out("translate")
    sharding = arguments.make_sharding()
    base = arguments.base(AbstractEncoderDecoder)
    lower = arguments.standardise or preset.standardise or (base is not None and base.standardise)
    parts = arguments.load(standardise=lower)
    preset = preset_for(arguments.preset, len(parts["train"])) if base is None else preset
    if arguments.smoke:
        few = {"train": 600, "validation": 100, "test": 16}
        parts = {name: Pairs(parts[name].source[:most], parts[name].target[:most]) for name, most in few.items()}
    most, boundaries = preset.model.max_length, preset.bucket_boundaries[-1 if arguments.smoke else 0 :]
    sides: Any = arguments.tokenizers(parts["train"], preset.min_count) if base is None else sides_of(base)
    source, target = sides
    if base is not None:
        most = min(base.model.max_length or most, most)
    if arguments.is_own or base is not None:
        train, *others = parts.values()
        options: Any = {"most": most, "num_shapes": len(boundaries), "others": others if arguments.is_own else ()}
        boundaries = suggested_boundaries(train, source, target, **options)
    batch_size = arguments.batch_for(preset.batch_size, len(parts["train"]) if arguments.is_own else None)

    def batches(part: str, seed: int | None) -> TranslationBatches:
        rows = preset.batch_size if seed is None else batch_size
        options: Any = {"batch_size": rows, "bucket_boundaries": boundaries}
        return TranslationBatches(parts[part], source, target, **options, seed=seed, shard=sharding.shard)

    train_batches = batches("train", arguments.seed)
    of_validation, of_test = batches("validation", None), batches("test", None)
    per_epoch = train_batches.batches_per_epoch
    steps = 3 if arguments.smoke else per_epoch * (arguments.epochs or preset.epochs)
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))
    if base is None:
        own = None if source is target else source.vocab_size
        config = dataclasses.replace(preset.model, vocab_size=target.vocab_size, source_vocab_size=own)
        config = dataclasses.replace(config, num_layers=1, num_decoder_layers=1) if arguments.smoke else config
        model = eqx.filter_jit(EncoderDecoder)(config, key=model_key)
    else:
        model = arguments.tuned(base.model, key=model_key)
    rates: Any = {"warmup_steps": min(preset.warmup_steps, steps // 4), "schedule": preset.schedule, "b2": preset.b2}
    optimiser = adamw(arguments.rate(preset.learning_rate), total_steps=steps, clip_norm=preset.clip_norm, **rates)
    state = arguments.init_state(model, optimiser, key=fit_key, sharding=sharding)
    run = arguments.make_run("translate")
    print(zoo.summary(model))
    print(
        f"{len(parts['train']):,} pairs to learn from ({train_batches.left_out} too long), "
        f"{len(parts['validation']):,} to choose the best model ({of_validation.left_out}), "
        f"{len(parts['test']):,} for the test ({of_test.left_out}; "
        f"{repeated_sources(parts['test'], parts['train']):,} of its sentences stand in the training part, too)\n"
        f"{steps / per_epoch:.3g} epochs of {per_epoch} steps of {batch_size} pairs -> {run.folder}"
    )
    references = {
        text: found for text, found in parts["test"].references().items() if len(source.encode(text)) <= most
    }
    shown = tuple(references)[:3] if arguments.is_own or arguments.smoke else SHOWN
    sample = list(references)[:: max(len(references) // 600, 1)]  # they stand in the order of their lengths

    def make_translator(model: Any) -> Translator:
        if base is not None:
            return dataclasses.replace(base, model=model, standardise=lower)
        return Translator(model=model, source=source, target=target, normal_form="NFC", standardise=lower)

    def save(model: Any) -> None:
        make_translator(arguments.merged(model, run)).save(run.path("model.safetensors"))

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        translator = make_translator(model)
        written = translator([*shown, *sample])
        bleu = bleu_and_chrf(written[len(shown) :], [references[text] for text in sample])["bleu"]
        run.timing({"step": step, "minutes": run.seconds() / 60, "bleu": bleu})
        lines = [f"  {text}  ->  {translation}" for text, translation in zip(shown, written, strict=False)]
        i = len(shown) + step % len(sample)
        lines.append(f"  {sample[i - len(shown)]}  ->  {written[i]}  ({references[sample[i - len(shown)]][0]})")
        return f"  BLEU {bleu:.1f} of {len(sample)} test sentences, greedy\n" + "\n".join(lines)

    validation, held_out = prebatched(of_validation, epochs=1), prebatched(of_test, epochs=1)
    plain_loss = SequenceToSequenceLoss()
    result = fit(
        state,
        prebatched(train_batches),
        SequenceToSequenceLoss(label_smoothing=preset.label_smoothing),
        optimiser,
        steps=steps,
        evaluation=Evaluation(validation, plain_loss, every=per_epoch, on_eval=show, on_best=save),
        **arguments.fit_options(run, sharding, schedule=preset.schedule, contents=data_fingerprint(parts)),
    )

    save(result.model)
    translator = make_translator(result.model)
    sentences = list(references)
    answers = [references[text] for text in sentences]
    test = evaluate(result.model, held_out, plain_loss, sharding=sharding)
    print(f"translating {len(sentences):,} test sentences, greedily and with 4 beams, ten of them:")
    written = {beams: translated(translator, sentences, beams) for beams in (1, 4)}
    greedy, beam = (bleu_and_chrf(translations, answers) for translations in written.values())
    metrics = beam | {"bleu_greedy": greedy["bleu"], "chrf_greedy": greedy["chrf"]}
    metrics |= {"token_accuracy": test["accuracy"], "test_loss": test["loss"], "validation_loss": result.best_value}
    if preset.differs_from_seed and base is None:
        metrics |= as_the_seed_counts(result, validation, of_validation.buckets.num_rows, sharding)
    chosen = np.random.default_rng(arguments.seed).choice(len(sentences), min(10, len(sentences)), replace=False)
    print(ten := "\n".join(f"  {sentences[i]}  ->  {written[4][i]}  ({answers[i][0]})" for i in chosen))
    run.sample(result.steps, ten)
    with may_fail("bleu.png could not be drawn"):
        draw_bleu(run.path("bleu.png"), run.path("timing.jsonl"))
    with may_fail("attention.png could not be drawn"):
        draw_translation(run.path("attention.png"), translator, sentences[i := len(sentences) // 2], written[1][i])
    seconds = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)["seconds"]["total"]
    print(f"BLEU {beam['bleu']:.2f} with 4 beams ({greedy['bleu']:.2f} greedy), chrF {beam['chrf']:.1f}, "
          f"token accuracy {test['accuracy']:.2%}, {seconds / 60:.0f} min in all\n"
          f"{beam['signature_bleu']}\n{beam['signature_chrf']}")  # fmt: skip
    words = shlex.join(["--checkpoint", str(run.path("model.safetensors")), "--translate", shown[0]])
    print(f"let it translate: python examples/translate.py {words}")
    return metrics


def translated(translator: Translator, sentences: list[str], beams: int) -> list[str]:
    """Greedily with one beam."""
    by = "translating greedily" if beams == 1 else f"translating with {beams} beams"
    return with_bar(translator, sentences, by, num_beams=beams)


def translate(arguments: Arguments, text: str) -> dict[str, Any]:
    """Prints the translation of a sentence, or of each line of a file, in the order of the lines."""
    lines = given_lines(text)
    checkpoint = model_in(arguments.checkpoint or newest_file("translate", "model.safetensors"))
    translator = zoo.text.load(checkpoint)
    if not isinstance(translator, Translator):
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    translations = translated_lines(translator, lines, text, num_beams=arguments.beams)
    print("\n".join(translations))
    return {"translations": translations}


if __name__ == "__main__":
    cli(main)
