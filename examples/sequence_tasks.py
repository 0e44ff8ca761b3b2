"""Sort, reverse or copy integers with a small Transformer language model.

The model reads `0 source 0` and writes the answer: `0 4 6 8 10 0` -> `10 8 6 4` when it has learned to reverse.

    python examples/sequence_tasks.py --task reverse
    python examples/sequence_tasks.py --checkpoint runs/sequence_tasks/1/model.safetensors --prompt "0 4 6 8 10 0"
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
import numpy as np

import zoo
from data.pipeline import evaluation_batches, pipeline
from data.synthetic import SequenceTask, Task
from examples.fine_tuning import FineTuning, model_in
from examples.sequence_task_presets import NOTES, PRESETS
from training import Evaluation, adamw, cli, exact_match, fit, member, next_token_loss
from training.launch.options import check_numbers
from zoo import TransformerLM, TransformerLMConfig, generate
from zoo.pretrained.trax import load_transformer_lm

EVALUATED = 512  # sequences of the validation part at a time
TESTED = 10_000  # sequences of the test part, none of which occurs in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FineTuning):
    """Train a model on a task, or let a saved one answer."""

    OPTION_GROUPS: ClassVar = {
        "task": ("task", "preset", "length", "max_value"),
        "training": ("steps", "batch_size", "learning_rates", "seeds"),
        "ask a saved model": ("checkpoint", "prompt", "max_new_tokens"),
    }
    HELP_NOTES: ClassVar = NOTES

    preset: Literal["best", "seed"] = "best"
    """Our best, or the tutorial's (--help-all)."""
    task: Task | None = None
    """What the answer does with the source; sort by default, reverse for seed."""
    length: int = 4
    """Integers in a source."""
    max_value: int | None = None
    """The largest integer; 31 by default, 30 for the seed."""
    steps: int | None = None
    """By default 3000 to sort by the best preset, else 1000."""
    batch_size: int | None = None
    """By default 64 to sort by the best preset, else 16."""
    seeds: int = 1
    """Train so many models at once, each from its own seed."""
    learning_rates: tuple[float, ...] = ()
    """Train a model for each of these, at once."""
    checkpoint: Path | None = None
    """Answer with this saved model, or a Trax checkpoint (.pkl.gz), instead of training one."""
    prompt: str | None = None
    """What it answers: integers between spaces, such as "0 4 6 8 10 0"."""
    max_new_tokens: int | None = None
    """Length of the answer; by default as long as may be."""

    def __post_init__(self):
        super().__post_init__()
        if (self.checkpoint is None) != (self.prompt is None):
            raise ValueError("--checkpoint and --prompt belong together: a saved model, and what it answers")
        check_numbers(self, 1, math.inf, "steps")
        check_numbers(self, 1, 1_000_000, "batch_size")
        check_numbers(self, 1, 1_000, "length", "seeds")
        check_numbers(self, 2, 2**31 - 2, "max_value")
        check_numbers(self, 0, math.inf, "max_new_tokens")
        check_numbers(self, math.ulp(0.0), math.inf, "learning_rates")
        if self.seeds > 1 and self.learning_rates:
            raise ValueError("give either --seeds or --learning-rates, not both")


