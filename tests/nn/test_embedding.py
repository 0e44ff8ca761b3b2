"""Embeddings and positions against loops and complex numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import LearnedPositions, RotaryPositions, SinusoidalPositions, TokenEmbedding, sinusoids

pytestmark = pytest.mark.usefixtures("strict_promotion")


def sinusoids_by_loop(positions, size, layout):
    table = np.zeros((len(positions), size))
    for row, position in enumerate(positions):
        for pair in range(size // 2):
            angle = position / 10_000 ** (2 * pair / size)
            sine, cosine = (2 * pair, 2 * pair + 1) if layout == "interleaved" else (pair, size // 2 + pair)
            table[row, sine], table[row, cosine] = np.sin(angle), np.cos(angle)
    return table


def rotate_by_complex_numbers(x, positions, base, layout):
    """Each pair of entries is one complex number, multiplied by exp(i * position * frequency)."""
    half = x.shape[-1] // 2
    pairs = [(2 * j, 2 * j + 1) if layout == "interleaved" else (j, half + j) for j in range(half)]
    out = np.zeros(x.shape)
    for j, (real, imaginary) in enumerate(pairs):
        turned = (x[..., real] + 1j * x[..., imaginary]) * np.exp(1j * positions * base ** (-j / half))
        out[..., real], out[..., imaginary] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("size", [2, 12])
def test_sinusoids_equal_a_loop(size, layout):
    positions = np.array([0, 1, 2, 5, 40, 255])
    slow = sinusoids_by_loop(positions, size, layout)
    np.testing.assert_allclose(jax.jit(lambda p: sinusoids(p, size, layout))(positions), slow, atol=3e-5)
    np.testing.assert_allclose(SinusoidalPositions(size, layout)(jnp.array(positions)), slow, atol=3e-5)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rotation_equals_complex_numbers(normal, layout, base):
    x = normal(3, 5, 6)
    positions = np.array([0, 1, 2, 7, 31])
    ours = jax.jit(lambda p, x: RotaryPositions(6, base, layout)(p)(x))(positions, x)
    np.testing.assert_allclose(ours, rotate_by_complex_numbers(np.asarray(x), positions, base, layout), atol=1e-5)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_rotated_scores_depend_on_distances_alone(normal, layout):
    rotary = RotaryPositions(8, layout=layout)
    queries, keys = normal(2, 5, 8), normal(2, 5, 8)

    @jax.jit
    def scores(first):
        rotation = rotary(first + jnp.arange(5))
        return jnp.einsum("hqd,hkd->hqk", rotation(queries), rotation(keys))

    np.testing.assert_allclose(scores(0), scores(100), atol=2e-4)
    assert not np.allclose(scores(0), np.einsum("hqd,hkd->hqk", queries, keys), atol=1e-2)


def test_rotation_keeps_bfloat16_and_computes_in_float32(normal):
    x = normal(2, 5, 8).astype(jnp.bfloat16)
    rotation = RotaryPositions(8)(250 + jnp.arange(5))
    turned = rotation(x)
    assert turned.dtype == jnp.bfloat16
    # Angles near 250 kept in bfloat16 would be wrong by up to a radian.
    np.testing.assert_allclose(turned.astype(jnp.float32), rotation(x.astype(jnp.float32)), atol=0.02)


def test_no_id_outside_the_table_gives_a_row(fill):
    embedding = fill(lambda key: TokenEmbedding(11, 4, key=key))
    vectors = embedding(jnp.array([0, 10, 11, -1, 2**31 - 1, -(2**31)]))
    np.testing.assert_array_equal(vectors[:2], embedding.weight[jnp.array([0, 10])])
    assert jnp.isnan(vectors[2:]).all()
    learned = fill(lambda key: LearnedPositions(7, 4, key=key))
    assert jnp.isnan(learned(jnp.array([7, -1]))).all()
    assert not jnp.isnan(learned(jnp.arange(7))).any()


def test_embedding_scales_on_the_way_in_alone(normal, fill):
    embedding = fill(lambda key: TokenEmbedding(11, 4, scale=3.0, key=key))
    np.testing.assert_allclose(embedding(jnp.array([2]))[0], 3.0 * embedding.weight[2], rtol=1e-6)
    hidden = normal(5, 4)
    np.testing.assert_allclose(embedding.project(hidden), hidden @ embedding.weight.T, atol=1e-6)
    assert embedding.project(hidden[0]).shape == (11,)
    assert embedding.project(hidden.astype(jnp.bfloat16)[0]).dtype == jnp.float32


def test_initialisation():
    many = TokenEmbedding(500, 40, std=0.3, key=jax.random.key(0)).weight
    assert abs(float(many.std()) - 0.3) < 0.01
    normal = LearnedPositions(500, 40, init="normal", std=0.02, key=jax.random.key(0)).weight
    assert abs(float(normal.std()) - 0.02) < 0.001
    sines = LearnedPositions(50, 12, key=jax.random.key(0)).weight
    np.testing.assert_array_equal(sines, sinusoids(jnp.arange(50), 12))


KEY = jax.random.key(0)
WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (TokenEmbedding, {"vocab_size": 0, "embed_size": 4, "key": KEY}, "vocab_size"),
    (TokenEmbedding, {"vocab_size": 4, "embed_size": -1, "key": KEY}, "embed_size"),
    (LearnedPositions, {"max_length": 0, "embed_size": 4, "key": KEY}, "max_length"),
    (LearnedPositions, {"max_length": 4, "embed_size": 4, "init": "zeros", "key": KEY}, "init .* 'zeros'"),
    (LearnedPositions, {"max_length": 4, "embed_size": 5, "key": KEY}, "even size, got 5"),
    (sinusoids, {"positions": jnp.arange(3), "size": 4, "layout": "thirds"}, "layout .* 'thirds'"),
    (RotaryPositions, {"head_size": 5}, "head_size, got 5"),
    (RotaryPositions, {"head_size": 4, "base": 0.0}, "base"),
    (RotaryPositions, {"head_size": 4, "base": float("nan")}, "base"),
    (RotaryPositions, {"head_size": 4, "layout": "thirds"}, "layout .* 'thirds'"),
]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("make", "arguments", "message"), WRONG)
def test_wrong_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(("base", "size"), [(1e4, 64), (5e5, 128), (1e6, 256)])
def test_far_positions_are_rotated_as_models_were_trained(base, size):
    """PyTorch's `1 / base ** (i / size)` in float32, whose products of numbers are rounded correctly."""
    powers = (base ** (np.arange(0, size, 2) / size).astype(np.float32).astype(np.float64)).astype(np.float32)
    positions = np.array([0, 8192, 131_071])
    angles = positions[:, None].astype(np.float32) * (np.float32(1) / powers)
    rotation = jax.jit(RotaryPositions(size, base))(jnp.asarray(positions))
    np.testing.assert_allclose(rotation.cosine, np.cos(angles.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(rotation.sine, np.sin(angles.astype(np.float64)), atol=1e-6)


def test_long_waves_are_stretched_and_short_ones_are_not():
    """As Llama 3 does, pair by pair."""
    base, factor, low, high, length = 100.0, 8.0, 1.0, 4.0, 64
    plain = RotaryPositions(16, base)(jnp.array([1]))
    banded = RotaryPositions(16, base, factor=factor, bands=(low, high, length))(jnp.array([1]))
    for pair in range(8):
        angle = base ** (-2 * pair / 16)
        wavelength = 2 * np.pi / angle
        if wavelength > length / low:
            angle /= factor
        elif wavelength >= length / high:
            smooth = (length / wavelength - low) / (high - low)
            angle = (1 - smooth) * angle / factor + smooth * angle
        np.testing.assert_allclose(banded.cosine[0, pair], np.cos(angle), atol=1e-6)
    assert banded.cosine[0, 0] == plain.cosine[0, 0]
    assert banded.cosine[0, -1] != plain.cosine[0, -1]
