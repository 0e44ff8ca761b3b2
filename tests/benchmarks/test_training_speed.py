"""One training step of the language model, and how long it takes to compile."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.shakespeare_presets import NANOGPT, SIZES
from training import adamw, init_state, make_step, next_token_loss, softmax_cross_entropy, train_step
from zoo import TransformerLM
from zoo.models.transformer_lm import embed
from zoo.nn import Dropout, causal_mask

VOCAB = 65
OPTIMISER = {"learning_rate": 1e-3, "weight_decay": 0.1, "b1": 0.9, "b2": 0.99}
optimiser = adamw(total_steps=2000, schedule="constant", clip_norm=1.0, **OPTIMISER)


SMALL = {"embed_size": 16, "num_layers": 2, "num_heads": 2, "mlp_size": 64, "max_length": 8}


def setting(full_size):
    """Context, batch size and model; in full those of tiny Shakespeare's `--size cpu --preset nanogpt`."""
    config = dataclasses.replace(NANOGPT, vocab_size=VOCAB, **({} if full_size else SMALL))
    return config.max_length, SIZES["cpu"].batch_size if full_size else 2, config


def random_batch(context, batch_size):
    tokens = np.random.default_rng(0).integers(0, VOCAB, (batch_size, context + 1), np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((batch_size, context), np.float32)}


def model_of(config, fill):
    """Weights of the right size that nobody has to compile anything for."""
    return fill(lambda key: TransformerLM(config, key=key), scale=0.02)


class Ours:
    """The compiled step, called as `fit` calls it: the new state takes the place of the old one."""

    def __init__(self, model, batch):
        self.step, self.batch = make_step(next_token_loss, optimiser), batch
        self.state = init_state(model, optimiser, key=jax.random.key(1))

    def __call__(self):
        self.state, report = self.step(self.batch, self.state)
        return float(report.sums.mean())


def unrolled_loss(model, batch, carry, key):
    """`next_token_loss` of a `TransformerLM` with the blocks one after another, as one writes it first."""

    def forward(tokens):
        x, rotation = embed(model, tokens, jnp.arange(tokens.shape[0]))
        for block in model.stack.unstack():
            x = block(x, mask=causal_mask(tokens.shape[0]), rotation=rotation)
        return model.project(jax.vmap(model.final_norm)(x))

    logits = jax.vmap(forward)(jnp.asarray(batch["inputs"]))
    return softmax_cross_entropy(logits, batch["targets"], batch["weights"]), carry


@pytest.mark.benchmark(group="train step")
def test_train_step_against_unrolled_blocks_without_donation(full_size, compare, fill):
    context, batch_size, config = setting(full_size)
    layers = 12 if full_size else config.num_layers
    model, batch = model_of(dataclasses.replace(config, num_layers=layers), fill), random_batch(context, batch_size)
    ours = Ours(model, batch)
    step = eqx.filter_jit(train_step(unrolled_loss, optimiser))
    state = init_state(model, optimiser, key=jax.random.key(1))

    def naive():
        nonlocal state
        state, report = step(batch, state)
        return float(report.sums.mean())

    for _ in range(3):
        assert ours() == pytest.approx(naive(), abs=1e-5)
    compare(f"train step of {layers} layers, against unrolled blocks without donation", ours, naive)


# Layers, width, heads, context, rows, vocabulary: `shakespeare.py --size cpu`, nanoGPT's for a GPU, and a wide one.
SIZES_OF_PEERS = [(4, 128, 4, 64, 12, 65), (6, 384, 6, 256, 8, 65), (4, 768, 12, 256, 4, 8192)]


@pytest.mark.parametrize("size", SIZES_OF_PEERS, ids=["4x128", "6x384", "4x768"])
@pytest.mark.benchmark(group="train step")
def test_train_step_against_torch(full_size, compare, fill, size):
    """PyTorch with its fused attention, uncompiled."""
    pytest.importorskip("torch")
    import plain_torch

    context, batch_size, config = setting(full_size)
    if full_size:
        layers, width, heads, context, batch_size, vocab = size
        config = dataclasses.replace(
            config, num_layers=layers, embed_size=width, num_heads=heads, mlp_size=4 * width, max_length=context,
            vocab_size=vocab,
        )  # fmt: skip
    model, batch = model_of(config, fill), random_batch(context, batch_size)
    ours = Ours(model, batch)
    theirs = plain_torch.make_step(plain_torch.copy_of(model), batch["inputs"], batch["targets"], **OPTIMISER)
    for _ in range(3):  # equal losses after steps, too: the same gradients, clipping, AdamW and decay
        assert ours() == pytest.approx(theirs(), abs=1e-4)
    name = (
        f"train step of {config.num_layers} x {config.embed_size}, {batch_size} x {context} tokens, against PyTorch"
    )
    compare(name, ours, theirs, rounds=60 if config.embed_size < 200 else 10)


@pytest.mark.benchmark(group="compile time")
def test_compile_time_of_the_train_step_by_depth(full_size, benchmark, race, note, fill):
    """Deep and shallow are the same program, up to the lengths of arrays: so the time to compile them is, too."""
    shallow, deep = (2, 24) if full_size else (6, 12)
    context, batch_size, config = setting(full_size)
    batch = random_batch(context, batch_size)

    def lower(layers):
        state = init_state(
            model_of(dataclasses.replace(config, num_layers=layers), fill), optimiser, key=jax.random.key(1)
        )
        return eqx.filter_jit(train_step(next_token_loss, optimiser), donate="all-except-first").lower(batch, state)

    def afresh(layers):
        jax.clear_caches()
        return lower(layers).compile()

    if not full_size:
        assert benchmark(lower, deep).as_text().count("\n") == lower(shallow).as_text().count("\n")
        return
    a, b = (ms / 1e3 for ms in race(*(partial(afresh, layers) for layers in (deep, shallow)), rounds=2))
    line = f"compiling a train step of {deep} layers: {a / b:.2f} times that of {shallow} ({a:.2f} s, {b:.2f} s)"
    note(line, seconds=a, shallow_seconds=b)


@pytest.mark.benchmark(group="train step")
def test_dropout_against_equinox(full_size, compare):
    """Of a batch of hidden vectors, each row with a key of its own."""
    rows, shape = (32, (256, 384)) if full_size else (2, (4, 8))
    x, keys = jnp.ones((rows, *shape)), jax.random.split(jax.random.key(0), rows)
    ours, theirs = (
        jax.jit(jax.vmap(lambda x, key, dropout=dropout: dropout(x, key=key)))
        for dropout in (Dropout(0.1), eqx.nn.Dropout(0.1))
    )
    np.testing.assert_array_equal(ours(x, keys), theirs(x, keys))
    compare(
        f"dropout of {x.size:,} numbers, against Equinox's",
        lambda: jax.block_until_ready(ours(x, keys)),
        lambda: jax.block_until_ready(theirs(x, keys)),
    )
