"""One token at a time: attention to a cache, a whole step, and what it costs by the capacity that it has."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import AbstractDecoder, TransformerLM, TransformerLMConfig, decode
from zoo.models.transformer_lm import TransformerLMDecoder, embed
from zoo.nn import KVCache, Stack, attend, cache_mask

compiled_decode = eqx.filter_jit(decode)


def decoder_of(fill, width, layers, heads, length, vocab):
    return fill(
        lambda key: TransformerLM(
            TransformerLMConfig(
                vocab_size=vocab,
                embed_size=width,
                num_layers=layers,
                num_heads=heads,
                mlp_size=4 * width,
                max_length=length,
            ),
            key=key,
        ),
        scale=0.05,
    ).decoder()


def answer(decoder, prompts, capacity, new):
    """A function that decodes so many tokens and waits for them."""

    def run():
        generated = compiled_decode(decoder, prompts, capacity=capacity, max_new_tokens=np.int32(new))
        return np.asarray(generated.tokens)

    return run


def copying(floats):
    """A function that reads and writes memory as fast as the machine can: x + 1, in place."""
    add_one, x = jax.jit(lambda x: x + 1, donate_argnums=0), jnp.zeros(floats)

    def run():
        nonlocal x
        x = add_one(x).block_until_ready()

    return run


def summing(floats):
    """A function that only reads memory as fast as the machine can."""
    total, x = jax.jit(jnp.sum), jnp.ones(floats)
    return lambda: total(x).block_until_ready()


def against_copy(name, cache_bytes, ms, naive_ms, copy_ms, sum_ms):
    """The line for one token, which reads the caches: a copy reads and writes as many bytes, a sum reads them."""
    reached, copied, summed = cache_bytes / ms / 1e6, 2 * cache_bytes / copy_ms / 1e6, cache_bytes / sum_ms / 1e6
    return (
        f"{name}: {naive_ms / ms:.2f} times faster ({ms:.3g} ms against {naive_ms:.3g} ms); reads {reached:.1f} GB/s "
        f"of caches, {reached / copied:.0%} of the {copied:.1f} GB/s that x + 1 in place reads and writes, "
        f"{reached / summed:.0%} of the {summed:.1f} GB/s that a sum reads"
    )


@pytest.mark.benchmark(group="decoding attention")
def test_decoding_attention_against_positions_first(full_size, race, note):
    """Write one token into each cache and attend to it; caches heads first, as ours are, or positions first."""
    rows, layers, heads, capacity, size = (32, 4, 4, 1024, 64) if full_size else (2, 1, 2, 16, 8)
    rng = np.random.default_rng(0)
    cache_arrays = [rng.normal(size=(2, rows, heads, capacity, size)).astype(np.float32) for _ in range(layers)]
    query, key, value = jnp.asarray(rng.normal(size=(3, rows, heads, 1, size)), jnp.float32)
    positions = jnp.full(rows, capacity - 2)

    def heads_first(caches, query, key, value, position):
        caches = [cache.write(key, value, position[None]) for cache in caches]
        mask = cache_mask(position[None], capacity)
        return caches, [attend(query, c.keys, c.values, scale=size**-0.5, mask=mask) for c in caches]

    def positions_first(caches, query, key, value, position):
        caches = [(k.at[position].set(key[:, 0]), v.at[position].set(value[:, 0])) for k, v in caches]
        out = []
        for keys, values in caches:
            scores = jnp.einsum("hd,shd->hs", query[:, 0] * size**-0.5, keys)
            weights = jax.nn.softmax(jnp.where(jnp.arange(capacity) <= position, scores, -jnp.inf))
            out.append(jnp.einsum("hs,shd->hd", weights, values)[:, None])
        return caches, out

    def in_place(row, caches):
        step = jax.jit(jax.vmap(row), donate_argnums=0)

        def run():
            nonlocal caches
            caches, out = step(caches, query, key, value, positions)
            return jax.block_until_ready(out)

        return run

    ours = in_place(heads_first, [jax.vmap(KVCache)(jnp.array(k), jnp.array(v)) for k, v in cache_arrays])
    naive = in_place(
        positions_first, [tuple(jnp.array(x.transpose(0, 2, 1, 3)) for x in pair) for pair in cache_arrays]
    )
    np.testing.assert_allclose(ours(), naive(), atol=1e-5)
    cache_bytes = sum(x.nbytes for x in cache_arrays)
    medians = race(ours, naive, copying(cache_bytes // 4), summing(cache_bytes // 4), rounds=40)
    if medians is not None:
        note(against_copy("decoding attention, 32 rows, against positions first", cache_bytes, *medians))


class Stacked(AbstractDecoder):
    """The naive step: layers and caches stacked and scanned."""

    inner: TransformerLMDecoder
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def init_state(self, capacity):
        return self.inner.init_state(capacity)

    def prefill(self, tokens, state, *, length=None):
        return self.inner.prefill(tokens, state, length=length)

    def step(self, token, state):
        positions, slots, mask = state.place(1, 1)
        x, rotation = embed(self.inner, token[None], positions)
        caches = Stack.of(state.caches.value)
        extend = lambda block, x, cache: block.extend(x, cache, slots, mask=mask, rotation=rotation)  # noqa: E731
        x, written = Stack.of(self.inner.blocks).scan(extend, x, caches.blocks)
        state, _ = state.advance(Stack(written, len(caches)).unstack(), 1)
        return self.inner.head.accumulate(self.inner.final_norm(x[0])), state


@pytest.mark.benchmark(group="decoding step")
def test_decoding_step_against_scanned_layers(full_size, race, note, fill):
    rows, width, layers, heads, capacity, new = (32, 256, 4, 4, 1024, 32) if full_size else (2, 16, 2, 2, 16, 7)
    decoder = decoder_of(fill, width, layers, heads, capacity, vocab=256)
    naive = Stacked(decoder, decoder.vocab_size, decoder.max_length)
    prompts = np.random.default_rng(0).integers(0, 256, (rows, 8), np.int32)
    runs = [answer(d, prompts, capacity, count) for d in (decoder, naive) for count in (1 + new, 1)]
    np.testing.assert_array_equal(runs[0](), runs[2]())
    cache_bytes = 4 * 2 * rows * layers * width * capacity
    medians = race(*runs, copying(cache_bytes // 4), summing(cache_bytes // 4), rounds=10)
    if medians is not None:
        many, one, naive_many, naive_one, *memory = medians
        name = f"decoding step, {rows} rows, against scanned layers"
        note(against_copy(name, cache_bytes, (many - one) / new, (naive_many - naive_one) / new, *memory))


@pytest.mark.benchmark(group="decoding step")
def test_decoding_step_by_room(full_size, race, note, fill):
    """One row: what a token costs where the capacity is small and where it is large."""
    width, layers, heads, new = (256, 4, 4, 32) if full_size else (16, 2, 2, 7)
    capacities = (64, 1024) if full_size else (16, 24)
    decoder = decoder_of(fill, width, layers, heads, max(capacities), vocab=256)
    prompt = np.arange(8, dtype=np.int32)
    runs = [answer(decoder, prompt, capacity, count) for capacity in capacities for count in (1 + new, 1)]
    np.testing.assert_array_equal(runs[0]()[: 1 + new], runs[2]()[: 1 + new])
    medians = race(*runs, rounds=30)
    if medians is not None:
        small, large = ((medians[i] - medians[i + 1]) / new for i in (0, 2))
        line = f"a token at capacity {capacities[1]}: {large / small:.2f} times one at capacity {capacities[0]} "
        note(line + f"({large:.3g} ms, {small:.3g} ms)", ms=large, small_ms=small)


@pytest.mark.benchmark(group="compile time")
def test_compile_time_of_the_decoding_loop(full_size, benchmark, race, note, fill):
    """The loop runs over tokens alone: its layers follow one another, and depth adds no loop."""
    width, heads, deep, shallow = (128, 4, 24, 2) if full_size else (16, 2, 8, 6)
    prompt = np.arange(8, dtype=np.int32)

    def lower(layers):
        decoder = decoder_of(fill, width, layers, heads, 64, vocab=256)
        return eqx.filter_jit(decode).lower(decoder, prompt, capacity=64, max_new_tokens=np.int32(8))

    def afresh(layers):
        jax.clear_caches()
        return lower(layers).compile()

    if not full_size:
        assert benchmark(lower, deep).as_text().count("stablehlo.while") == lower(shallow).as_text().count(
            "stablehlo.while"
        )
        return
    a, b = (ms / 1e3 for ms in race(*(partial(afresh, layers) for layers in (deep, shallow)), rounds=2))
    line = f"compiling a decoding loop of {deep} layers: {a:.2f} s ({shallow} layers: {b:.2f} s)"
    note(line, seconds=a, shallow_seconds=b)
