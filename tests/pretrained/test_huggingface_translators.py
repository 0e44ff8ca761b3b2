"""Encoder-decoders of transformers: tiny checkpoints in `tests/golden/huggingface` answer as they did there."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
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
        self.decoder, self.in_axes = self.model.decoders(*self.texts[:2])

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


@pytest.fixture(scope="module", params=FOLDERS)
def golden(request):
    return Golden(request.param)


def test_hidden_states_of_every_layer_and_logits(golden):
    for side in ("encoder_hidden", "decoder_hidden"):
        for ours, theirs in zip(golden.answers[side], golden.expected[side], strict=True):
            close(ours, theirs)
    close(golden.answers["logits"], golden.expected["logits"])


def test_greedy_tokens_of_a_batch(golden):
    """It begins with the ids of the folder, which may be more than one, and ends with them, too."""
    decoder = golden.decoder
    forced = list(decoder.start_ids[1:])
    out = zoo.generate(
        decoder, [decoder.start_ids] * 3, max_new_tokens=NEW_TOKENS - len(forced), in_axes=golden.in_axes
    )
    for tokens, length, theirs in zip(out.tokens, out.length, golden.expected["greedy"], strict=True):
        ours = forced + tokens[:length].tolist()
        assert ours == theirs[: len(ours)].tolist()
        assert len(ours) == NEW_TOKENS or ours[-1] in decoder.stop_ids


def test_four_beams(golden):
    decoder = golden.model.decoder(golden.texts[0][0])
    forced = list(decoder.start_ids[1:])
    beams = zoo.beam_search(
        decoder, num_beams=BEAMS, max_new_tokens=BEAM_TOKENS - len(forced), length_penalty=0.0 if forced else 1.0
    )
    for tokens, length, theirs in zip(beams.tokens, beams.length, golden.expected["beams"], strict=True):
        ours = forced + tokens[:length].tolist()
        assert ours == theirs[: len(ours)].tolist()
    if not forced:  # whose length counts in theirs
        np.testing.assert_allclose(beams.scores, golden.expected["beam_scores"], atol=1e-4)


def test_out_and_in_again_is_the_same_to_the_bit(golden, tmp_path):
    zoo.to_pretrained(tmp_path, golden.model, base=golden.path)
    assert eqx.tree_equal(golden.model, zoo.from_pretrained(tmp_path), typematch=True)
    written, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, golden.path))
    for key in ("model_type", "architectures", "decoder_start_token_id"):
        assert written[key] == before[key]


@pytest.mark.slow
def test_bfloat16_is_as_accurate_as_theirs():
    """On average: a single small model of theirs may round luckily."""
    ratios = []
    for name in FOLDERS:
        golden = Golden(name)
        model = zoo.from_pretrained(golden.path, dtype=jnp.bfloat16)
        assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {jnp.dtype(jnp.bfloat16)}
        logits = Golden.answer(model, *golden.texts)["logits"]
        ours = np.sqrt(np.mean((logits - golden.expected["logits"]) ** 2))
        ratios.append(ours / golden.expected["bfloat16_distance"])
        assert ratios[-1] <= 1.3, name
    assert np.mean(np.log(ratios)) <= 0
