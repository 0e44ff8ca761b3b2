"""The records of a run in its checkpoints: a line each, whatever characters a record holds."""

import jax
import jax.numpy as jnp
import pytest

from training import read_checkpoint, save_checkpoint
from training.saving.files import to_json

NOTE = "".join(map(chr, (0x85, 0x2028, 0x2029, 0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x0A, 0x0D)))  # ends of lines, for some


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_record_with_other_ends_of_lines_is_one_record(train, tmp_path, end):
    train(tmp_path / "run", patience=None, steps=2)
    found = read_checkpoint(tmp_path / "run" / "checkpoints")
    lines = found.files["history.jsonl"].decode().removesuffix("\n").split("\n")
    lines[0] = lines[0].removesuffix("}") + f', "note": {to_json(NOTE)}}}'
    files = {**found.files, "history.jsonl": ("\n".join(lines) + end).encode()}
    state = {name: jnp.asarray(array) for name, array in found._arrays.items()}
    state["key"] = jax.random.wrap_key_data(state["key"])
    save_checkpoint(tmp_path / "run" / "checkpoints", 2, state, found.info, files=files)
    part = train(tmp_path / "run", resume=True, patience=None, steps=2)
    assert part.history[0]["note"] == NOTE
    assert len(part.history) == len(lines)
