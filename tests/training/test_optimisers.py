import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import adamw, decay_matrices, learning_rate_schedule
from zoo.nn.stack import Stack


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_schedule_rises_then_falls_to_the_final_fraction(schedule, total, warm_share, final):
    warmup = int(total * warm_share)
    f = learning_rate_schedule(schedule, total_steps=total, warmup_steps=warmup, final_fraction=final)
    values = [float(f(jnp.array(i))) for i in range(total + 3)]
    for i in range(warmup):
        assert values[i] == pytest.approx((i + 1) / warmup, abs=1e-6)
    after = values[max(warmup - 1, 0) :]
    assert after[0] == pytest.approx(1.0)
    if schedule == "constant":
        assert after == pytest.approx([1.0] * len(after))
    elif total > max(warmup, 1):
        assert values[total - 1 :] == pytest.approx([final] * 4, abs=1e-6)
        assert all(a >= b - 1e-6 for a, b in itertools.pairwise(after))
        length = total - 1 - max(warmup - 1, 0)
        part = (length // 2) / length
        shape = 1 - part if schedule == "linear" else (1 + math.cos(math.pi * part)) / 2
        assert after[length // 2] == pytest.approx(final + (1 - final) * shape, abs=1e-5)


def slow_adamw(w, gradients, *, rate, decay, clip, b1, b2, eps=1e-8):
    """AdamW with clipping by the norm of all gradients, in float64, as the paper writes it."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        norm = np.sqrt(np.sum(g**2))
        g = g * min(1.0, clip / norm)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - rate(t - 1) * (step + decay * w)
    return w


def test_adamw_is_the_papers():
    draws = np.random.default_rng(0)
    w, gradients = draws.normal(size=(3, 4)), draws.normal(size=(20, 3, 4))
    arguments = {"total_steps": 20, "warmup_steps": 5, "final_fraction": 0.1}
    optimiser = adamw(0.1, **arguments, weight_decay=0.3, clip_norm=1.5, b1=0.8, b2=0.9)
    params: Any = {"weight": jnp.asarray(w, jnp.float32)}
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    for g in gradients:
        updates, state = update({"weight": jnp.asarray(g, jnp.float32)}, state, params)
        params = eqx.apply_updates(params, updates)
    fraction = learning_rate_schedule("cosine", **arguments)
    expected = slow_adamw(
        w, gradients, rate=lambda t: 0.1 * float(fraction(jnp.array(t))), decay=0.3, clip=1.5, b1=0.8, b2=0.9
    )
    np.testing.assert_allclose(params["weight"], expected, rtol=1e-4, atol=1e-5)


def decayed(model):
    mask = decay_matrices(eqx.filter(model, eqx.is_inexact_array))
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, decays in jax.tree_util.tree_leaves_with_path(mask)
        if decays
    }


def test_decay_pulls_matrices_only_whatever_their_fields_are_called():
    """A list called `blocks` once kept its matrices from any decay."""
    linear, norm = eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.LayerNorm(3)
    heads = {"query_bias": jnp.ones((2, 3)), "scale": jnp.ones((2, 2)), "unbiased_normaliser": jnp.ones((2, 2))}
    embedding = eqx.nn.Embedding(5, 3, key=jax.random.key(0))
    model = {"blocks": [linear, linear], "norm": norm, "attention": heads, "embedding": embedding}
    assert decayed(model) == {
        "blocks.0.weight", "blocks.1.weight", "attention.unbiased_normaliser", "embedding.weight",
    }  # fmt: skip


def test_decay_knows_stacked_layers_by_what_they_say_of_themselves():
    class Twice(eqx.Module):
        """As a stack of stacks is: two leading axes, by whatever name."""

        layers: Any
        stacked_axes = 1

    class Block(eqx.Module):
        linear: Any
        norm: Any
        table: Any

    def block(key):
        return Block(eqx.nn.Linear(3, 3, key=key), eqx.nn.LayerNorm(3), jnp.ones((2, 3, 3)))

    stack = Stack.make(block, 2, key=jax.random.key(0))
    deep = Twice(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, stack))
    assert decayed(stack) == {"blocks.linear.weight", "blocks.table"}
    model = {"stack": stack, "deep": deep, "head": [deep]}
    assert decayed(model) == {
        f"{where}.{name}"
        for where in ("stack.blocks", "deep.layers.blocks", "head.0.layers.blocks")
        for name in ("linear.weight", "table")
    }


def test_nothing_is_clipped_unless_asked_for():
    weights = jnp.zeros(3)

    def first(clip):
        optimiser = adamw(1.0, total_steps=1, eps=1.0, **clip)
        update, _ = optimiser.update(jnp.array([300.0, 400.0, 0.0]), optimiser.init(weights), weights)
        return np.asarray(update)

    np.testing.assert_allclose(first({}), [-300 / 301, -400 / 401, 0], rtol=1e-4)
    np.testing.assert_allclose(first({"clip_norm": 1.0}), [-0.6 / 1.6, -0.8 / 1.8, 0], rtol=1e-4)


def test_decay_reaches_what_the_mask_names():
    params = {"a": {"weight": jnp.ones((2, 2))}, "b": {"bias": jnp.ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, params)

    def after_a_step(**arguments):
        optimiser = adamw(0.5, total_steps=10, schedule="constant", weight_decay=0.5, **arguments)
        updates, _ = jax.jit(optimiser.update)(zeros, optimiser.init(params), params)
        return jax.tree.map(lambda x: float(x.ravel()[0]), eqx.apply_updates(params, updates))

    assert after_a_step() == {"a": {"weight": 0.75}, "b": {"bias": 1.0}}
    other = after_a_step(decay_mask=lambda p: {"a": {"weight": False}, "b": {"bias": True}})
    assert other == {"a": {"weight": 1.0}, "b": {"bias": 0.75}}


def test_learning_rate_may_be_traced_and_vmapped():
    params, gradient = {"w": jnp.ones(3)}, {"w": jnp.array([1.0, -2.0, 0.5])}

    @jax.jit
    def step(rate):
        optimiser = adamw(rate, total_steps=10)
        updates: Any = optimiser.update(gradient, optimiser.init(params), params)[0]
        return updates["w"]

    rates = jnp.array([0.1, 0.01])
    together = jax.vmap(step)(rates)
    for rate, row in zip(rates, together, strict=True):
        np.testing.assert_allclose(row, step(rate), rtol=1e-6)
    np.testing.assert_allclose(together[0], together[1] * 10, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be finite and more than 0; got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"total_steps": 0}, "total_steps must be at least 1; got 0"),
        ({"warmup_steps": 11}, r"warmup_steps must be in 0\.\.total_steps, 10; got 11"),
        ({"final_fraction": 1.5}, r"final_fraction must be in 0\.\.1; got 1.5"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0; got -0.1"),
        ({"clip_norm": 0.0}, "clip_norm must be finite and more than 0, or None; got 0.0"),
        ({"b2": 1.0}, r"b1 and b2 must be in \[0, 1\); got 0.9 and 1.0"),
        ({"eps": 0.0}, "eps must be finite and more than 0; got 0.0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        adamw(**{"learning_rate": 0.1, "total_steps": 10, **arguments})
