"""What `T5` promises beyond the contract and the golden folders: sizes of the originals, any length, two tables."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import T5, EncoderDecoder, EncoderDecoderConfig, T5Config, generate
from zoo.rebuild import named_arrays

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.mark.parametrize(
    ("model", "config", "parameters"),
    [
        (T5, T5Config.t5(), 60_506_624),
        (T5, T5Config.flan(), 76_961_152),
        # Two tables without two rows each that nothing uses, and a bias of logits, which does not count there.
        (EncoderDecoder, EncoderDecoderConfig.bart(), 139_420_416 - 2 * 2 * 768 + 50_265),
    ],
    ids=["t5-small", "flan-t5-small", "bart-base"],
)
def test_presets_have_as_many_parameters_as_the_originals(model, config, parameters):
    skeleton = eqx.filter_eval_shape(model, config, key=jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in named_arrays(skeleton).values()) == parameters


@pytest.fixture(scope="module")
def t5(fill):
    config = T5Config.t5(
        vocab_size=11,
        embed_size=12,
        num_layers=1,
        num_heads=2,
        head_size=5,
        mlp_size=20,
        num_buckets=8,
        max_distance=6,
    )
    return eqx.nn.inference_mode(fill(lambda key: T5(config, key=key)))


def test_it_writes_on_without_an_end(t5):
    assert t5.max_length is None
    source = np.arange(30) % 11
    out = generate(t5.decoder(source), [0], max_new_tokens=40)
    logits = eqx.filter_jit(t5)(jnp.asarray(source), jnp.array([0, *out.tokens[:-1].tolist()]))
    np.testing.assert_array_equal(np.argmax(logits, axis=-1), out.tokens)


def test_each_side_has_a_table_of_its_own_and_only_the_encoder_looks_ahead(t5):
    source, target = jnp.arange(7), jnp.arange(5)

    @jax.jit
    @jax.grad
    def gradient(tables, target):
        model = eqx.tree_at(lambda m: (m.encoder_bias.weight, m.decoder_bias.weight), t5, tables)
        return model(source, target)[-1].sum()

    encoder, decoder = map(np.asarray, gradient((t5.encoder_bias.weight, t5.decoder_bias.weight), target))
    assert (np.abs(encoder[[0, 1, 2, 5, 6]]).max(-1) > 0).all()  # 4 buckets behind, 4 ahead, of which 0 is not used
    assert (encoder[4] == 0).all()
    assert (np.abs(decoder[:4]).max(-1) > 0).all()  # itself and one, two, three tokens behind


@pytest.mark.usefixtures("as_users")
def test_what_cannot_be_is_named(t5):
    ids = jnp.arange(4)
    with pytest.raises(ValueError, match="source has 0 tokens, not 1 or more"):
        t5.decoder(ids[:0])
    with pytest.raises(ValueError, match="source_length must be in 0 to 4, the tokens of source, got 5"):
        t5(ids, ids, source_length=5)
