"""TransformerLM against the formulas of its papers, written out in NumPy, one head and one query at a time."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TransformerLM, TransformerLMConfig

pytestmark = pytest.mark.usefixtures("strict_promotion")

SIZES: Any = {"vocab_size": 11, "embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2])
VARIANTS = {
    "trax": {},
    "gpt2": {
        "position_init": "normal",
        "activation": "gelu_tanh",
        "norm_epsilon": 1e-5,
        "tie_embeddings": True,
    },
    "llama": {
        "positions": "rotary",
        "rotary_base": 500.0,
        "norm": "rms",
        "gated": True,
        "activation": "silu",
        "use_bias": False,
        "use_head_bias": False,
        "num_kv_heads": 2,
        "head_size": 6,
    },
    "sinusoidal": {"positions": "sinusoidal", "activation": "gelu", "num_kv_heads": 1, "norm_epsilon": 0.1},
    "none": {"positions": "none", "head_size": 5, "gated": True},
}
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(layer, x, kind, epsilon):
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * layer.weight
    return x if layer.bias is None else x + layer.bias


def rotate(x, position, base):
    """Llama: entry i turns with entry i + size / 2."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def attention(layer, x, lm):
    size, group = layer.head_size, layer.num_heads // layer.num_kv_heads
    queries, keys, values = (linear(part, x) for part in (layer.query, layer.key, layer.value))
    out = np.zeros_like(queries)
    for head in range(layer.num_heads):
        mine, shared = slice(head * size, (head + 1) * size), slice(head // group * size, (head // group + 1) * size)
        q, k, v = queries[:, mine], keys[:, shared], values[:, shared]
        if lm.config.positions == "rotary":
            q, k = (
                np.stack([rotate(row, i, lm.config.rotary_base) for i, row in enumerate(rows)]) for rows in (q, k)
            )
        for i in range(len(x)):
            scores = k[: i + 1] @ q[i] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[i, mine] = weights @ v[: i + 1] / weights.sum()
    return linear(layer.output, out)


def feed_forward(layer, x):
    activate = ACTIVATIONS[layer.activation]
    hidden = activate(linear(layer.up if layer.gate is None else layer.gate, x))
    return linear(layer.down, hidden if layer.gate is None else hidden * linear(layer.up, x))


def by_numpy(lm, tokens):
    lm_norm = functools.partial(norm, kind=lm.config.norm, epsilon=lm.config.norm_epsilon)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if eqx.is_array(leaf) else leaf, lm)
    x = wide.embedding.weight[tokens]
    if lm.config.positions == "learned":
        x = x + wide.position_embedding.weight[: len(tokens)]
    if lm.config.positions == "sinusoidal":
        size = lm.config.embed_size
        angles = np.arange(len(tokens))[:, None] / 10_000 ** (np.arange(0, size, 2) / size)
        x = x + np.stack([np.sin(angles), np.cos(angles)], -1).reshape(x.shape)
    for i in range(lm.config.num_layers):
        block = jax.tree.map(lambda leaf, i=i: leaf[i] if isinstance(leaf, np.ndarray) else leaf, wide.stack.blocks)
        x = x + attention(block.attention, lm_norm(block.attention_norm, x), lm)
        x = x + feed_forward(block.mlp, lm_norm(block.mlp_norm, x))
    x = lm_norm(wide.final_norm, x)
    return x @ wide.embedding.weight.T if lm.head is None else linear(wide.head, x)


def make(fill, **options):
    return fill(lambda key: TransformerLM(TransformerLMConfig(**SIZES, **options), key=key))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_formulas(fill, variant):
    lm = make(fill, **VARIANTS[variant])
    logits = eqx.filter_jit(lm)(jnp.asarray(TOKENS))
    np.testing.assert_allclose(logits, by_numpy(lm, TOKENS), atol=1e-4, rtol=1e-5)
    assert (lm.head is None) == lm.config.tie_embeddings


