"""Beam search over random models, beside every answer there is, a slow search, and that of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, Script, spell
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import ROWS, Case, Tree, every_answer, place, random_case, slow_beam_search

from zoo import NonFiniteLogitsError, beam_search

SMALL, LARGE = range(60), range(1000)
both = pytest.mark.parametrize("seeds", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["60", "1000"])


def found_by(case: Case) -> list[tuple[float, tuple[int, ...]]]:
    """Scores and tokens, best first, after all has been checked that holds for any search."""
    out = beam_search(case.decoder, case.prompt, **case.how)
    there = out.log_probs > -np.inf
    assert there[0]
    assert (out.tokens[~there] == -1).all()
    assert (out.length[~there] == 0).all()
    assert (np.diff(out.scores[there]) <= 0).all()
    found = [(float(s), tuple(t[:n].tolist())) for s, t, n in zip(out.scores, out.tokens, out.length, strict=True)]
    found = found[: int(there.sum())]
    assert len({tokens for _, tokens in found}) == len(found), "no sequence twice"
    stops = case.how["stop_ids"]
    for i, (score, tokens) in enumerate(found):
        assert (out.tokens[i, len(tokens) :] == -1).all()
        assert not set(tokens[:-1]) & set(stops)
        assert tokens[-1] in stops or len(tokens) == case.how["max_new_tokens"]
        total, ranked_by = case.score(list(tokens))
        np.testing.assert_allclose(out.log_probs[i], total, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(score, ranked_by, rtol=1e-5 * max(1, abs(case.how["length_penalty"])), atol=1e-5)
    return found


def scores_of(found, many):
    return np.array([score for score, _ in found] + [-np.inf] * (many - len(found)))


@both
def test_the_search_is_the_one_described(seeds):
    """Nothing is lost by giving up what cannot enter the pool any more."""
    for seed in seeds:
        case = random_case(seed)
        many = case.how["num_beams"]
        fast, slow = (scores_of(f, many) for f in (found_by(case), slow_beam_search(case)))
        np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5, err_msg=f"seed {seed}")


@both
def test_a_wide_search_finds_the_best_of_all(seeds):
    """A narrow one finds none better. Penalties of any size, whose scores leave float32."""
    for seed in seeds:
        case = random_case(
            seed, beams=(4, 256), longest=4, penalties=(-200.0, -16.0, -1.0, 0.0, 0.7, 1.0, 80.0, 200.0)
        )
        found = found_by(case)
        best = every_answer(case)
        wide = case.how["num_beams"] == 256
        for (score, _), (possible, _, log_prob) in zip(found, best, strict=False):
            # Of log-probabilities in float32, and of logarithms of scores, which grow with the penalty.
            slack = abs(possible) * (1e-5 + 1e-6 / max(-log_prob, 1e-30) + 3e-7 * abs(case.how["length_penalty"]))
            assert score <= possible + slack
            if wide:
                assert score >= possible - slack, f"seed {seed}"
        if wide:
            assert len(found) == min(len(best), 256)


@both
def test_transformers_finds_the_same(seeds):
    """Where its search never stops early."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    search = searcher(torch, transformers)
    for seed in seeds:
        case = random_case(seed, beams=(2, 3, 4, 5), stop_ids=([0], [0, 1]), forbidding=False)
        many = case.how["num_beams"]
        ours, theirs = (scores_of(f, many) for f in (found_by(case), search(case)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=f"seed {seed}")


def searcher(torch, transformers):
    """The same tables as a model of transformers, and its beam search over one of them."""

    class Config(transformers.PretrainedConfig):
        model_type = "tree"

    class Model(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = Config

        def __init__(self, config, rows):
            super().__init__(config)
            self.rows, self.unused = rows, torch.nn.Parameter(torch.zeros(1))
            self.all_tied_weights_keys = {}

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
            return {"input_ids": input_ids}

        def forward(self, input_ids, attention_mask=None, **kwargs):
            state = torch.zeros(input_ids.shape[0], dtype=torch.long)
            for token in input_ids.T:
                state = place(state, token)
            return transformers.modeling_outputs.CausalLMOutput(logits=self.rows[state][:, None])

    def search(case):
        how = case.how
        model = Model(Config(vocab_size=case.rows.shape[1]), torch.tensor(case.rows))
        out = model.generate(
            torch.tensor([case.prompt]),
            attention_mask=torch.ones(1, len(case.prompt), dtype=torch.long),
            num_beams=how["num_beams"],
            num_return_sequences=how["num_beams"],
            max_new_tokens=how["max_new_tokens"],
            eos_token_id=how["stop_ids"],
            pad_token_id=0,
            length_penalty=how["length_penalty"],
            early_stopping="never",
            do_sample=False,
            use_cache=False,
        )
        answers = set()
        for row in out[:, len(case.prompt) :].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in how["stop_ids"]), len(row))
            answers.add(tuple(row[:end]))
        return sorted(((case.score(list(tokens))[1], tokens) for tokens in answers), reverse=True)

    return search


