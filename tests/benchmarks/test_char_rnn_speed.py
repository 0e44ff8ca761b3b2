"""The character RNN: training against the seed's way, its time by length of sequence, and writing."""

import dataclasses
import math
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.download import DownloadError
from data.pipeline import prebatched
from data.text import load_text, split_tail
from data.windows import Streams
from examples.char_rnn_presets import PRESETS
from training import adamw, fit, init_state, make_step, stream_carry, stream_loss, train_step
from zoo import CharRNN, CharRNNConfig, generate
from zoo.text import CharacterTokenizer

CHUNK = 256  # of the seed
LAYERS = 3


def seed_loss(params, state, inputs, targets):
    """The seed's network, character by character: one-hot input, dense layers on joined vectors, softmax, log."""

    def step(state, token):
        x, after = jax.nn.one_hot(token, params["head"][0].shape[0]), []
        for (weight, bias), hidden in zip(params["layers"], state, strict=True):
            x = jnp.tanh(weight @ jnp.concatenate([hidden, x]) + bias)
            after.append(x)
        return after, jax.nn.softmax(params["head"][0] @ x + params["head"][1])

    state, probabilities = jax.lax.scan(step, state, inputs)
    return -jnp.mean(jnp.log(probabilities[jnp.arange(len(targets)), targets])), state


def seed_params(vocab_size, hidden_size, key):
    sizes = [vocab_size + hidden_size] + [2 * hidden_size] * (LAYERS - 1)
    *keys, head_key = jax.random.split(key, LAYERS + 1)

    def dense(key, inputs, outputs):
        return jax.random.normal(key, (outputs, inputs)) / math.sqrt(inputs), jnp.zeros(outputs)

    layers = [dense(key, size, hidden_size) for key, size in zip(keys, sizes, strict=True)]
    return {"layers": layers, "head": dense(head_key, hidden_size, vocab_size)}