V, E, L, H, M, P = SIZES.values()
NORMS = 2 * L * E + E  # weights of all norms


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("trax", V * E + P * E + L * (4 * E * E + 4 * E + 2 * E * M + M + E) + 2 * NORMS + V * E + V),
        ("gpt2", V * E + P * E + L * (4 * E * E + 4 * E + 2 * E * M + M + E) + 2 * NORMS),
        ("llama", V * E + L * (2 * E * 6 * H + 2 * E * 6 * 2 + 3 * E * M) + NORMS + V * E),
        ("none", V * E + L * (4 * E * 5 * H + 3 * 5 * H + E + 3 * E * M + 2 * M + E) + 2 * NORMS + V * E + V),
    ],
)
def test_it_has_the_weights_of_its_paper_and_no_others(fill, variant, count):
    lm = make(fill, **VARIANTS[variant])
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(lm, eqx.is_array))) == count


def test_it_is_project_of_hidden(fill):
    lm = make(fill)
    hidden, logits, direct = eqx.filter_jit(lambda lm, x: (lm.hidden(x), lm.project(lm.hidden(x)), lm(x)))(
        lm, jnp.asarray(TOKENS)
    )
    assert hidden.shape == (len(TOKENS), 12)
    np.testing.assert_allclose(logits, direct, atol=1e-6)
    np.testing.assert_allclose(eqx.filter_jit(lm.project)(hidden[2]), direct[2], atol=1e-5)


def test_no_more_than_max_length(fill):
    lm = make(fill)
    assert eqx.filter_jit(lm)(jnp.zeros(10, int)).shape == (10, 11)
    with pytest.raises(ValueError, match=r"11 ids, .* max_length \(10\)"):
        lm(jnp.zeros(11, int))


@pytest.mark.parametrize("bad", [11, -1, 2**31 - 1])
def test_ids_outside_the_vocabulary_give_no_plausible_logits(fill, bad):
    logits = eqx.filter_jit(make(fill))(jnp.asarray(TOKENS).at[3].set(bad))
    assert np.isnan(logits[3:]).all()


def test_a_decoder_needs_no_inference_mode(fill):
    """Made from a model in training, it drops nothing out."""
    decoder = make(fill, dropout_p=0.5).decoder()
    logits, _ = eqx.filter_jit(decoder.prefill)(jnp.asarray(TOKENS), decoder.init_state(10))
    np.testing.assert_allclose(logits, eqx.filter_jit(make(fill))(jnp.asarray(TOKENS))[-1], atol=1e-5)


def test_a_bfloat16_decoder_keeps_short_caches_and_long_logits(fill, monkeypatch):
    lm = make(fill, **VARIANTS["llama"])
    low = jax.tree.map(lambda x: jnp.asarray(np.asarray(x).astype(jnp.bfloat16)) if eqx.is_array(x) else x, lm)
    decoder = low.decoder()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    state = decoder.init_state(10)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.caches)} == {jnp.dtype(jnp.bfloat16)}
    monkeypatch.undo()
    state = decoder.init_state(10)
    if jax.default_backend() == "cpu":  # XLA would convert short ones at every token
        assert {leaf.dtype for leaf in jax.tree.leaves(state.caches)} == {jnp.dtype(jnp.float32)}
    prefill, step = eqx.filter_jit(decoder.prefill), eqx.filter_jit(decoder.step)
    whole = np.asarray(eqx.filter_jit(low)(jnp.asarray(TOKENS)))
    logits, state = prefill(jnp.asarray(TOKENS[:4]), state)
    for i in range(3, len(TOKENS)):
        assert logits.dtype == jnp.float32
        assert np.abs(logits - whole[i]).max() < 0.1 * whole.std()
        if i + 1 < len(TOKENS):
            logits, state = step(jnp.asarray(TOKENS[i + 1]), state)


def test_its_decoder_holds_each_block_once(fill):
    lm = make(fill)
    weights, laid_out = (
        sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))) for tree in (lm, lm.decoder())
    )
    assert laid_out == weights
