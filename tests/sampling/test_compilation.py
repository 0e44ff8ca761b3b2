"""What compiles when: once per bucket, never for another length, number, key or stop id."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, Elman, elman

from zoo import (
    Chain,
    Greedy,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    beam_search,
    generate,
    score,
    stream,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")
compiled: list[str] = []


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(event)


@pytest.fixture(scope="module", autouse=True)
def _listening():
    jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations(expected: int):
    """All programs count, also the small ones that a stray `jnp` on the host compiles."""
    before = len(compiled)
    yield
    assert len(compiled) - before == expected


@pytest.fixture(scope="module")
def decoder(fill):
    return elman(fill, max_length=300).decoder


def test_the_count_counts():
    with compilations(2):
        jax.jit(lambda x: x * 2)(np.ones(3, np.float32))
        jax.jit(lambda x: x * 3)(np.ones(3, np.float32))


def full(temperature, k, top_p, min_p, repetition, presence):
    return Chain(
        RepetitionPenalty(repetition),
        PresencePenalty(presence),
        TopK(k),
        TopP(top_p),
        MinP(min_p),
        Temperature(temperature),
    )


def test_one_bucket_is_one_compilation(decoder):
    """Prompt lengths, numbers of tokens, stop ids, keys, all the numbers of all samplers, 0 and 1 too."""
    keys = list(jax.random.split(jax.random.key(0), 4))
    generate(decoder, [1, 2], max_new_tokens=3, sampler=full(0.7, 5, 0.9, 0.1, 1.1, 0.2), stop_ids=[3], key=keys[0])
    with compilations(0):
        for sampler, stop_ids, size, new in (
            (full(1.3, 3, 0.5, 0.0, 1.5, -0.1), [], 1, 0),
            (full(0, 0, 1, 1, 1, 0), [1, 2, 3], 16, 48),
            (full(1, 10**9, 0.0, 0.3, 2, 3), list(range(8)), 7, 57),
            (full(np.float32(1.5), np.int32(3), np.float64(0.4), 0, 1, 0), [VOCAB - 1], 2, 62),
        ):
            out = generate(
                decoder, [1] * size, max_new_tokens=new, sampler=sampler, stop_ids=stop_ids, key=keys[size % 4]
            )
            assert out.tokens.shape == (new,)


def test_another_bucket_is_another_compilation(decoder):
    generate(decoder, [1, 2], max_new_tokens=3)
    for size, new, stop_ids in ((17, 3, []), (2, 63, []), (2, 3, [1] * 9)):  # of prompts, of capacity, of stop ids
        with compilations(1):
            generate(decoder, [1] * size, max_new_tokens=new, stop_ids=stop_ids)
    with compilations(0):
        generate(decoder, [3] * 20, max_new_tokens=30, stop_ids=[5])


def test_a_batch_compiles_once_whatever_its_prompts(decoder):
    key = jax.random.key(0)
    generate(decoder, [[1], [2, 3]], max_new_tokens=5, sampler=Temperature(1.0), key=key)
    with compilations(0):
        generate(decoder, [[1] * 16, [2]], max_new_tokens=40, sampler=Temperature(0), key=key)
        generate(decoder, np.ones((2, 9), int), max_new_tokens=0, sampler=Temperature(2), key=key)


def test_resuming_and_streaming_compile_once(decoder):
    key = jax.random.key(0)
    out = generate(decoder, [1, 2], max_new_tokens=5, sampler=Temperature(1.0), key=key)
    out = generate(decoder, resume=out, max_new_tokens=3, sampler=Temperature(1.0), key=key)
    list(stream(decoder, [1, 2], max_new_tokens=5, sampler=Temperature(1.0), key=key))
    with compilations(0):
        for new in (1, 20, 7):
            out = generate(decoder, resume=out, max_new_tokens=new, sampler=Temperature(0.5), key=key)
        assert len(list(stream(decoder, [3] * 9, max_new_tokens=30, sampler=Temperature(0.2), key=key))) == 30


def test_the_weights_are_no_constants(fill, decoder):
    """Another model of the same shapes compiles nothing, so weights are not baked in."""
    other = fill(lambda key: Elman(max_length=300, key=key), seed=1)
    generate(decoder, [1, 2], max_new_tokens=3)
    with compilations(0):
        a, b = (generate(d, [1, 2], max_new_tokens=30).tokens.tolist() for d in (decoder, other))
    assert a != b


def test_scoring_and_beams_compile_once(decoder):
    score(decoder, [1, 2, 3])
    beam_search(decoder, [1, 2], num_beams=3, max_new_tokens=4, length_penalty=0.0)
    with compilations(0):
        score(decoder, list(range(VOCAB)) * 3)
        beam_search(decoder, [1] * 9, num_beams=3, max_new_tokens=11, stop_ids=[2, 3], length_penalty=1)


def test_greedy_needs_no_key_and_draws_nothing(decoder):
    text = str(jax.make_jaxpr(lambda x: Greedy()(x, jnp.array([-1])))(jnp.zeros(5)))
    assert "random" not in text
    first, second = (
        generate(decoder, [1], max_new_tokens=9, key=key).tokens.tolist() for key in (None, jax.random.key(1))
    )
    assert first == second
