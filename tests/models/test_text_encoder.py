"""What `TextEncoder` promises beyond the contract and the golden folders: heads, types, padding, presets, errors."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TextEncoder, TextEncoderConfig
from zoo.rebuild import named_arrays

pytestmark = pytest.mark.usefixtures("strict_promotion")

SIZES: Any = {"vocab_size": 11, "embed_size": 12, "num_layers": 1, "num_heads": 4, "mlp_size": 20, "max_length": 10}


def make(fill, **options):
    return eqx.nn.inference_mode(fill(lambda key: TextEncoder(TextEncoderConfig(**SIZES, **options), key=key)))


@pytest.fixture(scope="module")
def plain(fill):
    return make(fill, num_types=2)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (TextEncoderConfig.bert(), 109_514_298),
        (TextEncoderConfig.roberta(), 124_697_433 - 2 * 768),  # without two rows of positions that nothing uses
        (TextEncoderConfig.distilbert(), 66_985_530),
        (TextEncoderConfig.distilbert(head="classifier", num_classes=2), 66_955_010),
    ],
    ids=["bert", "roberta", "distilbert", "distilbert-classifier"],
)
def test_presets_have_as_many_parameters_as_the_originals(config, parameters):
    model = eqx.filter_eval_shape(TextEncoder, config, key=jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in named_arrays(model).values()) == parameters


def test_whatever_stands_in_the_padding_changes_nothing(plain):
    both = eqx.filter_jit(lambda tokens, length: (plain.encode(tokens, length), plain.embed(tokens, length)))
    real, text = 4, [3, 1, 4, 1]
    alone, vector = both(jnp.array(text), real)
    for padding in ([0, 0, 0], [99, -1, 5]):
        padded, vector_of_padded = both(jnp.array(text + padding), real)
        np.testing.assert_allclose(padded[:real], alone, atol=1e-5)
        np.testing.assert_allclose(vector_of_padded, vector, atol=1e-5)


def test_types_are_all_zero_by_default_and_matter(plain):
    text = jnp.array([3, 1, 4, 1])
    encode = eqx.filter_jit(lambda types: plain.encode(text, types=types))
    np.testing.assert_allclose(encode(None), encode(jnp.zeros(4, int)), atol=1e-5)
    assert np.abs(encode(None) - encode(jnp.array([0, 0, 1, 1]))).max() > 0.01


def test_a_vector_may_be_that_of_the_first_token(plain):
    text = jnp.array([3, 1, 4, 1])
    first = np.asarray(plain.encode(text)[0])
    np.testing.assert_allclose(plain.embed(text, pooling="first"), first / np.linalg.norm(first), atol=1e-6)


@pytest.mark.usefixtures("as_users")
def test_what_cannot_be_is_named(fill, plain):
    ids = jnp.arange(4)
    with pytest.raises(ValueError, match="pooling must be one of 'mean', 'first', got 'last'"):
        plain.embed(ids, pooling="last")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="head is 'none', which gives no logits"):
        plain(ids)
    with pytest.raises(ValueError, match=r"tokens has 11 ids, more than max_length \(10\)"):
        plain.encode(jnp.zeros(11, int))
    with pytest.raises(ValueError, match="types are given, but the model has no table of them"):
        make(fill).encode(ids, types=ids)
    with pytest.raises(ValueError, match="tokens must have one axis"):
        plain.encode(ids[None])
    wrong: list[dict[str, Any]] = [{"head": "classifier"}, {"head": "masked_lm", "num_classes": 2}]
    for options in wrong:
        with pytest.raises(ValueError, match="num_classes goes with head='classifier'"):
            TextEncoderConfig(**SIZES, **options)
