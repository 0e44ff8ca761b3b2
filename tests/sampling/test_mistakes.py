"""The commonest mistakes: each gets one sentence that says what to do, at the call, before any compute."""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, Script, spell
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Chain, Greedy, Temperature, TopK, beam_search, decode, generate, score, stream
from zoo.sampling import decode_tokens, prefill_prompts

pytestmark = pytest.mark.usefixtures("as_users")


class Model(eqx.Module):
    """As all models: it has a decoder, and is none."""

    vocab_size: int = VOCAB
    max_length: int | None = 20

    def decoder(self):
        return spell(1, 2)

    def __call__(self, tokens):
        raise AssertionError("touched")


CALLS = {
    "generate": lambda decoder, **how: generate(decoder, [1], max_new_tokens=2, **how),
    "stream": lambda decoder, **how: stream(
        decoder, [1], max_new_tokens=2, **how
    ),  # its first token is not asked for
    "decode": lambda decoder, **how: decode(decoder, jnp.array([1]), capacity=4, max_new_tokens=2, **how),
    "prefill_prompts": lambda decoder: prefill_prompts(decoder, jnp.array([1]), capacity=4),
    "decode_tokens": lambda decoder, **how: decode_tokens(
        decoder, prefill_prompts(spell(1), jnp.array([1]), capacity=4), max_new_tokens=2, **how
    ),
    "beam_search": lambda decoder: beam_search(decoder, [1], num_beams=2, max_new_tokens=2),
    "score": lambda decoder: score(decoder, [1, 2]),
}
SAMPLING = ["generate", "stream", "decode", "decode_tokens"]
OF_A_HOST = ["generate", "stream"]


@pytest.mark.parametrize("call", CALLS)
def test_a_model_is_not_its_decoder(call):
    with pytest.raises(TypeError, match=r"Model is a model, not a decoder: call \.decoder\(\) on it"):
        CALLS[call](Model())
    with pytest.raises(TypeError, match=r"the class Model is .*\.decoder\(\)"):
        CALLS[call](Model)
    with pytest.raises(TypeError, match=r"the class Script is not a decoder"):
        CALLS[call](Script)
    for other in (None, "gpt2", 5, lambda tokens: tokens, Model().decoder, np.zeros(3)):
        with pytest.raises(TypeError, match=r"is not a decoder: pass what a model's \.decoder\(\) returns"):
            CALLS[call](other)


@pytest.mark.parametrize("call", SAMPLING)
@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (0.8, r"not a number: Temperature\(0\.8\)"),
        (1, r"not a number: Temperature\(1\)"),
        (np.float32(0.5), r"not a number: Temperature\(0\.5\)"),
        (jnp.array(0.5), r"not a number: Temperature\(0\.5\)"),
        (np.array(0.5), r"not a number: Temperature\(0\.5\)"),
        (Greedy, r"the class Greedy: .* Greedy\("),
        (Temperature, r"the class Temperature: .* Temperature\("),
        ([TopK(5), Temperature(0.5)], r"Chain\("),
        ((TopK(5),), r"Chain\("),
        (None, r"such as Greedy\(\)"),
        ("greedy", r"such as Greedy\(\) .*'greedy'"),
        (True, r"such as Greedy\(\)"),
        (lambda logits, context: logits, r"such as Greedy\(\)"),
    ],
    ids=[
        "float",
        "int",
        "np.float32",
        "jax scalar",
        "np scalar",
        "class",
        "another class",
        "list",
        "tuple",
        "None",
        "text",
        "bool",
        "function",
    ],
)
def test_what_is_not_a_sampler(call, sampler, message):
    with pytest.raises(TypeError, match=message):
        CALLS[call](spell(1, 2), sampler=sampler)
    with pytest.raises(TypeError, match=message):
        Chain(Greedy(), sampler)


@pytest.mark.parametrize("call", OF_A_HOST)
@pytest.mark.parametrize(
    ("key", "message"),
    [
        (0, r"not a seed: jax\.random\.key\(0\)"),
        (np.int64(42), r"not a seed: jax\.random\.key\(42\)"),
        (jnp.array(3), r"not a seed: jax\.random\.key\(3\)"),
        (np.array(3), r"not a seed: jax\.random\.key\(3\)"),
        (np.random.default_rng(0), r"jax\.random\.key\(0\)"),
        ("0", r"jax\.random\.key\(0\)"),
        (jnp.zeros(2), "float32"),
        (jax.random.split(jax.random.key(0), 3), r"one key, .* shape \(3,\)"),
        (jax.random.split(jax.random.PRNGKey(0), 3), r"one key, .* shape \(3, 2\)"),
    ],
    ids=str,
)
def test_what_is_not_a_key(call, key, message):
    for sampler in (Temperature(1.0), Greedy()):
        with pytest.raises(TypeError, match=message):
            CALLS[call](spell(1, 2), sampler=sampler, key=key)


def test_a_missing_key_is_named_with_one():
    with pytest.raises(ValueError, match=r"key must be given, such as jax\.random\.key\(0\)"):
        generate(spell(1), [1], max_new_tokens=1, sampler=Temperature(0.8))


@pytest.mark.parametrize("call", [*OF_A_HOST, "beam_search"])
@pytest.mark.parametrize(
    "stop_ids",
    [5, np.array(5), jnp.array(5), np.int32(5), "5", b"5", 2.0, object()],
    ids=["int", "np array", "jax array", "np.int32", "text", "bytes", "float", "object"],
)
def test_stop_ids_are_a_sequence(call, stop_ids):
    how = {"max_new_tokens": 2, "stop_ids": stop_ids}
    with pytest.raises(ValueError, match=r"stop_ids must be a sequence of token ids, such as \[0\]"):
        {"generate": generate, "stream": stream, "beam_search": beam_search}[call](
            spell(1), [1], **how | ({"num_beams": 2} if call == "beam_search" else {})
        )


