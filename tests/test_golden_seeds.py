"""The seeds' own models, in Flax and Trax, gave what is in `golden/seeds`; ours give it with the same weights."""

import ast
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.golden.seeds.models import CHAR_RNN, CLASSIFIER, CONVNETS, LENGTHS, TRANSLATOR, filled
from tests.golden.seeds.seed_weights import seed_weights
from zoo.pretrained.trax import TRANSFORMER_LM, name_weights
from zoo.rebuild import with_arrays

pytestmark = pytest.mark.compat


def golden(seed):
    return np.load(Path(__file__).parent / "golden" / "seeds" / f"{seed}.npz", allow_pickle=False)


def agree(ours, theirs):
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@eqx.filter_jit
def answer(model, *batch):
    return jax.vmap(model)(*map(jnp.asarray, batch))


def test_000_the_transformer_classifier():
    file, model = golden("000"), filled(zoo.TransformerClassifier, CLASSIFIER)
    agree(answer(model, file["tokens"]), file["logits"])


@pytest.mark.parametrize("config", CONVNETS, ids=lambda config: f"kernel {config.branches[0][0][0]}")
def test_001_the_convnet_at_every_length(config):
    file, model = golden("001"), filled(zoo.TextConvNet, config)
    kernel_size = config.branches[0][0][0]
    for length in LENGTHS:
        agree(answer(model, file["tokens"][:, :length]), file[f"logits_{kernel_size}_{length}"])


def test_001_windows_that_stand_fast_give_other_logits():
    """Of 500 tokens, Flax begins its first window one token later."""
    file, model = golden("001"), zoo.rebuild(filled(zoo.TextConvNet, CONVNETS[0]), padding="fixed")
    assert np.abs(answer(model, file["tokens"]) - file["logits_7_500"]).max() > 0.01


def test_002_the_translator():
    file, model = golden("002"), filled(zoo.EncoderDecoder, TRANSLATOR)
    agree(answer(model, file["sources"], file["inputs"]), file["logits"])


def test_003_the_character_rnn():
    file, model = golden("003"), filled(zoo.CharRNN, CHAR_RNN)
    logits, state = eqx.filter_jit(model)(jnp.asarray(file["tokens"]))
    agree(logits[7::8], file["logits"])
    agree(jnp.stack(state), file["state"])


def test_004_the_language_model_of_trax():
    """With the seed's sizes and Trax's default of 8 heads. Trax shifts its inputs itself: a 0 comes before them."""
    file = golden("004")
    flat = seed_weights({str(i): ast.literal_eval(shape) for i, shape in enumerate(file["shapes"].tolist())})
    config = zoo.TransformerLMConfig.trax(vocab_size=32, embed_size=32, num_layers=2, mlp_size=128)
    skeleton = eqx.filter_eval_shape(zoo.TransformerLM, config, key=jax.random.key(0))
    model = eqx.nn.inference_mode(with_arrays(skeleton, name_weights(list(flat.values()), TRANSFORMER_LM)))
    assert sum(array.size for array in flat.values()) == 93_088
    shifted = np.pad(file["tokens"], ((0, 0), (1, 0)))[:, :-1]
    agree(answer(model, shifted), file["logits"])