class SeedsWay:
    """One stream in chunks of 256, Adam with 2e-3; the optimiser is compiled, which the seed did not do."""

    def __init__(self, ids, vocab_size, hidden_size):
        self.ids, self.hidden_size = ids, hidden_size
        self.params = seed_params(vocab_size, hidden_size, jax.random.key(0))
        optimiser = optax.adam(2e-3)
        self.opt_state = optimiser.init(self.params)

        @jax.jit
        def step(params, opt_state, state, inputs, targets):
            (loss, state), gradient = jax.value_and_grad(seed_loss, has_aux=True)(params, state, inputs, targets)
            updates, opt_state = optimiser.update(gradient, opt_state)
            return optax.apply_updates(params, updates), opt_state, state, loss

        self.step = step

    def train(self, characters):
        """The losses of so many characters, in epochs of 10,000 as in the seed."""
        losses, per_epoch = [], 10_000 // CHUNK
        zeros = [jnp.zeros(self.hidden_size)] * LAYERS
        state = zeros
        for i in range(characters // CHUNK):
            at = i * CHUNK % (len(self.ids) - CHUNK - 1)
            state = zeros if i % per_epoch == 0 else state
            inputs, targets = self.ids[at : at + CHUNK], self.ids[at + 1 : at + CHUNK + 1]
            self.params, self.opt_state, state, loss = self.step(self.params, self.opt_state, state, inputs, targets)
            losses.append(loss)
        return np.array(losses)


@pytest.mark.benchmark(group="character RNN")
def test_training_against_the_seeds_way(full_size, benchmark, note):
    """As many characters, and where the text is at hand the loss that they lead to."""
    preset = PRESETS["kafka"]
    try:
        text = load_text("metamorphosis", offline=True)
    except DownloadError:
        pytest.skip("needs the stored text: ZOO_DATA_DIR")
    ids, _ = split_tail((tokenizer := CharacterTokenizer.from_text(text)).encode(text))
    steps = preset.steps if full_size else 2
    characters = steps * preset.num_streams * preset.chunk
    seed = SeedsWay(ids, tokenizer.vocab_size, preset.model.hidden_size)
    config = dataclasses.replace(preset.model, vocab_size=tokenizer.vocab_size)
    model = CharRNN(config, key=jax.random.key(0))
    optimiser = adamw(preset.learning_rate, total_steps=steps, warmup_steps=min(50, steps // 10), clip_norm=1.0)

    def ours():
        batches = prebatched(Streams(ids, preset.num_streams, preset.chunk))
        state = init_state(model, optimiser, key=jax.random.key(1), carry=stream_carry(model, preset.num_streams))
        return fit(state, batches, stream_loss, optimiser, steps=steps)

    if not full_size:
        losses = seed.train(2 * CHUNK)
        assert abs(losses[0] - math.log(tokenizer.vocab_size)) < 1.5
        assert abs(benchmark(ours).history[0]["loss"] - math.log(tokenizer.vocab_size)) < 0.1
        return
    seed.train(CHUNK)
    ours()  # both are compiled now
    begun = time.perf_counter()
    losses = seed.train(characters)
    theirs = time.perf_counter() - begun
    result = benchmark.pedantic(ours, rounds=1)
    seconds = benchmark.stats.stats.median
    last = math.ceil(119_000 / (preset.num_streams * preset.chunk))
    loss = np.mean([record["loss"] for record in result.history if "loss" in record][-last:])
    note(
        f"char_rnn.py --preset kafka, {characters:,} characters: {theirs / seconds:.1f} times faster than the "
        "seed's way "
        f"({seconds:.1f} s to a loss of {loss:.2f}, against {theirs:.1f} s to "
        f"{losses[-119_000 // CHUNK :].mean():.2f})",
        times_faster=theirs / seconds,
        loss=float(loss),
    )


@pytest.mark.benchmark(group="character RNN")
def test_time_of_a_step_by_length_of_the_sequence(full_size, benchmark, race, note, fill):
    """Truncated back-propagation costs what the sequence is long, and compiling it costs the same."""
    lengths = (64, 128, 256, 512, 1024) if full_size else (8, 16)
    hidden_size, streams = (128, 32) if full_size else (8, 2)
    model = fill(
        lambda key: CharRNN(CharRNNConfig(vocab_size=61, hidden_size=hidden_size, num_layers=LAYERS), key=key),
        scale=0.1,
    )
    optimiser = adamw(1e-3, total_steps=100, clip_norm=1.0)
    runs, compiling = [], []
    for length in lengths:
        ids = np.random.default_rng(0).integers(0, 61, streams * length + 1)
        batch = Streams(ids, streams, length)[0]
        state = init_state(model, optimiser, key=jax.random.key(0), carry=stream_carry(model, streams))
        if not full_size:
            runs.append(eqx.filter_jit(train_step(stream_loss, optimiser)).lower(batch, state).as_text())
            continue
        begun = time.perf_counter()
        eqx.filter_jit(train_step(stream_loss, optimiser)).lower(batch, state).compile()
        compiling.append(time.perf_counter() - begun)
        step = make_step(stream_loss, optimiser)
        holder = {"state": state}

        def run(step=step, batch=batch, holder=holder):
            holder["state"], report = step(batch, holder["state"])
            return float(report.sums.mean())

        runs.append(run)
    if not full_size:
        assert len({text.count("\n") for text in runs}) == 1  # one program, up to the lengths of arrays
        benchmark(lambda: None)
        return
    times = race(*runs, rounds=10)
    exponent = np.polyfit(np.log(lengths), np.log(times), 1)[0]
    line = f"train step of a character RNN, 64 to 1,024 characters: time grows with length ** {exponent:.2f}"
    note(
        f"{line} ({times[0]:.1f} to {times[-1]:.0f} ms); compiling {min(compiling):.1f} to {max(compiling):.1f} s",
        exponent=float(exponent),
    )


@pytest.mark.benchmark(group="character RNN")
def test_writing_against_a_call_per_character(full_size, race, note, fill):
    """`generate`, whose loop is compiled, against calling the model itself for each character."""
    hidden_size, length = (128, 500) if full_size else (8, 5)
    model = fill(
        lambda key: CharRNN(CharRNNConfig(vocab_size=61, hidden_size=hidden_size, num_layers=LAYERS), key=key),
        scale=0.1,
    )
    decoder = model.decoder()

    def ours():
        return np.asarray(generate(decoder, [5, 3], max_new_tokens=length).tokens)

    def read(token, before):
        """One step of each cell, nothing compiled: what the seed does for each character."""
        x, after = None, []
        for cell, state in zip(model.cells, before, strict=True):
            projected = cell.project_ids(jnp.array([token]))[0] if x is None else cell.input(x)
            after.append(cell.step(projected, state))
            x = cell.output(after[-1])
        return model.project(x), after

    def naive(length=length // 25 if full_size else length):
        tokens, state, logits = [], model.init_state(), None
        for token in (5, 3):
            logits, state = read(token, state)
        for _ in range(length):
            tokens.append(int(jnp.argmax(logits)))
            logits, state = read(tokens[-1], state)
        return tokens

    assert ours()[:5].tolist() == naive(5)
    medians = race(ours, naive, rounds=5)
    if medians is not None:
        a, b = length / medians[0] * 1e3, length // 25 / medians[1] * 1e3  # characters per second
        note(
            f"writing, one row: {a / b:.0f} times the characters of uncompiled steps ({a:,.0f}/s, {b:,.0f}/s)",
            times=a / b,
        )
