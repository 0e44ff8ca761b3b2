"""Text encoders of transformers: tiny checkpoints in `tests/golden/huggingface` answer as they did there."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import zoo

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "encoder"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir())


class Recorded(eqx.Module):
    """In place of a block, or of a stack: the same, and what goes into its first block and comes out is kept."""

    blocks: tuple[Any, ...]
    seen: list[Any] = eqx.field(static=True)

    def __call__(self, x, *, key=None, **shared):
        self.seen.extend([] if self.seen else [x])
        for block in self.blocks:
            self.seen.append(x := block(x, **shared))
        return x

    def scan(self, apply, x, per_layer):
        for i, block in enumerate(self.blocks):
            x, _ = apply(block, x, jax.tree.map(lambda leaf, i=i: leaf[i], per_layer))
            self.seen.append(x)
        return x, None

    def __len__(self):
        return len(self.blocks)


def hidden_states(model, tokens, types):
    """What goes into the first block and what comes out of each, at last through a norm if there is one."""
    stack = Recorded(model.stack.unstack(), seen := [])
    recorded = eqx.tree_at(lambda m: m.stack, model, stack)
    if hasattr(model, "first_block"):
        recorded = eqx.tree_at(lambda m: m.first_block, recorded, Recorded((model.first_block,), seen))
    last = recorded.encode(tokens, types=types)
    return [*seen[:-1], last]


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
        typed = getattr(model.config, "num_types", None) is not None
        each = lambda f: jax.vmap(lambda *text: f(text[0], text[1], types=text[2] if typed else None))  # noqa: E731
        seen = hidden_states(model, tokens[0], types[0] if typed else None)
        encoded = each(model.encode)(tokens, lengths, types)
        logits = None if model.config.head == "none" else each(model)(tokens, lengths, types)
        pooled, vectors = jax.vmap(model.pool)(encoded), each(model.embed)(tokens, lengths, types)
        return {"hidden": seen, "encoded": encoded, "pooled": pooled, "logits": logits, "vectors": vectors}


# Of each kind of what is particular to it; the others are for the slow run.
FIRST = ("bert-classifier", "distilbert", "modernbert", "roberta-masked-lm")


@pytest.fixture(
    scope="module",
    params=[name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in FOLDERS],
)
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
    elif "pooler_output" in expected:
        close(golden.answers["pooled"], expected["pooler_output"])


def test_a_vector_for_a_text_is_the_mean_of_its_tokens_with_length_one(golden):
    answers, lengths = golden.answers, golden.expected["lengths"]
    for vector, encoded, length in zip(answers["vectors"], answers["encoded"], lengths, strict=True):
        mean = encoded[:length].mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_names_of_classes_come_along(golden):
    config = golden.model.config
    named = {"bert-classifier": ("no", "maybe", "yes")}
    assert config.class_names == named.get(golden.path.name)
    expected = golden.expected["logits"].shape[-1] if config.head == "classifier" else None
    assert config.num_classes == expected


def test_out_and_in_again_is_the_same_to_the_bit(golden, same_bits, tmp_path):
    zoo.to_pretrained(tmp_path, golden.model, base=golden.path)
    assert same_bits(golden.model, zoo.from_pretrained(tmp_path))
    written, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, golden.path))
    for key in ("model_type", "architectures", "id2label"):
        assert written.get(key) == before.get(key) or key not in before
