"""In bfloat16 the tiny checkpoints of transformers answer here as accurately as there, every one of them."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo

FOLDERS = sorted((Path(__file__).parents[1] / "golden" / "huggingface").glob("*/*/"))


@eqx.filter_jit
def answers(kind: str, model: Any, texts: Any, expected: dict[str, Any]) -> Any:
    """Of an encoder the vectors of all tokens, of others logits; as `make_huggingface.py` compares them."""
    if kind == "encoder":
        types = expected["types"][0] if "types" in expected else None
        return jax.vmap(lambda text: model.encode(text, types=types))(texts)
    if kind == "translator":
        start = expected["target"][0, :1]
        return jax.vmap(lambda text: model(text, jnp.concatenate([start, text])))(texts)
    return jax.vmap(model)(texts)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_bfloat16_is_as_accurate_as_theirs(folder):
    """On average over many texts, as the mean distance from the same weights in float32."""
    expected = dict(np.load(folder / "expected.npz"))
    low = eqx.nn.inference_mode(zoo.from_pretrained(folder, dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(low, eqx.is_array))} == {jnp.dtype(jnp.bfloat16)}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, low)
    texts = expected["many_texts"].astype(np.int32)
    ours, exact = (answers(folder.parent.name, model, texts, expected) for model in (low, wide))
    assert np.mean(np.abs(ours - exact)) <= expected["bfloat16_distance"]
