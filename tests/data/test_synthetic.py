import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthetic import Part, SequenceTask, Task, _part_of

tasks = st.sampled_from(get_args(Task))
parts = st.sampled_from(get_args(Part))
# (length, largest integer) with enough different sequences for three parts
sizes = st.sampled_from([(1, 100), (2, 10), (3, 5), (4, 30), (7, 2), (12, 3), (70, 2)])


def slow_answer(task, source):
    """The answer, one integer at a time."""
    if task == "copy":
        return list(source)
    if task == "reverse":
        return [source[len(source) - 1 - i] for i in range(len(source))]
    remaining, answer = list(source), []
    while remaining:
        answer.append(min(remaining))
        remaining.remove(min(remaining))
    return answer


@settings(deadline=None, max_examples=40)
@given(tasks, parts, sizes, st.integers(0, 2**32), st.integers(0, 9000))
def test_item_is_zero_source_zero_answer(task, part, size, seed, i):
    length, max_value = size
    item = SequenceTask(task, length=length, max_value=max_value, part=part, seed=seed)[i]
    assert item["inputs"].dtype == item["targets"].dtype == np.int32
    assert item["weights"].dtype == np.float32
    inputs, targets = item["inputs"].tolist(), item["targets"].tolist()
    assert inputs[1:] == targets[:-1]
    sequence = [*inputs, targets[-1]]
    source = sequence[1 : 1 + length]
    assert all(1 <= x <= max_value for x in source)
    assert sequence == [0, *source, 0, *slow_answer(task, source)]
    scored = [t for t, w in zip(targets, item["weights"], strict=True) if w == 1]
    assert scored == slow_answer(task, source)
    assert item["weights"].sum() == length


@settings(deadline=None, max_examples=20)
@given(tasks, parts, st.integers(0, 1000), st.lists(st.integers(0, 20_000), max_size=5))
def test_item_depends_on_arguments_and_index_alone(task, part, seed, visited_before):
    used = SequenceTask(task, part=part, seed=seed)
    for i in visited_before:
        used[i]
    fresh = SequenceTask(task, part=part, seed=seed, size=20_001)
    for i in [0, 4095, 4096, 20_000]:
        for name in ("inputs", "targets", "weights"):
            np.testing.assert_array_equal(used[i][name], fresh[np.int64(i)][name])


def test_seeds_and_parts_give_other_sequences():
    first = SequenceTask("copy").prompts_and_answers(100)[1]
    for other in (SequenceTask("copy", seed=1), SequenceTask("copy", part="test")):
        assert not np.array_equal(first, other.prompts_and_answers(100)[1])


def test_parts_share_no_sequence_whatever_the_seed():
    seen = {
        part: {
            tuple(row)
            for seed in range(3)
            for row in SequenceTask("copy", length=3, max_value=9, part=part, seed=seed)
            .prompts_and_answers(5000)[1]
            .tolist()
        }
        for part in get_args(Part)
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert len(seen["train"] | seen["validation"] | seen["test"]) == 9**3  # and none is left out
    assert 0.05 < len(seen["test"]) / 9**3 < 0.15


@pytest.mark.parametrize(("length", "max_value"), [(1, 100), (2, 10), (3, 5), (5, 3), (7, 2), (1, 313)])
def test_smallest_tasks_have_sequences_in_every_part(length, max_value):
    every = np.array(list(itertools.product(range(1, max_value + 1), repeat=length)), np.int32)
    assert set(_part_of(every).tolist()) == {0, 1, 2}


def test_split_is_the_same_for_ever():
    """A saved model's test sequences must not become another version's training sequences."""
    every = np.array(list(itertools.product(range(1, 4), repeat=3)), np.int32)
    assert "".join(map(str, _part_of(every))) == "001002001000000002000000001"


def test_parts_are_a_tenth_each_and_integers_uniform():
    rows = np.random.default_rng(0).integers(1, 31, (100_000, 4), np.int32)
    shares = np.bincount(_part_of(rows)) / len(rows)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.005)
    answers = SequenceTask("copy").prompts_and_answers(50_000)[1]
    counts = np.bincount(answers.ravel(), minlength=31)[1:]
    expected = answers.size / 30
    assert np.sum((counts - expected) ** 2 / expected) < 60  # chi-square of 29 degrees: one in 2,000


def test_prompts_and_answers_are_the_items():
    source = SequenceTask("sort", part="test", seed=3)
    prompts, answers = source.prompts_and_answers(4100)
    assert prompts.shape == (4100, 6)
    assert answers.shape == (4100, 4)
    for i in (0, 4095, 4096, 4099):
        np.testing.assert_array_equal(prompts[i], source[i]["inputs"][:6])
        np.testing.assert_array_equal(answers[i], source[i]["targets"][5:])


def test_items_cannot_be_changed_by_accident():
    item = SequenceTask("sort")[0]
    for array in item.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "shuffle"}, "task must be one of sort, reverse, copy; got 'shuffle'"),
        ({"part": "dev"}, "part must be one of train, validation, test; got 'dev'"),
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"max_value": 1}, r"max_value must be in 2\.\.2147483646; got 1"),
        ({"max_value": 2**31}, r"max_value must be in 2\.\.2147483646; got 2147483648"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"size": 0}, "size must be in"),
        ({"length": 2, "max_value": 9}, "only 81 different sequences"),
    ],
)
@pytest.mark.usefixtures("as_users")
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequenceTask(**{"task": "sort", **arguments})


@pytest.mark.parametrize("source", [SequenceTask("sort", size=10)])
def test_bounds(source):
    assert len(source) == 10
    source[9]
    for i in (-1, 10):
        with pytest.raises(IndexError, match=f"index {i} is out of range"):
            source[i]
    assert len(list(source)) == 10  # the IndexError ends Python's own iteration


def test_endless():
    assert len(SequenceTask("sort")) == 2**40
    assert SequenceTask("sort")[2**40 - 1]["inputs"].shape == (9,)
    for n in (0, 11):
        with pytest.raises(ValueError, match=f"n must be in 1..10; got {n}"):
            SequenceTask("sort", size=10).prompts_and_answers(n)


def test_representations_are_short_and_stable():
    """Grain stores them to tell whether a state belongs to a source."""
    assert repr(SequenceTask("sort")) == (
        "SequenceTask('sort', length=4, max_value=30, part='train', seed=0, size=None)"
    )
