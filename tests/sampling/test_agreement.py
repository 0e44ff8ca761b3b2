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

from zoo import Greedy, Temperature, decode, generate, stream

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


def test_any_split_into_prefills_and_steps_equals_the_whole(subject):
    """Chunks of 1 to 6 tokens with random padding behind them, or steps, in any order."""
    decoder, chunk = subject.decoder, 6
    prefill, step = eqx.filter_jit(decoder.prefill), eqx.filter_jit(decoder.step)

    @given(st.lists(st.integers(0, chunk), min_size=1, max_size=7), seeds)
    @some(25)
    def check(cuts, seed):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, VOCAB, LENGTH, np.int32)
        whole = np.asarray(subject.forward(jnp.asarray(tokens)))
        state, seen = decoder.init_state(LENGTH), 0
        for cut in cuts:  # 0 is a step
            if cut == 0:
                logits, state = step(jnp.asarray(tokens[seen]), state)
            else:
                padded = rng.integers(0, VOCAB, chunk, np.int32)
                padded[:cut] = tokens[seen : seen + cut]
                logits, state = prefill(jnp.asarray(padded), state, length=jnp.array(cut))
            seen += max(cut, 1)
            np.testing.assert_allclose(logits, whole[seen - 1], atol=1e-5)

    check()


def test_extend_gives_the_logits_after_each_token(subject):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, LENGTH, np.int32))
    decoder, whole = subject.decoder, subject.forward(tokens)
    _, state = decoder.prefill(tokens[:5], decoder.init_state(LENGTH))
    logits, state = eqx.filter_jit(decoder.extend)(tokens[5:20], state)
    np.testing.assert_allclose(logits, whole[5:20], atol=1e-5)
    np.testing.assert_allclose(decoder.step(tokens[20], state)[0], whole[20], atol=1e-5)


def test_all_ways_to_run_a_row_agree(subject):
    decoder, agreement = subject.decoder, Agreement()
    run = eqx.filter_jit(decode)

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

        padded = np.random.default_rng(seed).integers(0, VOCAB, (ROWS, MOST_PROMPT + 5))  # padding of any valid id
        for i, prompt in enumerate(prompts):
            padded[i, : len(prompt)] = prompt
        traced = run(
            decoder,
            padded,
            room=LENGTH,
            length=np.array([len(prompt) for prompt in prompts]),
            max_new_tokens=np.array(new, np.int32),
            sampler=Temperature(np.array(temperature, np.float32)),
            stop_ids=np.array([*stop_ids, -1, -1][:2]),
            key=key,
        )
        assert bool(traced.finite.all())
        for i in range(ROWS):
            agreement.check(slow[i], traced.tokens[i], traced.log_probs[i], traced.length[i])

    check()
    agreement.assert_ties_are_rare()


def test_greedy_equals_the_whole_sequence_again_for_each_token(subject):
    agreement = Agreement()

    @given(st.lists(prompts, min_size=ROWS, max_size=ROWS), st.integers(0, 24))
    @some(10)
    def check(prompts, new):
        batch = generate(subject.decoder, prompts, max_new_tokens=new, sampler=Greedy())
        for i, prompt in enumerate(prompts):
            agreement.check(naive(subject, prompt, new), batch.tokens[i], batch.log_probs[i], batch.length[i])

    check()
    agreement.assert_ties_are_rare()


def test_samples_of_one_prompt_are_a_batch_of_it(subject):
    how = {"max_new_tokens": 9, "sampler": Temperature(1.3), "stop_ids": [4], "key": jax.random.key(5)}
    prompt, key = [3, 1, 4], how["key"]
    samples = generate(subject.decoder, prompt, num_samples=ROWS, **how)
    batch = generate(subject.decoder, [prompt] * ROWS, **how)
    agreement = Agreement()
    for i in range(ROWS):
        slow = naive(subject, prompt, 9, 1.3, jax.random.fold_in(key, i), [4])
        agreement.check(slow, samples.tokens[i], samples.log_probs[i], samples.length[i])
        agreement.check(slow, batch.tokens[i], batch.log_probs[i], batch.length[i])
    assert agreement.ties == 0
    assert len({tuple(row) for row in samples.tokens.tolist()}) > 1


def test_the_same_shapes_give_the_same_bits(subject):
    how = {"max_new_tokens": 14, "sampler": Temperature(0.9), "key": jax.random.key(8)}
    one, two = (generate(subject.decoder, [[3, 1, 4], [1], [5, 9]], **how) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