def test_a_batch_is_its_rows():
    """A row whose search has ended is not changed by those that run on."""
    cases = [random_case(seed, beams=(4,)) for seed in range(40)]
    case = next(c for c in cases if c.how["stop_ids"] == [0] and c.how["max_new_tokens"] > 7 and c.rows.shape[1] == 7)
    prompts = [[i, j] for i in range(7) for j in range(3)]
    batch = beam_search(case.decoder, prompts, **case.how)
    for i, prompt in enumerate(prompts):
        alone = beam_search(case.decoder, prompt, **case.how)
        np.testing.assert_array_equal(batch.tokens[i], alone.tokens)
        np.testing.assert_array_equal(batch.length[i], alone.length)
        np.testing.assert_allclose(batch.scores[i], alone.scores, rtol=1e-5)


def chain_of(rows: dict[int, dict[int, float]]) -> Tree:
    """After each token its own probabilities, all others forbidden; NaN after a token that is not named."""
    table = np.full((VOCAB, VOCAB), np.nan, np.float32)
    for token, following in rows.items():
        table[token] = -np.inf
        for other, probability in following.items():
            table[token, other] = np.log(probability) if probability > 0 else -np.inf
    return LastToken(rows=jnp.asarray(table), vocab_size=VOCAB)


class LastToken(Tree):
    """Logits that depend on the last token alone."""

    def step(self, token, state):
        return self.rows[token], state

    def prefill(self, tokens, state, *, length=None):
        return self.rows[tokens[(tokens.size if length is None else length) - 1]], state


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_after_forbidden_tokens_is_never_seen(sign):
    """With 4 beams and 2 tokens that may come, two places are empty; they are filled with what is forbidden."""
    decoder = chain_of({1: {2: 0.75, 3: 0.25}, 2: {2: 1.0}, 3: {3: 1.0}})
    decoder = LastToken(
        rows=jnp.where(jnp.isnan(decoder.rows), jnp.copysign(jnp.nan, sign), decoder.rows), vocab_size=VOCAB
    )
    out = beam_search(decoder, [1], num_beams=4, max_new_tokens=4)
    assert out.tokens.tolist() == [[2, 2, 2, 2], [3, 3, 3, 3], [-1] * 4, [-1] * 4]
    np.testing.assert_allclose(out.log_probs[:2], np.log([0.75, 0.25]), rtol=1e-6)
    assert (out.log_probs[2:] == -np.inf).all()
    assert out.length.tolist() == [4, 4, 0, 0]


