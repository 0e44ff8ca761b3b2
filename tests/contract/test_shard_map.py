"""Data-parallel gradients in `jax.shard_map`, with its default checks: those of one device, for every model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from cases import CASES

SCRIPT = Path(__file__).with_name("shard_map_gradients.py")
# One of each model; the others are the same parts put together otherwise.
QUICK = (
    "TransformerLM-llama",
    "CharRNN-lstm",
    "EncoderDecoder-tied",
    "TextConvNet-kim",
    # JAX 0.12 itself fails at the gradient of the exact gelu ("Primitive polynomial requires varying manual axes").
    "TransformerClassifier-pre-norm" if jax.__version_info__ < (0, 12) else "TransformerClassifier-seed",
)


def differences(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *arguments]
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_four_devices_have_the_gradients_of_one():
    found = differences(*QUICK, JAX_DISABLE_MOST_OPTIMIZATIONS="1")  # compiles in half the time
    assert set(found) == set(QUICK)
    assert max(found.values()) < 1e-5, found


@pytest.mark.slow
def test_four_devices_have_the_gradients_of_one_in_every_case():
    found = differences("--by-hand")
    assert set(found) == {case.name for case in CASES}
    assert max(found.values()) < 1e-5, found
