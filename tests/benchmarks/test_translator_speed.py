"""The translator against the seed's way in Flax NNX: a training step, greedy decoding, and the memory it takes.

Run as a script, this file is one side of a measurement: `python test_translator_speed.py ours|seed FILE VOCAB`.
"""

import dataclasses
import statistics
import sys
from functools import partial

import equinox as eqx
import jax
import numpy as np
import own_process
import pytest
from translation_pairs import (
    BOUNDARIES,
    LENGTH,
    VOCAB,
    our_batches,
    our_tokens,
    random_corpus,
    read,
    real_corpus,
    seed_batches,
    seed_tokens,
    write,
)

from data.buckets import Buckets
from training import SequenceToSequenceLoss, adamw, init_state, keep_freed_memory, make_step
from zoo import EncoderDecoder, EncoderDecoderConfig, decode, generate

SEED_VOCAB = 100_277  # cl100k_base
FULL = EncoderDecoderConfig(vocab_size=VOCAB)
SMALL = EncoderDecoderConfig(
    vocab_size=60, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=LENGTH, head_dropout_p=0.0
)


class Ours:
    """The compiled step, called as `fit` calls it."""

    def __init__(self, model, learning_rate=1e-3):
        optimiser = adamw(learning_rate, total_steps=1000, schedule="constant", clip_norm=None)
        self.step = make_step(SequenceToSequenceLoss(), optimiser)
        self.state = init_state(model, optimiser, key=jax.random.key(1))

    def __call__(self, batch):
        self.state, report = self.step(batch, self.state)
        return float(report.sums.mean())


def seeds_way(vocab, *sizes, **options):
    import plain_flax
    from flax import nnx

    return plain_flax.Translator(vocab, *sizes, **options, rngs=nnx.Rngs(0))


def seeds_step(model, learning_rate=1e-3):
    import plain_flax

    training = plain_flax.Training(model, learning_rate)
    return lambda batch: training(batch["source"], batch["inputs"], batch["targets"])


def copied(ours):
    """The seed's model with the weights of ours."""
    import plain_flax

    config = ours.config
    sizes = config.vocab_size, config.embed_size, config.num_heads, config.mlp_size
    return plain_flax.copy_weights(ours, seeds_way(*sizes, dropout=0.0))


@pytest.mark.benchmark(group="train step of the translator")
def test_train_step_against_the_seeds_way(full_size, benchmark, note, fill, tmp_path):
    """The seed's model, 256 pairs: time per token of Spanish, and the largest peak of memory."""
    pytest.importorskip("flax", reason="Flax is in the extra `benchmark`")
    if not full_size:
        # Sentences without padding, which the seed learns and attends to; some tokens, real ones, are learnt.
        corpus = random_corpus(64, SMALL.vocab_size)
        batches = list(our_batches(corpus, 8, 4))
        assert sum(our_tokens(batch, SMALL.vocab_size) for batch in batches) == sum(
            batch["weights"].sum() - np.sum(batch["targets"] == SMALL.vocab_size - 3) for batch in batches
        )
        rows = np.random.default_rng(0).integers(0, SMALL.vocab_size, (3, 4, 8), np.int32)
        batch = dict(zip(("source", "inputs", "targets"), rows, strict=True))
        batch |= {"source_length": np.full(4, 8, np.int32), "weights": np.ones((4, 8), np.float32)}
        model = fill(lambda key: EncoderDecoder(SMALL, key=key), scale=0.2)
        ours, seeds = Ours(model), seeds_step(copied(model))
        losses = [benchmark(ours, batch), *(ours(batch) for _ in range(5))]
        np.testing.assert_allclose(losses, [seeds(batch) for _ in losses], atol=1e-4)
        assert losses[-1] < losses[0]
        return

    pairs, rows, count, seed_count = 2**14, 256, 24, 3
    try:
        corpus, kind = real_corpus(pairs), "real"
    except OSError:
        corpus, kind = random_corpus(pairs), "random"
    batches = list(our_batches(corpus, rows, count))
    files = {"ours": tmp_path / "ours.npz", "seed": tmp_path / "seed.npz"}
    write(files["ours"], batches)
    write(files["seed"], seed_batches(corpus, rows, seed_count))
    sides = {
        "ours": own_process.Side(("ours", files["ours"], corpus.vocab_size), tuned=False),
        "seed": own_process.Side(("seed", files["seed"], SEED_VOCAB), tuned=False),
        "seed, tuned": own_process.Side(("seed", files["seed"], SEED_VOCAB), tuned=True),
    }
    measured = benchmark.pedantic(own_process.in_turns, (__file__, sides), {"rounds": 1}, rounds=1)
    tokens = sum(our_tokens(batch, corpus.vocab_size) for batch in batches)
    seed_tokens_of_a_step = seed_tokens(corpus, rows, seed_count) / seed_count
    us, peak = {}, {}
    for name, found in measured.items():
        ms = found.milliseconds
        us[name] = 1e3 * (statistics.median(ms) / seed_tokens_of_a_step if "seed" in name else sum(ms) / tokens)
        peak[name] = found.peak_bytes / 1e9
    lines = [f"train step of the translator, 256 {kind} pairs, per token of Spanish, against the seed's way:"]
    for seed, allocator in (("seed", "as it is"), ("seed, tuned", "tuned")):
        lines.append(
            f"  its allocator {allocator}: {us[seed] / us['ours']:.1f} times faster "
            f"({us['ours']:.3g} us against {us[seed]:.3g} us), {peak[seed] / peak['ours']:.1f} times less peak "
            f"memory ({peak['ours']:.2f} GB against {peak[seed]:.2f} GB)"
        )
    note(
        "\n".join(lines),
        times_faster=us["seed"] / us["ours"],
        times_less_memory=peak["seed"] / peak["ours"],
        us_per_token=us,
        peak_gigabytes=peak,
    )


