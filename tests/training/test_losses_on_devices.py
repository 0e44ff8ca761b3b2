"""Losses and their gradients in `jax.shard_map`, with its default checks: those of one device, for every loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("losses_on_devices.py")


def test_four_devices_have_the_losses_and_gradients_of_one():
    """Sums, the mean, and its gradients for what the devices share and for what each has of its own."""
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert set(found) == {"source to target", "chunked next token", "next token", "streams", "classification"}
    assert max(found.values()) < 1e-5, found