@pytest.mark.parametrize("end", [np.nan, np.inf, -np.inf], ids=str)
def test_a_dead_end_is_dropped_while_another_beam_lives(end):
    decoder = chain_of({1: {2: 0.75, 3: 0.25}, 2: {2: 1.0}, 3: {3: 1.0}})
    dead = LastToken(rows=decoder.rows.at[2].set(end), vocab_size=VOCAB)
    out = beam_search(dead, [1], num_beams=2, max_new_tokens=3)
    assert out.tokens.tolist() == [[3, 3, 3], [-1, -1, -1]]
    with pytest.raises(NonFiniteLogitsError):
        beam_search(dead, [1], num_beams=1, max_new_tokens=3)  # its only one
    with pytest.raises(NonFiniteLogitsError):
        beam_search(LastToken(rows=dead.rows.at[3].set(end), vocab_size=VOCAB), [1], num_beams=2, max_new_tokens=3)
    with pytest.raises(NonFiniteLogitsError):
        beam_search(dead, [[1], [2]], num_beams=2, max_new_tokens=3)  # the second row's
    stopped = beam_search(dead, [1], num_beams=1, max_new_tokens=3, stop_ids=[2])  # before it came to it
    assert stopped.tokens.tolist() == [[2, -1, -1]]


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.sampled_from([np.nan, -np.nan, np.inf, -np.inf]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_what_cannot_be_reached_changes_nothing(seed, share, value):
    """Logits after forbidden tokens may be anything."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(VOCAB, VOCAB)).astype(np.float32)
    forbidden = rng.permutation(VOCAB)[: int(share * VOCAB)]
    rows[:, forbidden] = -np.inf
    start = int(np.setdiff1d(np.arange(VOCAB), forbidden)[0])
    how = {"num_beams": 5, "max_new_tokens": 4, "stop_ids": [start], "length_penalty": 1.0}
    sound = beam_search(LastToken(rows=jnp.asarray(rows), vocab_size=VOCAB), [start], **how)
    rows[forbidden] = value
    wild = beam_search(LastToken(rows=jnp.asarray(rows), vocab_size=VOCAB), [start], **how)
    np.testing.assert_array_equal(wild.tokens, sound.tokens)
    np.testing.assert_array_equal(wild.scores, sound.scores)


@pytest.mark.parametrize("penalty", [80, 16.0, -80, 200, -200])
def test_large_penalties_rank_right(penalty):
    """At 16 from 256 tokens on, `length ** penalty` has left float32, and all scores would be equal."""
    new = 300 if penalty == 16.0 else 6
    decoder = chain_of({1: {0: 0.2, 1: 0.5, 2: 0.3}, 2: {0: 0.1, 1: 0.8, 2: 0.1}})
    out = beam_search(decoder, [1], num_beams=4, max_new_tokens=new, stop_ids=[0], length_penalty=penalty)
    assert len({tuple(row) for row in out.tokens.tolist()}) == 4
    exact = [float(p) / float(n) ** penalty for p, n in zip(out.log_probs, out.length, strict=True)]
    np.testing.assert_allclose(out.scores, exact, rtol=1e-12, atol=0)
    assert (out.scores < 0).all()
    assert np.isfinite(out.scores).all()
    best = int(out.length[0])
    assert best == (new if penalty > 0 else 1)


def test_a_penalty_beyond_all_numbers_is_refused():
    for penalty, new in ((1e30, 2), (-1e30, 2), (200, 100), (-200, 100)):
        with pytest.raises(ValueError, match=r"length_penalty .* is too large for max_new_tokens"):
            beam_search(spell(1, 2), [1], num_beams=2, max_new_tokens=new, length_penalty=penalty)
    for new in (0, 1):
        beam_search(spell(1, 2), [1], num_beams=2, max_new_tokens=new, length_penalty=1e30)


def test_certain_answers_and_impossible_ones():
    """A log-probability of exactly 0 is the best at any length, and one of -inf is not an answer."""
    certain = chain_of({1: {2: 1.0}, 2: {0: 1.0}})
    for penalty in (-2.0, 0.0, 1.0, 30.0):
        out = beam_search(certain, [1], num_beams=3, max_new_tokens=5, stop_ids=[0], length_penalty=penalty)
        assert out.tokens[0].tolist() == [2, 0, -1, -1, -1]
        assert out.scores.tolist() == [0.0, -np.inf, -np.inf]
    none = beam_search(certain, [1], num_beams=3, max_new_tokens=0)
    assert none.tokens.shape == (3, 0)
    assert none.log_probs.tolist() == [0.0, -np.inf, -np.inf]


def test_a_stop_id_given_twice_is_one():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(5, VOCAB)), jnp.float32)
    how = {"num_beams": 5, "max_new_tokens": 4, "length_penalty": 1.0}
    once = beam_search(Script(rows=rows), [1], stop_ids=[3, 4], **how)
    twice = beam_search(Script(rows=rows), [1], stop_ids=[4, 3, 3, 4, 3], **how)
    np.testing.assert_array_equal(once.tokens, twice.tokens)


def test_places_of_a_table_are_spread():
    """Else the random models above would hardly be random."""
    state, seen = 0, set()
    for token in np.random.default_rng(0).integers(0, 7, 500).tolist():
        state = place(state, token)
        seen.add(state)
    assert len(seen) > 400
    assert max(seen) < ROWS
