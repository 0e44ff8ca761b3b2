"""A training step of both text classifiers, against the same models in Flax NNX.

Run as a script, this file is one side of a measurement: `python test_classifier_speed.py ours|flax MODEL STEPS`.
"""

import statistics
import sys
from functools import partial

import equinox as eqx
import jax
import numpy as np
import own_process
import pytest

from training import adamw, classification_loss, init_state, keep_freed_memory, make_step
from zoo import TextConvNet, TextConvNetConfig, TransformerClassifier, TransformerClassifierConfig

SIZES = {"transformer": (20_000, 128, 200), "convnet": (50_257, 128, 500)}  # vocabulary, rows, tokens in each
PARAMETERS = {"transformer": 653_566, "convnet": 6_679_810}
LEARNING_RATE = {"transformer": 1e-4, "convnet": 5e-4}


def our_model(name, vocab, length, *, dropout=None, key):
    """With the models' own dropout unless another one is given."""
    if name == "transformer":
        options = {} if dropout is None else {"dropout_p": dropout, "head_dropout_p": dropout}
        return TransformerClassifier(
            TransformerClassifierConfig(vocab_size=vocab, num_classes=2, max_length=length, **options), key=key
        )
    options = {} if dropout is None else {"embedding_dropout_p": dropout, "dropout_p": dropout}
    return TextConvNet(TextConvNetConfig(vocab_size=vocab, num_classes=2, **options), key=key)


def flax_model(name, vocab, length, **options):
    import plain_flax
    from flax import nnx

    make = partial(plain_flax.Classifier, length=length) if name == "transformer" else plain_flax.ConvNet
    return make(vocab, **options, rngs=nnx.Rngs(0))


def random_batch(vocab, rows, length):
    """Texts that fill their rows. What padding there is changes neither side's work."""
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(0, vocab, (rows, length), np.int32), rng.integers(0, 2, rows, np.int32)
    lengths, weights = np.full(rows, length, np.int32), np.ones(rows, np.float32)
    return {"tokens": tokens, "tokens_length": lengths, "labels": labels, "weights": weights}


class Ours:
    """The compiled step, called as `fit` calls it."""

    def __init__(self, model, batch, learning_rate):
        optimiser = adamw(learning_rate, total_steps=1000, schedule="constant", clip_norm=None)
        self.step, self.batch = make_step(classification_loss, optimiser), batch
        self.state = init_state(model, optimiser, key=jax.random.key(1))

    def __call__(self):
        self.state, report = self.step(self.batch, self.state)
        return float(report.sums.mean())


def flax_step(model, batch, learning_rate):
    import plain_flax

    return partial(plain_flax.Training(model, learning_rate), batch["tokens"], batch["labels"])


@pytest.mark.benchmark(group="train step of a classifier")
@pytest.mark.parametrize("name", SIZES)
def test_train_step_against_flax(full_size, benchmark, note, fill, name):
    """Flax as its users start it, and with an allocator as tuned as the one that `fit` gives itself."""
    pytest.importorskip("flax", reason="Flax is in the extra `benchmark`")
    import plain_flax

    vocab, rows, length = SIZES[name]
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)  # noqa: E731
    shapes = eqx.filter_eval_shape(partial(our_model, name, vocab, length), key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(shapes, is_shape))) == PARAMETERS[name]
    assert plain_flax.count_parameters(partial(flax_model, name, vocab, length)) == PARAMETERS[name]

    if not full_size:
        vocab, rows, length = 50, 4, 10  # where Flax's windows begin where ours do: its padding moves with the length
        batch = random_batch(vocab, rows, length)
        ours = fill(lambda key: our_model(name, vocab, length, dropout=0.0, key=key), scale=0.2)
        theirs = plain_flax.copy_weights(ours, flax_model(name, vocab, length, dropout=0.0))
        step, flax = Ours(ours, batch, 1e-3), flax_step(theirs, batch, 1e-3)
        losses = [benchmark(step), *(step() for _ in range(5))]
        np.testing.assert_allclose(losses, [flax() for _ in losses], atol=1e-4)
        assert losses[-1] < losses[0]
        return

    steps = 20 if name == "transformer" else 10
    sides = {
        "ours": own_process.Side(("ours", name, steps), tuned=False),
        "flax": own_process.Side(("flax", name, steps), tuned=False),
        "flax, tuned": own_process.Side(("flax", name, steps), tuned=True),
    }
    measured = benchmark.pedantic(own_process.in_turns, (__file__, sides), {"rounds": 3}, rounds=1)
    ms, flax, tuned = (statistics.median(side.milliseconds) for side in measured.values())
    note(
        f"train step of the {name} classifier: {flax / ms:.2f} times faster than Flax as its users start it "
        f"({ms:.3g} ms against {flax:.3g} ms), {tuned / ms:.2f} times with its allocator tuned ({tuned:.3g} ms)",
        times_faster=flax / ms,
        times_faster_than_tuned=tuned / ms,
        ms=ms,
        flax_ms=flax,
        flax_tuned_ms=tuned,
    )


def main(side, name, steps):
    vocab, rows, length = SIZES[name]
    batch = random_batch(vocab, rows, length)
    if side == "ours":
        keep_freed_memory()  # as `fit` does
        step = Ours(our_model(name, vocab, length, key=jax.random.key(0)), batch, LEARNING_RATE[name])
    else:
        step = flax_step(flax_model(name, vocab, length), batch, LEARNING_RATE[name])
    own_process.report([step] * int(steps), warm_up=[step] * 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