@pytest.mark.parametrize(
    "kind",
    [list, tuple, set, np.array, jnp.array, dict.fromkeys, iter],
    ids=["list", "tuple", "set", "np.array", "jnp.array", "dict", "iterator"],
)
def test_any_collection_of_stop_ids_will_do(kind):
    out = generate(spell(0, 8, 5, 7), [3], max_new_tokens=4, stop_ids=kind([5, 9, 5]))
    assert out.tokens.tolist() == [8, 5, -1, -1]


@pytest.mark.parametrize("text", ["hello", b"hello", ["hello"], ["hello", "you"], [[1], "you"], [b"a"]], ids=str)
def test_text_is_encoded_first(text):
    for call in (
        lambda: generate(spell(1), text, max_new_tokens=1),
        lambda: stream(spell(1), text, max_new_tokens=1),
        lambda: beam_search(spell(1), text, num_beams=1, max_new_tokens=1),
        lambda: score(spell(1), text),
    ):
        with pytest.raises(ValueError, match=r"got the text .*: encode it first"):
            call()


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (0,)])
def test_no_rows(shape):
    empty = np.zeros(shape, np.int32)
    for call in (
        lambda: generate(spell(1), empty, max_new_tokens=1),
        lambda: stream(spell(1), empty, max_new_tokens=1),
        lambda: beam_search(spell(1), empty, num_beams=1, max_new_tokens=1),
        lambda: score(spell(1), empty),
        lambda: decode(spell(1), empty, capacity=8, max_new_tokens=1),
        lambda: jax.jit(lambda p: prefill_prompts(spell(1), p, capacity=8))(empty),
    ):
        with pytest.raises(ValueError, match=r"at least (one|1)"):
            call()


def test_no_samples():
    numbers: list[Any] = [0, -1, 2.0, True]
    for number in numbers:
        with pytest.raises(ValueError, match="num_samples"):
            decode(spell(1), jnp.array([1]), capacity=8, max_new_tokens=1, num_samples=number)
    with pytest.raises(ValueError, match="num_samples takes one prompt"):
        decode(spell(1), jnp.array([[1]]), capacity=8, max_new_tokens=1, num_samples=2)


def test_what_is_resumed_is_what_generate_returned():
    results: list[Any] = [[1, 2], generate(spell(1), [1], max_new_tokens=1).tokens]
    for wrong in results:
        with pytest.raises(TypeError, match="resume takes what generate returned"):
            generate(spell(1), resume=wrong, max_new_tokens=1)


def test_rows_of_a_decoder_want_rows_of_prompts():
    for call in (
        lambda: generate(spell(1), [1, 2], max_new_tokens=1, in_axes=0),
        lambda: beam_search(spell(1), [1, 2], num_beams=1, max_new_tokens=1, in_axes=0),
        lambda: score(spell(1), [1, 2], in_axes=0),
    ):
        with pytest.raises(ValueError, match="in_axes takes a batch"):
            call()


@pytest.mark.parametrize("value", [None, "1", True, 1j, [1.0], float("nan"), float("inf"), 10**400], ids=str)
def test_the_length_penalty_is_a_number(value):
    with pytest.raises(ValueError, match="length_penalty must be"):
        beam_search(spell(1), [1], num_beams=1, max_new_tokens=1, length_penalty=value)


@pytest.mark.parametrize("name", ["max_new_tokens", "num_beams"])
@pytest.mark.parametrize("value", [2**31, 2**63, 10**400, -1, None, 1.0, "1", True, [1]], ids=lambda v: str(v)[:9])
def test_counts_are_whole_numbers_of_32_bits(name, value):
    with pytest.raises(ValueError, match=name):
        beam_search(spell(1), [1], **{"num_beams": 1, "max_new_tokens": 1, name: value})
    if name == "max_new_tokens":
        for call in (generate, stream):
            with pytest.raises(ValueError, match=name):
                call(spell(1), [1], max_new_tokens=value)


class Touched(Exception):
    """What was given was accepted."""


class Touchy(Script):
    def init_state(self, capacity):
        raise Touched


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
anything = st.recursive(
    scalars | st.sampled_from([np.zeros(()), np.zeros((2, 0), int), np.array("a"), np.array(None), 1j, object, {2}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(
    st.sampled_from(["prompts", "sampler", "key", "stop_ids", "max_new_tokens", "num_samples", "resume"]), anything
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_anything_is_accepted_or_refused_in_our_own_words(name, value):
    """No error of Python's, NumPy's or JAX's own."""
    decoder = Touchy(rows=jnp.zeros((1, VOCAB)))
    how: dict[str, Any] = (
        {"prompts": [1], "max_new_tokens": 1} | {name: value} | ({"prompts": None} if name == "resume" else {})
    )
    calls: list[Callable[[], Any]] = [lambda: generate(decoder, **how)]
    if name not in ("num_samples", "resume"):
        rest = {n: v for n, v in how.items() if n != "prompts"}
        calls.append(lambda: next(stream(decoder, how["prompts"], **rest)))
    for call in calls:
        with pytest.raises((Touched, ValueError, TypeError, StopIteration)) as caught:
            call()
        if caught.type in (ValueError, TypeError):
            assert re.search("must |takes |empty|outside the voc|give either|at least|exceed", str(caught.value))
