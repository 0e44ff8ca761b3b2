"""Text encoders of transformers: tiny checkpoints in `tests/golden/huggingface` answer as they did there."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "encoder"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir())


class Recorded(eqx.Module):
    """In place of a stack: the same, and what goes into its first block and comes out of each is kept."""

    blocks: tuple[eqx.Module, ...]
    seen: list[Any] = eqx.field(static=True)

    def __call__(self, x, *, key, **shared):
        self.seen.append(x)
        for block in self.blocks:
            self.seen.append(x := block(x, **shared))
        return x


class Golden:
    """A folder, what is expected of it, the model in it, and what that makes of the texts."""

    def __init__(self, name):
        self.path = GOLDEN / name
        self.expected = dict(np.load(self.path / "expected.npz"))
        self.model = zoo.from_pretrained(self.path)
        self.real = np.arange(self.expected["tokens"].shape[1]) < self.expected["lengths"][:, None]
        self.answers = jax.device_get(self.answer(self.model, *self.texts))

    @property
    def texts(self):
        tokens, lengths, types = (self.expected.get(name) for name in ("tokens", "lengths", "types"))
        return tokens, lengths, np.zeros_like(tokens) if types is None else types

    @staticmethod
    @eqx.filter_jit
    def answer(model, tokens, lengths, types):
        """Hidden states of the first text, vectors of all tokens, pooled vectors, logits."""
        typed = model.config.num_types is not None
        each = lambda f: jax.vmap(lambda *text: f(text[0], text[1], types=text[2] if typed else None))  # noqa: E731
        recorded = eqx.tree_at(lambda m: m.stack, model, Recorded(model.stack.unstack(), seen := []))
        recorded.encode(tokens[0], types=types[0] if typed else None)
        encoded = each(model.encode)(tokens, lengths, types)
        logits = None if model.config.head == "none" else each(model)(tokens, lengths, types)
        return {"hidden": seen, "encoded": encoded, "pooled": jax.vmap(model.pool)(encoded), "logits": logits}


@pytest.fixture(scope="module", params=FOLDERS)
def golden(request):
    return Golden(request.param)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1.0, np.abs(theirs).max()))


def test_hidden_states_of_every_layer(golden):
    for ours, theirs in zip(golden.answers["hidden"], golden.expected["hidden"], strict=True):
        close(ours, theirs)
    close(golden.answers["encoded"][golden.real], golden.expected["last"])


def test_logits_and_pooled_vectors(golden):
    expected, head = golden.expected, golden.model.config.head
    assert ("logits" in expected) == (head != "none")
    if head != "none":
        logits = golden.answers["logits"]
        close(logits[golden.real] if head == "masked_lm" else logits, expected["logits"])
    elif golden.model.config.pooler != "none":
        close(golden.answers["pooled"], expected["pooler_output"])


def test_a_vector_for_a_text_is_the_mean_of_its_tokens_with_length_one(golden):
    tokens, lengths, _ = golden.texts
    vectors = np.asarray(eqx.filter_jit(jax.vmap(golden.model.embed))(tokens, lengths))
    untyped = golden.answers["encoded"] if "types" not in golden.expected else None
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, atol=1e-6)
    if untyped is not None:
        for vector, encoded, length in zip(vectors, untyped, lengths, strict=True):
            mean = encoded[:length].mean(0)
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_names_of_classes_come_along(golden):
    config = golden.model.config
    named = {"bert-classifier": ("no", "maybe", "yes")}
    assert config.class_names == named.get(golden.path.name)
    assert config.num_classes == {"bert": 3, "roberta": 2, "distilbert": 2}.get(
        golden.path.name.removesuffix("-classifier") if config.head == "classifier" else ""
    )


def test_out_and_in_again_is_the_same_to_the_bit(golden, tmp_path):
    zoo.to_pretrained(tmp_path, golden.model, base=golden.path)
    assert eqx.tree_equal(golden.model, zoo.from_pretrained(tmp_path), typematch=True)
    written, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, golden.path))
    for key in ("model_type", "architectures", "id2label"):
        assert written.get(key) == before.get(key) or key not in before


def test_bfloat16_is_as_accurate_as_theirs(golden):
    model = zoo.from_pretrained(golden.path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {jnp.dtype(jnp.bfloat16)}
    tokens, lengths, types = golden.texts
    typed = model.config.num_types is not None
    encode = lambda token, length, type: model.encode(token, length, types=type if typed else None)  # noqa: E731
    encoded = np.asarray(eqx.filter_jit(jax.vmap(encode))(tokens, lengths, types), np.float32)
    distance = np.sqrt(np.mean((encoded[golden.real] - golden.expected["last"]) ** 2))
    assert distance <= golden.expected["bfloat16_distance"]
