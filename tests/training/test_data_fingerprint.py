"""What tells data apart, wherever in them the difference is; and a run whose data were changed is refused."""

import collections
import copy
import functools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.buckets import Buckets
from data.pipeline import evaluation_batches, pipeline, prebatched
from data.ragged import Ragged
from data.spa_eng import Pairs
from data.synthetic import SequenceTask
from data.windows import Streams, Windows
from training import Checkpoints, Evaluation, Sums, data_fingerprint, fit


def contents(seed=0):
    """Texts, ids, labels, rows and options, of which anything may be changed."""
    draws = np.random.default_rng(seed)
    return {
        "ids": draws.integers(0, 50, 600),
        "rows": [draws.integers(0, 50, length).astype(np.int32) for length in draws.integers(1, 9, 40)],
        "labels": draws.integers(0, 2, 40),
        "texts": ["".join(draws.choice(list("abc é"), 12)) for _ in range(40)],
        "items": [{"x": draws.normal(size=3).astype(np.float32), "weights": np.ones(3)} for _ in range(16)],
        "options": {"seed": 3, "batch_size": 4, "length": 8, "epochs": 2},
    }


def sources(parts, shard=(0, 1)):
    """What makes each kind of data that `fit` may be given, from the same contents."""
    o, ids, items = parts["options"], parts["ids"], parts["items"]
    size, length = o["batch_size"], o["length"]
    rows = {"tokens": Ragged.of(parts["rows"])}
    bounds = {"batch_size": size, "bucket_boundaries": {"tokens": (4, 8)}, "shard": shard}
    plain = grain.MapDataset.source(items).seed(o["seed"]).shuffle().batch(size).to_iter_dataset()
    return {
        "windows": lambda: pipeline(Windows(ids, length), size, seed=o["seed"], epochs=o["epochs"], shard=shard),
        "held out": lambda: evaluation_batches(Windows(ids, length, stride=length), size, shard=shard),
        "streams": lambda: prebatched(Streams(ids, size, length, shard=shard), epochs=o["epochs"]),
        "buckets": lambda: prebatched(Buckets(rows, {"labels": parts["labels"]}, **bounds, seed=o["seed"])),
        "task": lambda: pipeline(SequenceTask("sort", length=length, seed=o["seed"]), size, seed=None),
        "items": lambda: pipeline(items, size, seed=o["seed"], shard=shard),
        "Grain's own": lambda: plain.map(functools.partial(dict)),
        "its iterator": lambda: iter(plain),
        "list": lambda: items,
        "iterator": lambda: iter(items),
        "generator": lambda: (item for item in items),
        "function": lambda: lambda: iter(items),
        "pairs": lambda: Pairs(tuple(parts["texts"]), tuple(reversed(parts["texts"]))),
    }


def changed(parts, draws):
    """One item, label, character or option, or an item more or less; and which sources have it."""
    parts = copy.deepcopy(parts)
    of_items = {"items", "Grain's own", "its iterator", "list", "iterator", "generator", "function"}
    kind = draws.choice(["ids", "rows", "labels", "texts", "items", "seed", "length", "more", "less"])
    i, j = (int(draws.integers(n)) for n in (40, 16))
    if kind == "ids":
        parts["ids"][draws.integers(600)] += 1
    elif kind == "rows":
        parts["rows"][i][-1] += 1
    elif kind == "labels":
        parts["labels"][i] ^= 1
    elif kind == "texts":
        text, place = parts["texts"][i], int(draws.integers(12))
        parts["texts"][i] = text[:place] + "x" + text[place + 1 :]
    elif kind == "items":
        parts["items"][j]["x"][draws.integers(3)] += np.float32(1e-3)
    elif kind in ("seed", "length"):
        parts["options"][kind] += 1
    elif kind == "more":
        parts["items"].append(parts["items"][j])
    else:
        del parts["items"][j]
    affected = {
        "ids": {"windows", "held out", "streams"},
        "rows": {"buckets"},
        "labels": {"buckets"},
        "texts": {"pairs"},
        "seed": {"windows", "buckets", "task", "items", "Grain's own", "its iterator"},
        "length": {"windows", "held out", "streams", "task"},
    }
    return parts, affected.get(kind, of_items)


def test_two_hundred_changes_and_two_hundred_times_none():
    parts, draws = contents(), np.random.default_rng(1)
    before = {name: data_fingerprint(make()) for name, make in sources(parts).items()}
    for _ in range(200):
        other, affected = changed(parts, draws)
        name = draws.choice(sorted(affected))
        assert data_fingerprint(sources(copy.deepcopy(parts))[name]()) == before[name], name
        assert data_fingerprint(sources(other)[name]()) != before[name], name


