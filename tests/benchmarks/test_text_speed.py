"""Text in, text out, against the bare model on batches that are ready."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.imdb_presets import PRESETS
from zoo import TextConvNet
from zoo.text import Classifier
from zoo.text.batches import in_batches


class Looked:
    """A tokenizer that only looks up what it is asked for, so that tokenising is not measured."""

    start_id = stop_id = pad_id = None
    before = after = ()

    def __init__(self, rows, vocab_size):
        self.rows, self.vocab_size = rows, vocab_size

    def encode(self, text):
        return self.rows[int(text)]

    def decode(self, ids, *, partial=False):
        return " ".join(map(str, ids))

    def to_json(self):
        return {"rows": [row.tolist() for row in self.rows]}


@pytest.mark.benchmark(group="text")
def test_classifying_many_texts_against_the_bare_pass(full_size, race, note, fill):
    """As many texts as IMDB's test has, of such lengths, in any order."""
    preset = PRESETS["convnet", "best"]
    config = preset.model if full_size else dataclasses.replace(preset.model, vocab_size=99, ngram_buckets=256)
    count, most = (25_000, preset.max_tokens) if full_size else (40, 32)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(most / 3), 0.6, count).astype(int), 2, most)
    rows = [rng.integers(3, config.vocab_size, length, np.int32) for length in lengths]
    model = fill(lambda key: TextConvNet(config, key=key))
    classifier = Classifier(
        model=model, tokenizer=Looked(rows, config.vocab_size), class_names=("no", "yes"), max_tokens=most,
        batch_size=256 if full_size else 16,
    )  # fmt: skip
    texts = [str(i) for i in range(count)]
    silent = eqx.nn.inference_mode(model)
    batches = [
        (places, jnp.asarray(tokens), jnp.asarray(lengths))
        for places, tokens, lengths in in_batches(rows, batch_size=classifier.batch_size, most=most)
    ]
    run = eqx.filter_jit(lambda model, *batch: jax.nn.softmax(jax.vmap(model)(*batch)))

    def ours():
        return classifier.probabilities(texts)

    def bare():
        return [jax.block_until_ready(run(silent, tokens, lengths)) for _, tokens, lengths in batches]

    found = ours()
    for (places, _, _), probabilities in zip(batches, bare(), strict=True):
        np.testing.assert_allclose(found[places], probabilities[: len(places)], rtol=1e-4)
    medians = race(ours, bare, rounds=3)
    if medians is not None:
        a, b = medians
        note(f"classifying {count:,} texts: {a / b:.3f} x the bare forward pass ({a:,.0f} ms)", ratio=a / b, ms=a)
