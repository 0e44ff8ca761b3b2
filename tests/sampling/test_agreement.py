"""A row is what it is, however it is run: alone, batched, padded, in pieces, streamed, or by the whole sequence.

That decoders of the zoo take their tokens in any pieces is part of the contract (`tests/contract/test_decoders.py`).
"""

import jax
import numpy as np
import pytest
from agreement import Agreement, naive
from decoders import VOCAB, subject_named
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


# One of each kind of state: each takes seconds.
@pytest.mark.parametrize("name", ["TransformerLM-llama", "script", "elman"])
def test_all_ways_to_run_a_row_agree(fill, name):
    subject, agreement = subject_named(name, fill), Agreement()
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


@pytest.mark.parametrize("name", ["TransformerLM-trax", "elman"])
def test_greedy_equals_the_whole_sequence_again_for_each_token(fill, name):
    subject, agreement = subject_named(name, fill), Agreement()

    @given(st.lists(prompts, min_size=ROWS, max_size=ROWS), st.integers(0, 24))
    @some(10)
    def check(prompts, new):
        batch = generate(subject.decoder, prompts, max_new_tokens=new, sampler=Greedy())
        for i, prompt in enumerate(prompts):
            agreement.check(naive(subject, prompt, new), batch.tokens[i], batch.log_probs[i], batch.length[i])

    check()
    agreement.assert_ties_are_rare()


@pytest.mark.parametrize("name", ["TransformerLM-llama", "elman"])
def test_the_same_shapes_give_the_same_bits(fill, name):
    how = {"max_new_tokens": 14, "sampler": Temperature(0.9), "key": jax.random.key(8)}
    one, two = (generate(subject_named(name, fill).decoder, [[3, 1, 4], [1], [5, 9]], **how) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
