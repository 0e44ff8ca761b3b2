"""Scores against the whole sequence; beams against greedy decoding, and against every sequence there is."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from decoders import LENGTH, VOCAB, Script, elman, spell, subject_named

from zoo import NonFiniteLogitsError, beam_search, generate, score

pytestmark = pytest.mark.usefixtures("strict_promotion")


# A case of each model that generates, and the others.
NAMES = ("TransformerLM-trax", "TransformerLM-llama", "EncoderDecoder-pre-norm", "CharRNN-lstm", "script", "elman")


@pytest.fixture(scope="module", params=NAMES)
def subject(request, fill):
    return subject_named(request.param, fill)


def log_probs_of(subject, tokens):
    """Of each token after the first, from one pass over all."""
    padded = jnp.asarray([*tokens, *[0] * (LENGTH - len(tokens))])
    logits = np.asarray(subject.forward(padded), np.float64)[: len(tokens) - 1]
    logits = logits - logits.max(-1, keepdims=True)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return rows[np.arange(len(tokens) - 1), tokens[1:]]


def test_scores_are_those_of_the_whole_sequence(subject):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, VOCAB, size).tolist() for size in (2, 17, LENGTH)]
    batch = score(subject.decoder, texts)
    for i, text in enumerate(texts):
        slow = log_probs_of(subject, text)
        np.testing.assert_allclose(batch.log_probs[i, : len(text) - 1], slow, atol=1e-4)
        assert (batch.log_probs[i, len(text) - 1 :] == 0).all()
        assert batch.length[i] == len(text) - 1
        np.testing.assert_allclose(batch.total[i], slow.sum(), rtol=1e-4)
        np.testing.assert_allclose(batch.perplexity[i], np.exp(-slow.mean()), rtol=1e-4)
    alone = score(subject.decoder, texts[1])
    np.testing.assert_allclose(alone.log_probs, batch.log_probs[1, :16], atol=1e-4)
    assert alone.perplexity.shape == ()


@pytest.mark.parametrize("name", ["TransformerLM-trax", "elman"])
def test_one_beam_is_greedy(fill, name):
    subject = subject_named(name, fill)
    prompts, stops = [[1, 2, 3], [4], [5, 6]], [2, 7]
    greedy = generate(subject.decoder, prompts, max_new_tokens=12, stop_ids=stops)
    beams = beam_search(subject.decoder, prompts, num_beams=1, max_new_tokens=12, stop_ids=stops)
    np.testing.assert_array_equal(beams.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(beams.length[:, 0], greedy.length)
    np.testing.assert_allclose(beams.log_probs[:, 0], greedy.log_probs.sum(-1), atol=1e-4)


def every_answer(subject, prompt, new, stop):
    """All continuations of so many tokens, cut behind the first stop id, with the sum of their log-probabilities."""
    found = {}
    for answer in itertools.product(range(VOCAB), repeat=new):
        if stop in answer:
            answer = answer[: answer.index(stop) + 1]
        if answer not in found:
            found[answer] = log_probs_of(subject, [*prompt, *answer])[len(prompt) - 1 :].sum()
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("stop", [None, 4])
def test_a_wide_beam_finds_the_best_of_all(fill, stop, length_penalty):
    subject, prompt, new, beams = elman(fill), [3, 1], 3, 150  # more than the 121 prefixes of two tokens
    out = beam_search(
        subject.decoder,
        prompt,
        num_beams=beams,
        max_new_tokens=new,
        stop_ids=[] if stop is None else [stop],
        length_penalty=length_penalty,
    )
    answers = ALL.setdefault(stop, every_answer(subject, prompt, new, stop))
    scores = {answer: total / len(answer) ** length_penalty for answer, total in answers.items()}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:20]
    for i, answer in enumerate(best):
        np.testing.assert_allclose(out.scores[i], scores[answer], atol=1e-4)
        found = tuple(out.tokens[i, : out.length[i]].tolist())
        np.testing.assert_allclose(scores[found], scores[answer], atol=1e-4)
        np.testing.assert_allclose(out.log_probs[i], answers[found], atol=1e-4)
        assert (out.tokens[i, out.length[i] :] == -1).all()
    rows = {tuple(row) for row in out.tokens.tolist()}
    assert len(rows) == beams, "no sequence twice"


ALL: dict[int | None, dict[tuple[int, ...], float]] = {}


def test_beams_of_a_batch_are_those_of_its_rows(fill):
    decoder = subject_named("TransformerLM-trax", fill).decoder
    prompts = [[1, 2, 3], [4], [5, 6]]
    batch = beam_search(decoder, prompts, num_beams=4, max_new_tokens=6, stop_ids=[2], length_penalty=0.6)
    for i, prompt in enumerate(prompts):
        alone = beam_search(decoder, prompt, num_beams=4, max_new_tokens=6, stop_ids=[2], length_penalty=0.6)
        np.testing.assert_array_equal(batch.tokens[i], alone.tokens)
        np.testing.assert_allclose(batch.scores[i], alone.scores, atol=1e-4)
    assert (np.diff(batch.scores, axis=-1) <= 0).all()


def test_logits_that_are_not_finite_are_an_error():
    decoder = spell(1, 2, 3)
    bad = Script(rows=decoder.rows.at[2, 5].set(jnp.nan))
    with pytest.raises(NonFiniteLogitsError):
        score(bad, [1, 2, 3])
    with pytest.raises(NonFiniteLogitsError):
        beam_search(bad, [1], num_beams=2, max_new_tokens=3)
    beam_search(bad, [1], num_beams=2, max_new_tokens=1)  # it has not come to it yet
