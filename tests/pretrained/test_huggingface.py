"""Decoder-only models of transformers: tiny checkpoints in `tests/golden/huggingface` answer as they did there."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import zoo

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "causal"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir())
NEW_TOKENS, BEAMS, BEAM_TOKENS = 64, 4, 12


class Golden:
    """A folder, what is expected of it, and the model in it."""

    def __init__(self, name):
        self.path = GOLDEN / name
        self.expected = np.load(self.path / "expected.npz")
        self.model = zoo.from_pretrained(self.path)
        self.prompts = [self.expected[f"prompt_{row}"].tolist() for row in range(3)]

    @functools.cached_property
    def decoder(self):
        return eqx.filter_jit(self.model.decoder)()


@functools.cache
def golden(name):
    return Golden(name)


def some(*names):
    """These folders by default, the others in a run of slow tests: to generate takes seconds to compile."""
    marks = {name: () if name in names else pytest.mark.slow for name in FOLDERS}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in FOLDERS])


every = pytest.mark.parametrize("name", FOLDERS)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1.0, np.abs(theirs).max()))


@eqx.filter_jit
def after_each_layer(decoder, tokens):
    """What comes out of each block, and the logits."""
    outs = []

    class Recorded(eqx.Module):
        block: Any

        @property
        def attention(self):
            return self.block.attention

        def extend(self, *args, **kwargs):
            x, cache = self.block.extend(*args, **kwargs)
            outs.append(x)
            return x, cache

    recorded = eqx.tree_at(lambda d: d.blocks, decoder, tuple(map(Recorded, decoder.blocks)))
    logits, _ = recorded.extend(tokens, recorded.init_state(tokens.size))
    return outs, logits


@every
def test_hidden_states_and_logits_of_a_whole_text(name):
    hidden = eqx.filter_jit(golden(name).model.hidden)(jnp.array(golden(name).prompts[0]))
    close(hidden, golden(name).expected["hidden"][-1])
    close(golden(name).model.project(hidden), golden(name).expected["logits"])


@some("gpt2", "mistral", "qwen3", "gemma-2", "gemma-3")
def test_hidden_states_after_every_layer_of_the_decoder(name):
    outs, logits = after_each_layer(golden(name).decoder, jnp.array(golden(name).prompts[0]))
    for ours, theirs in zip(outs[:-1], golden(name).expected["hidden"][1:-1], strict=True):
        close(ours, theirs)
    close(logits, golden(name).expected["logits"])  # the last hidden state of theirs is normalised


@some("llama-3", "llama-linear")
def test_greedy_tokens_of_a_batch(name):
    out = zoo.generate(golden(name).decoder, golden(name).prompts, max_new_tokens=NEW_TOKENS)
    for row, (tokens, length) in enumerate(zip(out.tokens, out.length, strict=True)):
        assert tokens[:length].tolist() == golden(name).expected[f"greedy_{row}"].tolist()


@some("llama-linear")
def test_four_beams(name):
    beams = zoo.beam_search(
        golden(name).decoder, golden(name).prompts[0], num_beams=BEAMS, max_new_tokens=BEAM_TOKENS, length_penalty=1.0
    )
    for tokens, length, theirs in zip(beams.tokens, beams.length, golden(name).expected["beams"], strict=True):
        assert tokens[:length].tolist() == theirs[:length].tolist()
    np.testing.assert_allclose(beams.scores, golden(name).expected["beam_scores"], atol=1e-4)


@every
def test_out_and_in_again_is_the_same_to_the_bit(name, same_bits, tmp_path):
    zoo.to_pretrained(tmp_path, golden(name).model, base=golden(name).path)
    again = zoo.from_pretrained(tmp_path)
    assert same_bits(golden(name).model, again)
    for key in ("model_type", "architectures"):
        assert json.loads((tmp_path / "config.json").read_text())[key] == json.loads(
            (golden(name).path / "config.json").read_text()
        )[key]  # fmt: skip


PLACES = [Path(os.environ.get("ZOO_DATA_DIR", "")), Path(__file__).parents[2] / "../shared/data"]
STORIES = max((place / "stories260K/hf" for place in PLACES), key=Path.is_dir)
# As published in llama2.c, doc/stories260K.md.
STORY = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, \
red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play \
with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." Her mom said, "Don't \
worry, Lily. We can help you."""


@pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs stories260K: ../shared/data beside the repository, or ZOO_DATA_DIR"
)
def test_a_real_llama_writes_its_published_story():
    model = zoo.from_pretrained(STORIES)
    out = zoo.generate(eqx.filter_jit(model.decoder)(), max_new_tokens=256)  # from its own start id
    vocab = json.loads((STORIES / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = {token: piece for piece, token in vocab.items()}
    text = "".join(pieces[token] for token in out.tokens[: out.length].tolist())
    assert text.replace("▁", " ").replace("<0x0A>", "\n").strip().startswith(STORY)
