"""A row is what it is, however it is run: alone, batched, padded, in pieces, streamed, or by the whole sequence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import Agreement, naive
from decoders import LENGTH, SUBJECTS, VOCAB
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Greedy, Temperature, generate, stream

pytestmark = pytest.mark.usefixtures("strict_promotion")
ROWS, MOST_PROMPT, MOST_NEW = 3, 16, 14

seeds = st.integers(0, 2**31 - 1)
prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=MOST_PROMPT)
temperatures = st.sampled_from([0.0, 0.3, 1.0, 2.5])


def some(max_examples):
    return settings(max_examples=max_examples, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request, fill):
    return SUBJECTS[request.param](fill)


CHUNK = 6


@eqx.filter_jit
def prefill(decoder, tokens, state, length):
    return decoder.prefill(tokens, state, length=length)


@eqx.filter_jit
def step(decoder, token, state):
    return decoder.step(token, state)


def test_any_split_into_prefills_and_steps_equals_the_whole(subject):
    """Chunks of 1 to 6 tokens with random padding behind them, or steps, in any order."""
    decoder = subject.decoder

    @given(st.lists(st.integers(0, CHUNK), min_size=1, max_size=7), seeds)
    @some(25)
    def check(cuts, seed):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, VOCAB, LENGTH, np.int32)
        whole = np.asarray(subject.forward(jnp.asarray(tokens)))
        state, seen = decoder.init_state(LENGTH), 0
        for cut in cuts:  # 0 is a step
            if cut == 0:
                logits, state = step(decoder, jnp.asarray(tokens[seen]), state)
            else:
                padded = rng.integers(0, VOCAB, CHUNK, np.int32)
                padded[:cut] = tokens[seen : seen + cut]
                logits, state = prefill(decoder, jnp.asarray(padded), state, jnp.array(cut))
            seen += max(cut, 1)
            np.testing.assert_allclose(logits, whole[seen - 1], atol=1e-5)

    check()


def test_extend_gives_the_logits_after_each_token(subject):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, LENGTH, np.int32))
    decoder, whole = subject.decoder, subject.forward(tokens)
    _, state = prefill(decoder, tokens[:CHUNK], decoder.init_state(LENGTH), jnp.array(5))
    logits, state = eqx.filter_jit(lambda decoder, *rest: decoder.extend(*rest))(decoder, tokens[5:20], state)
    np.testing.assert_allclose(logits, whole[5:20], atol=1e-5)
    np.testing.assert_allclose(step(decoder, tokens[20], state)[0], whole[20], atol=1e-5)


@pytest.mark.parametrize("name", ["lm-llama", "script", "elman"])  # one of each kind of state: each takes seconds
def test_all_ways_to_run_a_row_agree(fill, name):
    subject, agreement = SUBJECTS[name](fill), Agreement()
    decoder = subject.decoder

    @given(
        st.lists(prompts, min_size=ROWS, max_size=ROWS),
        st.integers(0, MOST_NEW),
        temperatures,
        st.lists(st.integers(0, VOCAB - 1), max_size=2),
        st.integers(0, MOST_NEW),
        seeds,
    )
    @some(14)
    def check(prompts, new, temperature, stop_ids, cut, seed):
        key, cut = jax.random.key(seed), min(cut, new)
        row_keys = [jax.random.fold_in(key, i) for i in range(ROWS)]
        slow = [
            naive(subject, prompt, new, temperature, row_key, stop_ids)
            for prompt, row_key in zip(prompts, row_keys, strict=True)
        ]
        how = {"sampler": Temperature(temperature), "stop_ids": stop_ids}

        batch = generate(decoder, prompts, max_new_tokens=new, key=key, **how)
        assert batch.tokens.shape == (ROWS, new)
        for i in range(ROWS):
            agreement.check(slow[i], batch.tokens[i], batch.log_probs[i], batch.length[i])

        alone = generate(decoder, prompts[0], max_new_tokens=new, key=row_keys[0], **how)
        assert alone.tokens.shape == (new,)
        agreement.check(slow[0], alone.tokens, alone.log_probs, alone.length)

        streamed = list(stream(decoder, prompts[1], max_new_tokens=new, key=row_keys[1], **how))
        agreement.check(slow[1], streamed)
        assert -1 not in streamed

        first = generate(decoder, prompts, max_new_tokens=cut, key=key, **how)
        second = generate(decoder, resume=first, max_new_tokens=new - cut, key=key, **how)
        for i in range(ROWS):
            if not first.stopped[i]:
                agreement.check(
                    slow[i],
                    np.concatenate([first.tokens[i], second.tokens[i]]),
                    np.concatenate([first.log_probs[i], second.log_probs[i]]),
                    first.length[i] + second.length[i],
                )

    check()
    agreement.assert_ties_are_rare()


@pytest.mark.parametrize("name", ["lm-trax", "elman"])
def test_greedy_equals_the_whole_sequence_again_for_each_token(fill, name):
    subject, agreement = SUBJECTS[name](fill), Agreement()

    @given(st.lists(prompts, min_size=ROWS, max_size=ROWS), st.integers(0, 24))
    @some(10)
    def check(prompts, new):
        batch = generate(subject.decoder, prompts, max_new_tokens=new, sampler=Greedy())
        for i, prompt in enumerate(prompts):
            agreement.check(naive(subject, prompt, new), batch.tokens[i], batch.log_probs[i], batch.length[i])

    check()
    agreement.assert_ties_are_rare()


@pytest.mark.parametrize("name", ["lm-llama", "elman"])
def test_the_same_shapes_give_the_same_bits(fill, name):
    how = {"max_new_tokens": 14, "sampler": Temperature(0.9), "key": jax.random.key(8)}
    one, two = (generate(SUBJECTS[name](fill).decoder, [[3, 1, 4], [1], [5, 9]], **how) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