@pytest.mark.benchmark(group="translating")
def test_greedy_decoding_against_the_whole_model_again_for_each_token(full_size, race, note, fill):
    """1,000 sentences in batches of 256, until the cache is full; the seed's way on two of them, not compiled."""
    pytest.importorskip("flax", reason="Flax is in the extra `benchmark`")
    config, sentences, rows = (FULL, 1000, 256) if full_size else (SMALL, 6, 4)
    new = LENGTH - 1 if full_size else 4
    model = eqx.nn.inference_mode(fill(lambda key: EncoderDecoder(config, key=key), scale=0.2))
    theirs, start = copied(model), model.vocab_size - 2
    theirs.eval()
    column = {"source": random_corpus(sentences, model.vocab_size).sources}
    batches = list(
        Buckets(column, {}, batch_size=rows, bucket_boundaries={"source": tuple(s for s, _ in BOUNDARIES)}, seed=None)
    )
    first = [(batch["source"][0, : batch["source_length"][0]], batch) for batch in (batches[0], batches[-1])]

    def ours(batches=batches):
        tokens = []
        for batch in batches:
            decoder, in_axes = model.decoders(batch["source"], batch["source_length"])
            prompts = np.full((rows, 1), start)
            tokens.append(generate(decoder, prompts, max_new_tokens=new, in_axes=in_axes).tokens)
        return tokens

    def seeds_way():
        """Like the seed without padding: its sources would be attended to with it. Tokens, and their logits."""
        answers = []
        for source, _ in first:
            target, scores = np.zeros((1, LENGTH), np.int32), []
            target[0, 0] = start
            for i in range(new):
                logits = theirs(np.asarray(source[None], np.int32), target[:, :-1])
                scores.append(np.asarray(logits[0, i]))
                target[0, i + 1] = scores[-1].argmax()
            answers.append((target[0, 1 : new + 1], scores))
        return answers

    for (tokens,), (again, scores) in zip((ours([b])[0][:1] for _, b in first), seeds_way(), strict=True):
        assert_equal_up_to_ties(tokens, again, scores)
    medians = race(ours, seeds_way, rounds=3)
    if medians is not None:
        a, b = medians[0] / sentences, medians[1] / len(first)
        note(
            f"greedy decoding of {sentences:,} sentences, {new} tokens each, against the whole model again for each "
            f"token: {b / a:.0f} times faster ({a:.3g} ms a sentence against {b:.3g} ms)",
            times_faster=b / a,
            ms_per_sentence=a,
            naive_ms_per_sentence=b,
        )


def assert_equal_up_to_ties(tokens, others, scores):
    """Equal, or at the first difference both the best but for rounding; what follows is then another sentence."""
    differ = np.flatnonzero(tokens != others)
    if differ.size:
        i = differ[0]
        assert scores[i][tokens[i]] == pytest.approx(scores[i][others[i]], abs=1e-4)


@pytest.mark.benchmark(group="translating")
def test_memory_of_decoding_counts_the_weights_once(full_size, benchmark, note, fill):
    """What the compiled loop needs, for all rows and for half of them: a part by row, and the rest."""
    config, rows, new = FULL, 256, LENGTH - 1
    if not full_size:
        config, rows, new = dataclasses.replace(SMALL, vocab_size=2000), 4, 4
    model = eqx.nn.inference_mode(fill(lambda key: EncoderDecoder(config, key=key), scale=0.2))

    def needed(rows):
        decoder, in_axes = model.decoders(np.zeros((rows, LENGTH), np.int32))
        weights = sum(
            leaf.nbytes
            for leaf in jax.tree.leaves((decoder.embedding, decoder.blocks, decoder.head))
            if eqx.is_array(leaf)
        )
        prompts = np.zeros((rows, 1), np.int32)
        lowered = eqx.filter_jit(decode).lower(
            decoder, prompts, capacity=LENGTH, max_new_tokens=np.int32(new), in_axes=in_axes
        )
        memory = lowered.compile().compiled.memory_analysis()
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        return total - memory.alias_size_in_bytes, weights

    total, weights = benchmark.pedantic(needed, (rows,), rounds=1)
    vmap_rows = (total - needed(rows // 2)[0]) / (rows - rows // 2)
    fixed = total - vmap_rows * rows
    assert fixed == pytest.approx(weights, rel=0.1)
    if full_size:
        note(
            f"memory of decoding {rows} sources at once: {total / 1e6:.0f} MB, {total / weights:.2f} times the "
            f"weights ({weights / 1e6:.0f} MB); {vmap_rows / 1e3:.0f} kB by source, and the weights "
            f"{fixed / weights:.2f} times",
            times_the_weights=total / weights,
            weights_counted=fixed / weights,
        )


def main(side, path, vocab):
    batches = read(path)
    if side == "ours":
        keep_freed_memory()  # as `fit` does
        config = EncoderDecoderConfig(vocab_size=int(vocab))
        step = Ours(eqx.filter_jit(EncoderDecoder)(config, key=jax.random.key(0)))  # as the example makes it
    else:
        step = seeds_step(seeds_way(int(vocab)))
    shapes = {(batch["source"].shape, batch["inputs"].shape): batch for batch in batches}
    own_process.report([partial(step, b) for b in batches], warm_up=[partial(step, b) for b in shapes.values()])


if __name__ == "__main__":
    main(*sys.argv[1:])
