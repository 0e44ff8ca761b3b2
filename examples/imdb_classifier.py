"""Classify texts with a Transformer or a 1-D ConvNet: IMDB's film reviews as positive or not, or texts of yours.

python examples/imdb_classifier.py --model transformer
python examples/imdb_classifier.py --train a.tsv --validation b.tsv --test c.tsv --columns sentence label
python examples/imdb_classifier.py --init-from FOLDER --lora 8
python examples/imdb_classifier.py --predict "I laughed, I cried, I want my money back."
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import math
import shlex
import textwrap
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import numpy as np

import zoo
import zoo.text
from data.pipeline import prebatched
from data.text import given_lines, read_text, split_lines
from examples.classification_corpus import CorpusArguments
from examples.classification_report import (
    draw_figures,
    figures_of_the_test,
    print_classes,
    print_figures,
    verdict,
)
from examples.fine_tuning import FineTuning, model_in, trained_figures
from examples.imdb_presets import NOTES, TRIED, preset_of
from examples.start_of_classifier import BASES, classifier_on, new_parts
from examples.with_bar import with_bar
from training import Evaluation, classification_loss, cli, fit, member, newest_file
from training.launch.options import check_needed, check_numbers
from training.saving.fingerprint import data_fingerprint
from zoo import TextConvNet, TransformerClassifier
from zoo.text import Classifier

EVALUATED = 256  # texts of an evaluation at a time
MODELS = {"transformer": TransformerClassifier, "convnet": TextConvNet}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FineTuning, CorpusArguments):
    """Train a classifier of texts, or ask a saved one."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "epochs", "seeds"),
        "model": ("model",),
        "data": ("train", "validation", "test", "columns", "data_dir"),
        "advanced": ("weigh_classes", "keras_ids", "max_tokens", "truncation"),
        "ask a saved model": ("predict", "predict_file", "show", "checkpoint"),
    }
    HELP_NOTES: ClassVar = NOTES

    model: Literal["transformer", "convnet"] = "convnet"
    """Which model to train."""
    preset: Literal["best", "seed"] = "best"
    """Our best, or the tutorial's (--help-all)."""
    epochs: float | None = None
    """Passes over the texts; by default the preset's."""
    seeds: int = 1
    """Train so many models at once."""
    show: tuple[int, ...] = ()
    """Show these texts of the test and what is true: 0 500."""
    predict: str | None = None
    """Classify this text, each line of this file, or "-", by a saved model."""
    predict_file: Path | None = None
    """Classify each line of this file; blank ones stay so."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 0.001, 1_000_000, "epochs")
        check_numbers(self, 1, 1_000, "seeds")
        check_numbers(self, 1, math.inf, "max_tokens")
        check_numbers(self, 0, math.inf, "show")
        if sum(map(bool, (self.predict is not None, self.predict_file, self.show))) > 1:
            raise ValueError("give either --predict, --predict-file or --show, not both")
        check_needed(self, ("predict", "predict_file", "show"), "checkpoint")
        if self.init_from is not None and self.model != "convnet":
            raise ValueError("give either --model or --init-from, which has its own")
        self.check()
        if self.keras_ids is not None and self.preset == "seed" and self.model == "convnet":
            raise ValueError("--keras-ids are words, and the seed's ConvNet reads GPT-2's tokens of whole texts")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a classifier on IMDB's film reviews or on texts of yours, or ask a saved one."""
    if (text := arguments.predict) is not None:
        lines = given_lines(text)
        return print_classes(saved(arguments), lines, text)
    if (file := arguments.predict_file) is not None:
        lines = split_lines(read_text(file))
        return print_classes(saved(arguments), lines, str(file))
    return show(arguments) if arguments.show else train(arguments)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 22,500 reviews, keeps the epoch best on 2,500 others, tests it on 25,000; or by another corpus."""
    name, further = (arguments.model, arguments.preset), arguments.init_from is not None
    preset = preset_of(name, further=further, trial=arguments.smoke)
    ensemble_size = None if arguments.seeds == 1 else arguments.seeds
    arguments.check_rows(preset.batch_size, EVALUATED, ensemble_size=ensemble_size)
    arguments.check_out("imdb_classifier")
    sharding = arguments.make_sharding()
    base = arguments.base(*BASES)
    corpus, words = arguments.load()
    corpus = corpus.few(TRIED) if arguments.smoke else corpus
    class_names = corpus.train.class_names
    tokenizer = arguments.make_tokenizer(corpus.train, words, preset) if base is None else base.tokenizer
    cut: Any = arguments.cut(preset, preset.model if base is None else base.model)
    texts = arguments.encoded(corpus, tokenizer, **cut, of_imdb=preset.bucket_boundaries)
    batch_size = arguments.batch_for(preset.batch_size, len(corpus.train) if arguments.train else None)
    train_batches = texts.batches("train", batch_size, seed=arguments.seed, shard=sharding.shard)
    validation = prebatched(texts.batches("validation", EVALUATED, seed=None, shard=sharding.shard), epochs=1)
    per_epoch = train_batches.batches_per_epoch
    steps = 5 if arguments.smoke else max(round(per_epoch * (arguments.epochs or preset.epochs)), 1)
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))
    config: Any = dataclasses.replace(preset.model, vocab_size=tokenizer.vocab_size, num_classes=len(class_names))
    new = new_parts(base, class_names)

    def make_model(key: Any) -> Any:
        if base is None:
            return eqx.filter_jit(MODELS[arguments.model])(config, key=key)
        return arguments.tuned(classifier_on(base, class_names, key=key), new=new, key=key)

    model = make_model(model_key)
    print(zoo.summary(model))
    if ensemble_size is not None:
        model = eqx.filter_vmap(make_model)(jax.random.split(model_key, ensemble_size))
    optimiser = preset.make_optimiser(arguments.rate(preset.rate_of(model), model, new), steps)
    options: Any = {"ensemble_size": ensemble_size, "sharding": sharding}
    state = arguments.init_state(model, optimiser, new=new, key=fit_key, **options)
    run = arguments.make_run("imdb_classifier")
    print(
        f"{corpus.train} to learn from\n{len(corpus.validation):,} to choose the best epoch, "
        f"{len(corpus.test):,} for the test ({corpus.duplicates} of them stand in the training part, too)\n"
        f"{steps / per_epoch:.3g} epochs of {per_epoch} steps of {batch_size} texts -> {run.folder}"
    )
    places = np.array([0, 1, -2, -1]) % len(corpus.validation)
    shown, shown_ids = corpus.validation.take(places), texts.ids["validation"].take(places)

    def classifier(models: Any, i: int = 0) -> Classifier:
        model = member(models, i, ensemble_size)
        return Classifier(model=model, tokenizer=tokenizer, class_names=class_names, **cut)

    def save(models: Any) -> None:
        plain = arguments.merged(classifier(models).model, run, new=new)
        dataclasses.replace(classifier(models), model=plain).save(run.path("model.safetensors"))

    def sample(step: int, model: Any, metrics: dict[str, Any]) -> str:
        probabilities = classifier(model).probabilities_of_ids(list(shown_ids))
        return "\n".join(
            f"{verdict(text, p, class_names)}  ({class_names[label]})"
            for text, p, label in zip(shown, probabilities, shown.labels, strict=True)
        )

    result = fit(
        state,
        prebatched(train_batches),
        classification_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(validation, every=-(-per_epoch // 2), on_eval=sample, on_best=save),
        **arguments.fit_options(run, sharding, schedule=preset.schedule, texts=data_fingerprint(corpus)),
    )
    save(result.model)

    def predicted(models: Any, i: int) -> np.ndarray:
        return with_bar(classifier(models, i).probabilities_of_ids, list(texts.ids["test"]), "testing").argmax(axis=1)

    best_steps = np.atleast_1d(result.best_step)
    best = [predicted(result.model, i) for i in range(arguments.seeds)]
    last = [best[i] if step == result.steps else predicted(result.last, i) for i, step in enumerate(best_steps)]
    metrics = figures_of_the_test(corpus.test, best, last)
    metrics |= {"validation_loss": result.best_value, **trained_figures(result.state)}
    metrics["best_epoch"] = np.round(np.asarray(result.best_step) / per_epoch, 2).tolist()
    draw_figures(run, metrics, classifier(result.model), corpus.validation[0])
    summary = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)
    print_figures(metrics, summary["seconds"]["total"])
    model_file = shlex.quote(str(run.path("model.safetensors")))
    print(f"ask it: python examples/imdb_classifier.py --checkpoint {model_file} --predict Oh!")
    return metrics


def show(arguments: Arguments) -> dict[str, Any]:
    """Prints texts of the test part, the class that a saved model gives them, and the true one."""
    test = arguments.load()[0].test
    if max(arguments.show) >= len(test):
        raise ValueError(f"--show must be in 0..{len(test) - 1}; got {max(arguments.show)}")
    test = test.take(np.array(arguments.show))
    classifier = saved(arguments)
    probabilities = with_bar(classifier.probabilities, list(test), "classifying")
    for text, p, label in zip(test, probabilities, test.labels, strict=True):
        print("\n".join(textwrap.wrap(text, 100)))
        print(f"predicted: {classifier.class_names[p.argmax()]} {p.max():.1%}\nactual: {test.class_names[label]}\n")
    return {"probabilities": probabilities.tolist(), "labels": test.labels.tolist()}


def saved(arguments: Arguments) -> Classifier:
    """The model to ask."""
    checkpoint = model_in(arguments.checkpoint or newest_file("imdb_classifier", "model.safetensors"))
    classifier = zoo.text.load(checkpoint)
    if not isinstance(classifier, Classifier):
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    return classifier


if __name__ == "__main__":
    cli(main)
