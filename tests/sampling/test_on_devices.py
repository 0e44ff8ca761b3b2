"""Decoding inside the user's own `shard_map`, on four emulated devices in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from decoders import NAMES

SCRIPT = Path(__file__).with_name("decoding_on_devices.py")


def decode_on_devices(*subjects: str) -> None:
    paths = os.pathsep.join(str(SCRIPT.parents[2] / folder) for folder in ("", "tests/contract"))
    env = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, SCRIPT, *subjects], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("as alone") == len(subjects) + 2
    assert run.stdout.count("types fit") == len(NAMES) - len(subjects)


def test_shares_of_devices_are_decoded_as_alone():
    decode_on_devices("elman")


@pytest.mark.slow
def test_shares_of_devices_are_decoded_as_alone_by_every_decoder():
    decode_on_devices(*NAMES)