def test_it_is_of_the_data_not_of_how_far_or_by_whom_they_are_read():
    parts = contents()
    for name in ("windows", "held out", "streams", "buckets", "items", "Grain's own"):
        source = sources(parts)[name]()
        before, iterator = data_fingerprint(source), iter(source)
        for _ in range(2):
            next(iterator)
        assert data_fingerprint(source) == before, name
        if name != "Grain's own":
            assert data_fingerprint(sources(parts, (1, 2))[name]()) == before, name
    assert data_fingerprint(iter(parts["items"])) == data_fingerprint(parts["items"])


def test_files_count_by_their_contents(tmp_path):
    path = tmp_path / "text"
    path.write_text("abc")
    before = data_fingerprint({"file": path})
    assert data_fingerprint({"file": path}) == before
    path.write_text("abd")
    assert data_fingerprint({"file": path}) != before
    array = np.memmap(tmp_path / "array", np.int32, "w+", shape=(4, 3))
    before = data_fingerprint(array)
    assert data_fingerprint(np.zeros((4, 3), np.int32)) == before
    array[3, 2] = 1
    assert data_fingerprint(array) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [12]),
        (["a", "bc"], ["ab", "c"]),
        ([1], [True]),
        ({"a": 1}, {"a": "1"}),
        (np.zeros(4, np.int32), np.zeros(4, np.float32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(0), np.zeros((0, 3))),
        (np.array(["a", None]), np.array(["a", "None"], object)),
        (jax.random.key(0), jax.random.key(1)),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (optax.adam(0.1), optax.adam(0.2)),
        ("\ud800", "\ud801"),
    ],
)
def test_neighbours_are_told_apart(one, other):
    assert data_fingerprint(one) != data_fingerprint(other)
    assert data_fingerprint(copy.deepcopy(one)) == data_fingerprint(one)


def squared_error(model, batch, carry, key):
    return Sums.of(jnp.sum((model["w"] * batch["x"] - 1.0) ** 2), 3.0), carry


@pytest.mark.parametrize("kind", ["list", "pipeline"])
def test_a_run_whose_data_were_changed_anywhere_is_refused(tmp_path, kind):
    """An item outside the first batch, and an evaluation that has grown."""

    def train(items, held_out, **options):
        batches = items if kind == "list" else pipeline(items, 1, seed=0)
        fit({"w": jnp.zeros(())}, batches, squared_error, optax.sgd(0.1), steps=4, key=jax.random.key(0),
            evaluation=Evaluation(held_out, every=2),
            checkpoints=Checkpoints(folder=tmp_path, **options))  # fmt: skip

    items = contents()["items"]
    train(items, items[:8])
    train(copy.deepcopy(items), items[:8], resume=True)
    for i in (1, 9, 15):
        other = copy.deepcopy(items)
        other[i]["x"][0] += 1
        with pytest.raises(ValueError, match=r"data\.all was '[0-9a-f]{16}' and is"):
            train(other, items[:8], resume=True)
    with pytest.raises(ValueError, match=r": data\.all to evaluate on was '[0-9a-f]{16}' and is '[0-9a-f]{16}'$"):
        train(items, items[:12], resume=True)


def test_fingerprints_are_those_of_earlier_versions():
    """Of runs that were begun with them, and are to go on: written when data of this kind were first told apart."""
    earlier = {
        "d43acc263a3d65ce": np.arange(7, dtype=np.int16).reshape(1, 7),
        "955eeb8fc8bc6375": np.arange(5000, dtype=np.float64),
        "fe239e07fd5e9107": np.arange(12)[::-2],
        "a1dd80648d370562": np.zeros((0, 3), np.float32),
        "ff8abd5b1c468a6b": np.float32(1.5),
        "616037097e86d702": np.array(["a", None, 3], dtype=object),
        "9f3a503fe2eea1c3": jnp.arange(3),
        "f9d68d6bbf8780d7": jax.random.key(1),
        "ca8bce5ceed360e2": [{"x": np.arange(3), "y": np.float32(i), "text": "é\ud800"} for i in range(3)],
        "3cbe5e638cfefdd7": ["one", "two" * 2000, ""],
        "1eedff6be24d3e40": {"a": [("b", 1, None), {"c": {2, 3}}], 5: collections.deque([1.5, b"x"])},
        "86dab70b16a93675": bytes(range(256)) * 20,
    }
    assert [data_fingerprint(data) for data in earlier.values()] == list(earlier)
