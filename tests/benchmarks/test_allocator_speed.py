"""A training step of somebody who sets nothing, against the same with `GLIBC_TUNABLES` set before the start.

Run as a script, this file is one side of a measurement: `python test_allocator_speed.py step|fit STEPS`, which times
single steps, or looks at the memory before and after a run of `fit`.
"""

import gc
import json
import re
import statistics
import sys
from pathlib import Path

import jax
import own_process
import pytest
from test_classifier_speed import LEARNING_RATE, SIZES, Ours, our_model, random_batch

from training import adamw, classification_loss, fit, keep_freed_memory  # with `fit` comes the allocator
from training.reporting.memory import peak_memory

OFF = {"ZOO_ALLOCATOR": "0"}
NAME = "transformer"  # of the classifiers: a step of many large results


@pytest.mark.benchmark(group="allocator")
def test_train_step_against_settings_made_before_the_start(full_size, benchmark, note):
    if not full_size:
        benchmark(keep_freed_memory)
        return
    steps = 20
    sides = {
        "ours": own_process.Side(("step", steps), tuned=False),
        "tuned": own_process.Side(("step", steps), tuned=True),  # where `keep_freed_memory` does nothing
        "off": own_process.Side(("step", steps), tuned=False, settings=OFF),
    }
    measured = benchmark.pedantic(own_process.in_turns, (__file__, sides), {"rounds": 5}, rounds=1)
    ours, tuned, off = (statistics.median(side.milliseconds) for side in measured.values())
    note(
        f"train step of somebody who sets nothing: {ours / tuned:.3f} times the one with GLIBC_TUNABLES set before "
        f"the start ({ours:.3g} ms against {tuned:.3g} ms; {off:.3g} ms with ZOO_ALLOCATOR=0)",
        times=ours / tuned,
        ms=ours,
        tuned_ms=tuned,
        off_ms=off,
    )


@pytest.mark.benchmark(group="allocator")
def test_memory_held_after_fit(full_size, benchmark, note):
    benchmark(held_bytes)
    if not full_size:
        return
    ours = own_process.answer(__file__, own_process.Side(("fit", 10), tuned=False))
    off = own_process.answer(__file__, own_process.Side(("fit", 10), tuned=False, settings=OFF))
    figures = ", ".join(f"{name} {ours[name] / 1e6:.0f} MB ({off[name] / 1e6:.0f} MB)" for name in ours)
    note(f"memory of a process around `fit` (with ZOO_ALLOCATOR=0): {figures}", **ours)


def held_bytes():
    """Of this process now, without files that are mapped."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def train(batch, steps):
    """`fit`, of which nothing is kept: what the process has more than before is the allocator's."""
    before = held_bytes()
    optimiser = adamw(LEARNING_RATE[NAME], total_steps=steps, clip_norm=1.0)
    model = our_model(NAME, *SIZES[NAME][::2], key=jax.random.key(0))
    fit(model, [batch] * steps, classification_loss, optimiser, steps=steps, key=jax.random.key(1))
    del model
    gc.collect()
    print(json.dumps({"before": before, "after": held_bytes(), "peak": peak_memory()}))


def main(side, steps):
    batch = random_batch(*SIZES[NAME])
    if side == "fit":
        train(batch, int(steps))
        return
    vocab, _, length = SIZES[NAME]
    step = Ours(our_model(NAME, vocab, length, key=jax.random.key(0)), batch, LEARNING_RATE[NAME])
    own_process.report([step] * int(steps), warm_up=[step] * 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
