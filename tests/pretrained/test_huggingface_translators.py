"""Encoder-decoders of transformers: tiny checkpoints in `tests/golden/huggingface` answer as they did there."""

import functools
import json
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from test_huggingface_encoders import Recorded, close

import zoo

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "translator"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir())
NEW_TOKENS, BEAMS, BEAM_TOKENS = 64, 4, 12


class Golden:
    """A folder, what is expected of it, the model in it, and what that makes of the texts."""

    def __init__(self, name):
        self.path = GOLDEN / name
        self.expected = dict(np.load(self.path / "expected.npz"))
        self.model = zoo.from_pretrained(self.path)
        self.texts = tuple(self.expected[name] for name in ("tokens", "lengths", "target"))
        self.answers = jax.device_get(self.answer(self.model, *self.texts))

    @staticmethod
    @eqx.filter_jit
    def answer(model, tokens, lengths, targets):
        """Of the first text, what goes into the stacks and comes out of each block, at last through a norm if there
        is one; of all texts the logits."""
        stacks = lambda m: (m.encoder_stack, m.decoder_stack)  # noqa: E731
        recorded = [Recorded(stack.unstack(), []) for stack in stacks(model)]
        eqx.tree_at(stacks, model, recorded).hidden(tokens[0], targets[0])
        for norm, stack in zip((model.encoder_norm, model.decoder_norm), recorded, strict=True):
            if norm is not None:
                stack.seen[-1] = jax.vmap(norm)(stack.seen[-1])
        logits = jax.vmap(lambda source, length, target: model(source, target, source_length=length))
        return {
            "encoder_hidden": recorded[0].seen,
            "decoder_hidden": recorded[1].seen,
            "logits": logits(tokens, lengths, targets),
        }


@functools.cache
def golden(name):
    return Golden(name)


def some(*names):
    """The others are for the slow run."""
    marks = {name: () if name in names else pytest.mark.slow for name in FOLDERS}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in FOLDERS])


every = pytest.mark.parametrize("name", FOLDERS)


@every
def test_hidden_states_of_every_layer_and_logits(name):
    for side in ("encoder_hidden", "decoder_hidden"):
        for ours, theirs in zip(golden(name).answers[side], golden(name).expected[side], strict=True):
            close(ours, theirs)
    close(golden(name).answers["logits"], golden(name).expected["logits"])


@some("marian", "flan-t5")
def test_greedy_tokens_of_a_batch(name):
    """It begins with the ids of the folder, which may be more than one, and ends with them, too."""
    decoder, in_axes = golden(name).model.decoders(*golden(name).texts[:2])
    forced = list(decoder.start_ids[1:])
    out = zoo.generate(decoder, [decoder.start_ids] * 3, max_new_tokens=NEW_TOKENS - len(forced), in_axes=in_axes)
    for tokens, length, theirs in zip(out.tokens, out.length, golden(name).expected["greedy"], strict=True):
        ours = forced + tokens[:length].tolist()
        assert ours == theirs[: len(ours)].tolist()
        assert len(ours) == NEW_TOKENS or ours[-1] in decoder.stop_ids


@some("bart-scaled")
def test_four_beams(name):
    decoder = golden(name).model.decoder(golden(name).texts[0][0])
    forced = list(decoder.start_ids[1:])
    beams = zoo.beam_search(
        decoder, num_beams=BEAMS, max_new_tokens=BEAM_TOKENS - len(forced), length_penalty=0.0 if forced else 1.0
    )
    for tokens, length, theirs in zip(beams.tokens, beams.length, golden(name).expected["beams"], strict=True):
        ours = forced + tokens[:length].tolist()
        assert ours == theirs[: len(ours)].tolist()
    if not forced:  # whose length counts in theirs
        np.testing.assert_allclose(beams.scores, golden(name).expected["beam_scores"], atol=1e-4)


@every
def test_out_and_in_again_is_the_same_to_the_bit(name, same_bits, tmp_path):
    zoo.to_pretrained(tmp_path, golden(name).model, base=golden(name).path)
    assert same_bits(golden(name).model, zoo.from_pretrained(tmp_path))
    written, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, golden(name).path))
    for key in ("model_type", "architectures", "decoder_start_token_id"):
        assert written[key] == before[key]
