"""Data-parallel gradients in `jax.shard_map`, with its default checks: those of one device, for every model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import CASES

SCRIPT = Path(__file__).with_name("shard_map_gradients.py")
# One of each model; the others are the same parts put together otherwise.
QUICK = (
    "TransformerLM-llama",
    "CharRNN-lstm",
    "EncoderDecoder-tied",
    "TextConvNet-kim",
    "TransformerClassifier-pre-norm",
)


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(case.name for case in CASES), marks=pytest.mark.slow)], ids=["quick", "all"]
)
def test_four_devices_have_the_gradients_of_one(names):
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout)
    assert set(differences) == set(names)
    assert max(differences.values()) < 1e-5, differences
