"""What every decoder of the zoo promises, written once: however its tokens go in, it is the model without any state.

Every case of `cases.py` that generates is tested here; `test_broken_decoders.py` shows what these tests catch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, VOCAB
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.decoder import keep_if_stopped

LENGTH = 10  # tokens in all: at most the `max_length` of every case
CHUNK = 4


@pytest.fixture(scope="module", params=[case for case in CASES if case.generates], ids=lambda case: case.name)
def subject(request, fill, forget_compiled):
    case = request.param
    yield case.subject(eqx.nn.inference_mode(fill(case.make_training)))
    forget_compiled()


@eqx.filter_jit
def prefill(decoder, tokens, state, length):
    return decoder.prefill(tokens, state, length=length)


@eqx.filter_jit
def step(decoder, token, state):
    return decoder.step(token, state)


def is_whole(got, whole, subject, how):
    np.testing.assert_allclose(
        got, whole, atol=1e-5, err_msg=f"{subject.name}: {how}: not as the model without state"
    )


def test_vocabulary_and_capacity_are_declared(subject):
    decoder = subject.decoder
    logits, _ = eqx.filter_eval_shape(decoder.step, jnp.array(0), decoder.init_state(LENGTH))
    assert logits.shape == (decoder.vocab_size,) == (VOCAB,)
    assert logits.dtype == jnp.float32
    if decoder.max_length is not None:
        assert decoder.max_length >= LENGTH, f"{subject.name}: give the case a config with max_length={LENGTH}"
        for capacity in (0, -1, decoder.max_length + 1):
            with pytest.raises(ValueError, match="capacity"):
                decoder.init_state(capacity)


def test_nothing_is_promoted_silently(subject):
    """As `test_two_types_meet_only_where_the_model_says_so`, one token at a time."""
    decoder = subject.decoder
    with jax.numpy_dtype_promotion("strict"):
        state = decoder.init_state(LENGTH)
        _, state = eqx.filter_eval_shape(decoder.prefill, jnp.arange(CHUNK), state, length=jnp.array(1))
        eqx.filter_eval_shape(decoder.step, jnp.array(0), state)


def test_any_split_into_prefills_and_steps_equals_the_whole(subject):
    """Chunks of 1 to 4 tokens with random padding behind them, or steps, in any order."""
    decoder = subject.decoder

    @given(st.lists(st.integers(0, CHUNK), min_size=1, max_size=LENGTH), st.integers(0, 2**31 - 1))
    @settings(max_examples=25, deadline=None, derandomize=True)
    def check(cuts, seed):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, VOCAB, LENGTH, np.int32)
        whole = np.asarray(subject.forward(jnp.asarray(tokens)))
        state, seen = decoder.init_state(LENGTH), 0
        for i, cut in enumerate(cuts):  # 0 is a step
            if seen + max(cut, 1) > LENGTH:
                break
            if cut == 0:
                logits, state = step(decoder, jnp.asarray(tokens[seen]), state)
            else:
                padded = rng.integers(0, VOCAB, CHUNK, np.int32)
                padded[:cut] = tokens[seen : seen + cut]
                logits, state = prefill(decoder, jnp.asarray(padded), state, jnp.array(cut))
            seen += max(cut, 1)
            is_whole(logits, whole[seen - 1], subject, f"prefills of so many tokens, or steps (0), {cuts[: i + 1]}")

    check()


def test_extend_gives_the_logits_after_each_token(subject):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, LENGTH, np.int32))
    decoder, whole = subject.decoder, subject.forward(tokens)
    _, state = prefill(decoder, tokens[:CHUNK], decoder.init_state(LENGTH), jnp.array(3))
    logits, state = eqx.filter_jit(lambda decoder, *rest: decoder.extend(*rest))(decoder, tokens[3:9], state)
    is_whole(logits, whole[3:9], subject, "extend after a prefill")
    is_whole(step(decoder, tokens[9], state)[0], whole[9], subject, "a step after extend")


@eqx.filter_jit
def in_turns(decoder, tokens, lengths, going):
    """Rows of one batch: a prefill of `CHUNK` tokens, of which `lengths` are real, and then steps.

    In turn t only the rows `going[t]` go on; the others are held, as `zoo.sampling` holds a row that has stopped.
    Gives the logits after the prefill and after each turn.
    """

    def turn(carry, going):
        states, logits, seen = carry
        token = tokens[jnp.arange(tokens.shape[0]), seen]
        after, states_after = eqx.filter_vmap(decoder.step)(token, states)
        states = jax.vmap(keep_if_stopped)(~going, states, states_after)
        logits = jnp.where(going[:, None], after, logits)
        return (states, logits, seen + going), logits

    empty = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (tokens.shape[0], *leaf.shape)), decoder.init_state(LENGTH)
    )
    begin = eqx.filter_vmap(lambda tokens, state, length: decoder.prefill(tokens, state, length=length))
    first, states = begin(tokens[:, :CHUNK], empty, lengths)
    _, later = jax.lax.scan(turn, (states, first, lengths), going)
    return jnp.concatenate([first[None], later])


def test_rows_of_a_batch_held_and_resumed_equal_the_whole(subject):
    """Rows of any length, of which some are held while the others go on, and go on later from where they were."""
    tokens = np.random.default_rng(2).integers(0, VOCAB, (3, LENGTH), np.int32)
    lengths = np.array([3, 1, 4], np.int32)
    going = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], bool)
    got = np.asarray(in_turns(subject.decoder, jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(going)))
    seen = lengths + np.concatenate([np.zeros((1, 3), int), going.cumsum(0)])
    for i, row in enumerate(tokens):
        whole = np.asarray(subject.forward(jnp.asarray(row)))
        is_whole(got[:, i], whole[seen[:, i] - 1], subject, f"row {i} of a batch, held in turns")


def test_beyond_its_capacity_are_nan_and_nothing_is_written(subject):
    decoder = subject.decoder
    shapes = [jax.tree.map(jnp.shape, decoder.init_state(capacity)) for capacity in (LENGTH - 1, LENGTH)]
    if shapes[0] == shapes[1]:
        pytest.skip("its state holds any number of tokens")
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, LENGTH, np.int32))
    _, state = prefill(decoder, tokens[:CHUNK], decoder.init_state(LENGTH), jnp.array(CHUNK))
    _, state = prefill(decoder, tokens[4:8], state, jnp.array(CHUNK))
    for length in (3, 4, 0):
        assert np.isnan(prefill(decoder, tokens[:CHUNK], state, jnp.array(length))[0]).all()
    logits, full = prefill(decoder, tokens[6:10].at[:2].set(tokens[8:]), state, jnp.array(2))
    is_whole(logits, subject.forward(tokens)[9], subject, "a prefill whose padding does not fit")
    for _ in range(3):
        logits, after = step(decoder, tokens[0], full)
        assert np.isnan(logits).all(), f"{subject.name}: a step beyond the capacity must give NaN"
        for ours, before in zip(jax.tree.leaves(after), jax.tree.leaves(full), strict=True):
            np.testing.assert_array_equal(ours, before, err_msg=f"{subject.name}: a step beyond the capacity writes")
        full = after
