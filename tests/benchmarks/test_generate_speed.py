"""Whole answers: `generate`, prefill, and a language model in plain PyTorch with the same weights."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.shakespeare_presets import NANOGPT
from zoo import TransformerLM, decode, generate

compiled_decode = eqx.filter_jit(decode)


def lm_of(fill, full_size, *, width=256, layers=4, heads=4, length=1024):
    """In the suite always the same small model: what one benchmark has compiled serves the others."""
    width, layers, heads, length = (width, layers, heads, length) if full_size else (16, 2, 2, 64)

    sizes = {"embed_size": width, "num_layers": layers, "num_heads": heads, "mlp_size": 4 * width}
    config = dataclasses.replace(NANOGPT, vocab_size=256, max_length=length, **sizes)
    return fill(lambda key: TransformerLM(config, key=key), scale=0.05)


def prompt_of(length):
    return np.random.default_rng(length).integers(0, 256, length, np.int32)


@pytest.mark.benchmark(group="generate")
def test_generate_against_the_whole_sequence_again_for_each_token(full_size, compare, fill):
    """The naive version runs the forward pass over all tokens so far, padded to one shape, and takes the best."""
    lm = lm_of(fill, full_size)
    prompt, new = prompt_of(64 if full_size else 12), 64 if full_size else 6
    decoder, capacity = lm.decoder(), 128 if full_size else 64
    best_next = eqx.filter_jit(lambda lm, tokens, at: jnp.argmax(lm(tokens)[at - 1]))

    def ours():
        return generate(decoder, prompt, max_new_tokens=new).tokens

    def naive():
        tokens = np.zeros(capacity, np.int32)
        tokens[: prompt.size] = prompt
        for at in range(prompt.size, prompt.size + new):
            tokens[at] = best_next(lm, tokens, np.int32(at))
        return tokens[prompt.size : prompt.size + new]

    np.testing.assert_array_equal(ours(), naive())
    compare(f"generate {new} tokens, against the whole sequence again for each", ours, naive, rounds=10)


@pytest.mark.benchmark(group="generate")
def test_overhead_of_generate(full_size, race, note, fill):
    """A second call in the same bucket, with another prompt and length, beyond the compiled `decode` in it."""
    decoder = lm_of(fill, full_size).decoder()
    generate(decoder, prompt_of(12), max_new_tokens=6)
    prompts = [prompt_of(length) for length in (9, 10, 11)]
    padded = [np.pad(prompt, (0, 16 - prompt.size)) for prompt in prompts]
    turn = 0

    def ours():
        nonlocal turn
        turn += 1
        return generate(decoder, prompts[turn % 3], max_new_tokens=1).tokens

    def bare():
        length, one, no_stop = np.int32(prompts[turn % 3].size), np.int32(1), np.full(8, -1, np.int32)
        generated = compiled_decode(
            decoder, padded[turn % 3], capacity=64, length=length, max_new_tokens=one, stop_ids=no_stop
        )
        return np.asarray(generated.tokens)[:1]

    np.testing.assert_array_equal(ours(), bare())
    medians = race(ours, bare, rounds=100)
    if medians is not None:
        whole, inside = medians
        line = f"generate of one token in a known bucket: {whole - inside:.2f} ms above the compiled decode"
        note(f"{line} ({whole:.3g} ms, {inside:.3g} ms)", overhead_ms=whole - inside)


@pytest.mark.benchmark(group="prefill")
def test_prefill_against_steps(full_size, compare, fill):
    decoder = lm_of(fill, full_size).decoder()
    length = 512 if full_size else 16
    tokens = jnp.asarray(prompt_of(length))

    @eqx.filter_jit
    def at_once(decoder, tokens):
        return decoder.prefill(tokens, decoder.init_state(length))

    @eqx.filter_jit
    def one_by_one(decoder, tokens):
        def step(carry, token):
            return decoder.step(token, carry[1]), None

        start = jnp.zeros(decoder.vocab_size), decoder.init_state(length)
        return jax.lax.scan(step, start, tokens)[0]

    def ours():
        return np.asarray(at_once(decoder, tokens)[0])

    def naive():
        return np.asarray(one_by_one(decoder, tokens)[0])

    np.testing.assert_allclose(ours(), naive(), atol=1e-4)
    compare(f"prefill of {length} tokens, against as many steps", ours, naive, rounds=10)


@pytest.mark.benchmark(group="generate")
def test_generate_against_torch(full_size, race, note, fill):
    """One row, 12 layers of width 512: all weights are read for every token."""
    pytest.importorskip("torch")
    import plain_torch

    lm = lm_of(fill, full_size, width=512, layers=12, heads=8, length=128)
    prompt, new = prompt_of(8), 64 if full_size else 6
    decoder, gpt = lm.decoder(), plain_torch.copy_of(lm)

    def ours():
        return generate(decoder, prompt, max_new_tokens=new).tokens.tolist()

    def theirs():
        return gpt.generate(prompt.tolist(), new, capacity=128)

    assert ours() == theirs()
    medians = race(ours, theirs, rounds=6)
    if medians is not None:
        mine, torch = (1e3 * new / ms for ms in medians)
        line = f"decoding one row, 12 layers of width 512: {mine / torch:.2f} times the tokens per second of PyTorch"
        note(f"{line} ({mine:.0f} against {torch:.0f})", tokens_per_second=mine, torch_tokens_per_second=torch)