def main(arguments: Arguments) -> dict[str, Any]:
    """Sort, reverse or copy integers with a small Transformer language model."""
    if arguments.checkpoint is not None and arguments.prompt is not None:
        return answer(model_in(arguments.checkpoint), arguments.prompt, arguments.max_new_tokens)
    return train(arguments)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on the task, tests on sequences never seen, and writes all of it to the run's folder."""
    preset = PRESETS[arguments.preset]
    task = arguments.task or preset.task
    easy = task != preset.task  # than what the preset was made for
    steps = arguments.steps or (20 if arguments.smoke else 1000 if easy else preset.steps)
    batch_size = arguments.batch_size or (16 if easy else preset.batch_size)
    tested = 100 if arguments.smoke else TESTED
    count = len(arguments.learning_rates) or arguments.seeds
    ensemble_size = None if count == 1 else count
    arguments.check_rows(batch_size, EVALUATED, ensemble_size=ensemble_size)
    arguments.check_out("sequence_tasks")
    sharding = arguments.make_sharding()

    def source(part: Literal["train", "validation", "test"], size: int | None = None) -> SequenceTask:
        return SequenceTask(
            task,
            length=arguments.length,
            max_value=arguments.max_value or preset.max_value,
            part=part,
            seed=arguments.seed,
            size=size,
        )

    tests = source("test")
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))

    least = {"vocab_size": tests.vocab_size, "max_length": 2 * arguments.length + 2}
    sizes: Any = {name: max(size, preset.model.get(name, 1)) for name, size in least.items()}
    config = TransformerLMConfig(**preset.model | sizes)
    base = arguments.base_model(TransformerLM)
    if base is not None and (base.vocab_size < tests.vocab_size or base.max_length < least["max_length"]):
        raise ValueError(
            f"--init-from must hold a model of at least {tests.vocab_size} tokens and a max_length of at least "
            f"{least['max_length']} for these sequences; it has {base.vocab_size} and {base.max_length}"
        )

    def make_model(key: Any) -> TransformerLM:
        return eqx.filter_jit(TransformerLM)(config, key=key) if base is None else arguments.tuned(base, key=key)

    if ensemble_size is None:
        model = make_model(model_key)
    elif arguments.learning_rates:  # the same start for all, so that nothing but the rate differs
        model = eqx.filter_vmap(make_model)(jax.numpy.broadcast_to(model_key, (ensemble_size,)))
    else:
        model = eqx.filter_vmap(make_model)(jax.random.split(model_key, ensemble_size))
    options = preset.optimiser | {"warmup_steps": min(preset.optimiser.get("warmup_steps", 0), steps // 10)}
    optimiser = adamw(arguments.rate(preset.learning_rate), total_steps=steps, **options)
    rates = np.array(arguments.learning_rates, np.float32) if arguments.learning_rates else None
    members: Any = {"ensemble_size": ensemble_size, "learning_rates": rates}
    state = arguments.init_state(model, optimiser, key=fit_key, **members, sharding=sharding)
    run = arguments.make_run("sequence_tasks")
    print(zoo.summary(model), f"\n{task}: {steps} steps of {batch_size} sequences -> {run.folder}")

    def save(models: Any, i: int = 0) -> None:
        model = arguments.merged(member(models, i, ensemble_size), run)
        zoo.save(run.path("model.safetensors"), model, extra={"task": task, "length": arguments.length})

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        prompts, answers = tests.prompts_and_answers(4)
        given = generate(member(model, 0, ensemble_size).decoder(), prompts, max_new_tokens=arguments.length).tokens
        return "\n".join(_verdict(*row) for row in zip(prompts, given, answers, strict=True))

    validation = evaluation_batches(source("validation", size=min(tested, 2000)), EVALUATED, shard=sharding.shard)
    result = fit(
        state,
        pipeline(source("train"), batch_size, seed=None, shard=sharding.shard),
        next_token_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(validation, on_eval=show, on_best=save),
        **arguments.fit_options(run, sharding, schedule=preset.optimiser.get("schedule", "cosine")),
    )

    save(result.model, 0 if ensemble_size is None else int(np.argmin(result.best_value)))
    prompts, answers = tests.prompts_and_answers(tested)
    scores = []
    for i in range(count):
        decoder = member(result.model, i, ensemble_size).decoder()
        given = generate(decoder, prompts, max_new_tokens=arguments.length).tokens
        scores.append(exact_match(np.asarray(given), answers))
    metrics = {"exact_match": float(np.mean(scores)), "validation_loss": float(np.mean(result.best_value))}
    if ensemble_size is not None:
        metrics |= {"exact_match_spread": float(np.std(scores)), "exact_match_each": scores}
    summary = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)
    _report(arguments, scores, tested, summary["seconds"]["total"], run.path("model.safetensors"))
    return metrics


def answer(checkpoint: Path, prompt: str, max_new_tokens: int | None) -> dict[str, Any]:
    """Prints how a saved model continues a prompt."""
    try:
        tokens = [int(word) for word in prompt.split()]
    except ValueError:
        raise ValueError(f"--prompt must be integers between spaces, got {prompt!r}") from None
    if checkpoint.name.endswith(".pkl.gz"):  # Trax's; its decoder puts one more 0 before the prompt
        lm, tokens = load_transformer_lm(checkpoint), [0, *tokens]
    else:
        lm = zoo.load(checkpoint, TransformerLM)
    count = lm.max_length - len(tokens) if max_new_tokens is None else max_new_tokens
    tokens_out = generate(lm.decoder(), tokens, max_new_tokens=count).tokens.tolist()
    print(*tokens_out)
    return {"answer": tokens_out}


def _verdict(prompt: np.ndarray, given: np.ndarray, right: np.ndarray) -> str:
    verdict = "right" if (given == right).all() else f"wrong: {' '.join(map(str, right))}"
    return f"  {' '.join(map(str, prompt))} -> {' '.join(map(str, given))}  {verdict}"


def _report(arguments: Arguments, scores: list[float], tested: int, seconds: float, model: Path) -> None:
    named = [f"learning rate {rate:g}" for rate in arguments.learning_rates] or [
        f"model {i}" for i in range(len(scores))
    ]
    if len(scores) > 1:
        for name, score in zip(named, scores, strict=True):
            print(f"  {name}: exact match {score:.2%}")
        print(f"mean {np.mean(scores):.2%}, spread {np.std(scores):.2%}")
    print(f"exact match on {tested:,} unseen sequences: {np.mean(scores):.2%} after {seconds:.1f} s in all")
    prompt = "0 " + " ".join(str(2 * i + 4) for i in range(arguments.length)) + " 0"
    print("ask it: python examples/sequence_tasks.py", shlex.join(["--checkpoint", str(model), "--prompt", prompt]))


if __name__ == "__main__":
    cli(main)
