"""Pairs of English and Spanish as batches: those that our pipeline makes, and those of the seed."""

from typing import NamedTuple

import numpy as np

from data.buckets import Buckets
from data.ragged import Ragged
from data.spa_eng import load_pairs
from data.vocabularies import fetch_vocabulary
from examples.translate import PRESETS
from zoo.text import BytePairTokenizer

LENGTH = 20  # of the seed's sources and, markers included, targets
VOCAB = 21_000  # about what the corpus uses of cl100k_base, for random tokens
START_PARTS, STOP_PARTS = 2, 3  # tokens of the seed's "[start]" and " [end]", which are no tokens of their own
BOUNDARIES = PRESETS["seed"].bucket_boundaries


class Corpus(NamedTuple):
    """Pairs in our tokens, with start and stop ids, and in the seed's, with its markers."""

    sources: Ragged
    targets: Ragged
    seed_pairs: list[tuple[np.ndarray, np.ndarray]]
    vocab_size: int  # the last three ids are stop, start and padding


def real_corpus(pairs):
    """From the stored corpus; raises `OSError` where it is not at hand."""
    full = BytePairTokenizer.named("cl100k_base", fetch_vocabulary("cl100k_base", offline=True))
    lines = list(load_pairs(offline=True))
    small = full.compacted(sentence for line in lines for sentence in line)
    chosen = [lines[i] for i in np.random.default_rng(0).choice(len(lines), pairs, replace=False)]
    start, stop = [small.start_id], [small.stop_id]
    return Corpus(
        Ragged.of([small.encode(english) for english, _ in chosen]),
        Ragged.of([np.concatenate([start, small.encode(spanish), stop]) for _, spanish in chosen]),
        [(full.encode(english), full.encode(f"[start] {spanish} [end]")) for english, spanish in chosen],
        small.vocab_size,
    )


def random_corpus(pairs, vocab_size=VOCAB):
    """Random tokens, in sentences about as long as the real ones: 8 tokens of English, 10 of Spanish on average."""
    rng = np.random.default_rng(0)
    sources, targets = ([rng.integers(0, vocab_size - 3, 3 + rng.poisson(n)) for _ in range(pairs)] for n in (5, 7))
    start, stop = [vocab_size - 2], [vocab_size - 3]
    seed_pairs = [(a, np.pad(b, (START_PARTS, STOP_PARTS))) for a, b in zip(sources, targets, strict=True)]
    with_markers = [np.concatenate([start, row, stop]) for row in targets]
    return Corpus(Ragged.of(sources), Ragged.of(with_markers), seed_pairs, vocab_size)


def our_batches(corpus, rows, count):
    """As the pipeline makes them: bucketed by both lengths, the targets one token on from the inputs."""
    boundaries = {"source": tuple(s for s, _ in BOUNDARIES), "target": tuple(t + 1 for _, t in BOUNDARIES)}
    longest = BOUNDARIES[-1]
    fits = (corpus.sources.lengths <= longest[0]) & (corpus.targets.lengths - 1 <= longest[1])
    columns = {
        "source": corpus.sources.take(np.flatnonzero(fits)),
        "target": corpus.targets.take(np.flatnonzero(fits)),
    }
    buckets = Buckets(
        columns, {}, batch_size=rows, bucket_boundaries=boundaries, seed=0, pad_id=corpus.vocab_size - 1
    )
    for i in range(count):
        batch = buckets[i]
        weights = np.arange(1, batch["target"].shape[1]) < batch["target_length"][:, None]
        yield {
            "source": batch["source"].astype(np.int32),
            "source_length": batch["source_length"],
            "inputs": batch["target"][:, :-1].astype(np.int32),
            "targets": batch["target"][:, 1:].astype(np.int32),
            "weights": weights.astype(np.float32),
        }


def our_tokens(batch, vocab_size):
    """Tokens of Spanish that are learnt in a batch: neither markers nor padding."""
    return int(np.sum((batch["weights"] > 0) & (batch["targets"] < vocab_size - 3)))


def seed_batches(corpus, rows, count):
    """As the seed makes them: every row cut or filled up with zeros to 20."""

    def fixed(row):
        return np.pad(row[:LENGTH], (0, max(LENGTH - len(row), 0))).astype(np.int32)

    for i in range(count):
        pairs = corpus.seed_pairs[rows * i : rows * (i + 1)]
        sources, targets = (np.stack([fixed(row) for row in side]) for side in zip(*pairs, strict=True))
        yield {"source": sources, "inputs": targets[:, :-1], "targets": targets[:, 1:]}


def seed_tokens(corpus, rows, count):
    """Tokens of Spanish in its batches: what is left of the rows without markers."""
    lengths = np.array([len(target) for _, target in corpus.seed_pairs[: rows * count]])
    return int(np.minimum(lengths - START_PARTS - STOP_PARTS, LENGTH - START_PARTS).sum())


def write(path, batches):
    np.savez(path, **{f"{i}.{name}": array for i, batch in enumerate(batches) for name, array in batch.items()})


def read(path):
    batches = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            i, name = key.split(".")
            batches.setdefault(int(i), {})[name] = arrays[key]
    return [batches[i] for i in sorted(batches)]
