"""`generate`, `stream` and `decode`: stop ids, resuming, capacities, keys, and life inside the user's own `jit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import Agreement, naive
from decoders import LENGTH, VOCAB, elman, language_model, spell, subject_named

from zoo import (
    Chain,
    Greedy,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    decode,
    generate,
    stream,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(scope="module")
def network(fill):
    return elman(fill)


@pytest.fixture(scope="module")
def lm(fill):
    return subject_named("TransformerLM-llama", fill)


def test_a_script_is_spelled_and_its_stop_id_kept():
    decoder = spell(0, 8, 5, 7, 7, 2, 9)  # after one token it says 8, and 9 ends it
    out = generate(decoder, [3], max_new_tokens=9, stop_ids=[9])
    assert out.tokens.tolist() == [8, 5, 7, 7, 2, 9, -1, -1, -1]
    assert (int(out.length), bool(out.stopped), bool(out.finite)) == (6, True, True)
    assert (out.log_probs[:6] < 0).all()
    assert (out.log_probs[6:] == 0).all()
    assert out.context[:8].tolist() == [3, 8, 5, 7, 7, 2, 9, -1]
    assert (int(out.context_length), int(out.drawn), int(out.state)) == (7, 6, 7)
    assert list(stream(decoder, [3], max_new_tokens=9, stop_ids=[9])) == [8, 5, 7, 7, 2, 9]


def test_rows_of_a_batch_stop_by_themselves():
    decoder = spell(0, 8, 5, 7, 7, 2, 9)
    out = generate(decoder, [[1], [1, 2, 3], [1, 2]], max_new_tokens=4, stop_ids=[7, 2])
    assert out.tokens.tolist() == [[8, 5, 7, -1], [7, -1, -1, -1], [5, 7, -1, -1]]
    assert out.length.tolist() == [3, 1, 2]
    assert out.stopped.all()


@pytest.mark.parametrize("stop", [0, 9])
def test_any_number_of_stop_ids(stop):
    ids = [0, 8, 5, 7, 7, 2, stop, 4]
    others = [i for i in range(VOCAB) if i not in ids]
    many = [*others * 4, stop]  # more than a bucket of 8 holds
    assert len(many) > 8
    out = generate(spell(*ids), [1], max_new_tokens=8, stop_ids=many)
    assert out.tokens.tolist() == [8, 5, 7, 7, 2, stop, -1, -1]


def test_no_new_tokens(network):
    out = generate(network.decoder, [[1, 2], [3], [4]], max_new_tokens=0)
    assert out.tokens.shape == (3, 0)
    assert out.length.tolist() == [0, 0, 0]
    assert not out.stopped.any()
    assert list(stream(network.decoder, [1], max_new_tokens=0)) == []
    resumed = generate(network.decoder, resume=out, max_new_tokens=5)
    Agreement().check(naive(network, [1, 2], 5), resumed.tokens[0], resumed.log_probs[0], resumed.length[0])


def test_the_whole_length_can_be_used(lm):
    """`max_length` is no bucket, so prompt and capacity are both cut to it."""
    prompt = [i % VOCAB for i in range(LENGTH - 8)]
    out = generate(lm.decoder, prompt, max_new_tokens=8)
    Agreement().check(naive(lm, prompt, 8), out.tokens, out.log_probs, out.length)
    context = [*prompt, *out.tokens.tolist()]
    full = generate(lm.decoder, context, max_new_tokens=0)
    for last in (full.logits, out.logits):
        np.testing.assert_allclose(last, lm.forward(jnp.array(context))[-1], atol=1e-5)


@pytest.mark.parametrize("which", ["network", "lm"])
def test_a_row_that_has_stopped_is_held_until_it_is_resumed(which, request):
    """The others go on meanwhile; then it continues exactly as it does alone."""
    subject, key, temperature = request.getfixturevalue(which), jax.random.key(3), 1.0
    prompts = [[1], [1, 2, 3, 4], [5, 6]]
    how = {"sampler": Temperature(temperature), "key": key}
    unstopped = generate(subject.decoder, prompts, max_new_tokens=20, **how).tokens
    stops = [int(unstopped[0, 2]), int(unstopped[1, 7])]
    batch = generate(subject.decoder, prompts, max_new_tokens=20, stop_ids=stops, **how)
    assert len(set(batch.length.tolist())) > 1, "they must stop at different times"
    again = generate(subject.decoder, resume=batch, max_new_tokens=12, **how)
    agreement = Agreement()
    for i, prompt in enumerate(prompts):
        row = naive(subject, prompt, int(batch.length[i]) + 12, temperature, jax.random.fold_in(key, i))
        agreement.check(row, [*batch.tokens[i, : batch.length[i]], *again.tokens[i]])
        alone = generate(
            subject.decoder,
            prompt,
            max_new_tokens=20,
            stop_ids=stops,
            sampler=Temperature(temperature),
            key=jax.random.fold_in(key, i),
        )
        np.testing.assert_allclose(batch.logits[i], alone.logits, atol=1e-5)
        assert int(batch.context_length[i]) == len(prompt) + int(batch.length[i])
    assert agreement.ties == 0


@pytest.mark.parametrize("which", ["elman", "lm"])
def test_resuming_grows_over_the_edge_of_a_room(which, fill):
    subject = elman(fill) if which == "elman" else language_model(fill, max_length=160, num_layers=1)
    key, prompts = jax.random.key(2), [[4, 1], [7, 7, 7, 3, 2]]
    how = {"sampler": Temperature(0.8), "key": key}
    slow = [naive(subject, p, 90, 0.8, jax.random.fold_in(key, i), length=160) for i, p in enumerate(prompts)]
    pieces = [generate(subject.decoder, prompts, max_new_tokens=50, **how)]
    assert pieces[0].context.shape == (2, 64)
    for new in (6, 20, 14):  # the second crosses 64
        pieces.append(generate(subject.decoder, resume=pieces[-1], max_new_tokens=new, **how))
    assert pieces[-1].context.shape == (2, 128)
    agreement = Agreement()
    for i in range(2):
        tokens = np.concatenate([piece.tokens[i] for piece in pieces])
        agreement.check(slow[i], tokens, np.concatenate([piece.log_probs[i] for piece in pieces]))
        assert pieces[-1].context[i, len(prompts[i]) :][:90].tolist() == tokens.tolist()
        assert int(pieces[-1].drawn[i]) == 90
    assert agreement.ties == 0
    with pytest.raises(ValueError, match="max_length"):
        generate(subject_named("TransformerLM-trax", fill).decoder, resume=pieces[-1], max_new_tokens=100, **how)


def test_row_i_of_a_batch_is_its_prompt_alone_with_the_key_folded_in(network):
    prompts, key = [[1, 2, 3], [4], [5, 5], [1, 2, 3]], jax.random.key(11)
    how = {"max_new_tokens": 25, "sampler": Chain(RepetitionPenalty(1.3), TopP(0.9))}
    batch = generate(network.decoder, prompts, key=key, **how)
    for i, prompt in enumerate(prompts):
        alone = generate(network.decoder, prompt, key=jax.random.fold_in(key, i), **how)
        assert batch.tokens[i].tolist() == alone.tokens.tolist()
    assert batch.tokens[0].tolist() != batch.tokens[3].tolist()  # the same prompt, another row


def test_samples_of_one_prompt_are_a_batch_of_it(network):
    how = {"max_new_tokens": 9, "sampler": Temperature(1.3), "stop_ids": [4], "key": jax.random.key(5)}
    prompt, agreement = [3, 1, 4], Agreement()
    samples = generate(network.decoder, prompt, num_samples=3, **how)
    batch = generate(network.decoder, [prompt] * 3, **how)
    for i in range(3):
        slow = naive(network, prompt, 9, 1.3, jax.random.fold_in(how["key"], i), [4])
        agreement.check(slow, samples.tokens[i], samples.log_probs[i], samples.length[i])
        agreement.check(slow, batch.tokens[i], batch.log_probs[i], batch.length[i])
    assert agreement.ties == 0
    assert len({tuple(row) for row in samples.tokens.tolist()}) > 1


def test_old_and_new_style_keys(network):
    how = {"max_new_tokens": 6, "sampler": Temperature(1.0)}
    new = generate(network.decoder, [[1], [2], [3]], key=jax.random.key(5), **how)
    old = generate(network.decoder, [[1], [2], [3]], key=jax.random.PRNGKey(5), **how)
    np.testing.assert_array_equal(new.tokens, old.tokens)


COLD = {
    "temperature 0": Temperature(0),
    "temperature 0.0": Temperature(0.0),
    "array": Temperature(jnp.array(0.0)),
    "tiny": Temperature(1e-30),
    "subnormal": Temperature(1e-45),
    "top 1": TopK(1),
    "top_p 0": TopP(0.0),
    "min_p 1": MinP(1.0),
    "nothing penalised": Chain(RepetitionPenalty(1.0), PresencePenalty(0.0)),
}


@pytest.mark.parametrize("sampler", COLD.values(), ids=COLD.keys())
def test_everything_cold_is_greedy(network, sampler):
    prompts = [[1], [5, 4, 3]]
    how = {"max_new_tokens": 20, "key": jax.random.key(0) if sampler.draws else None}
    cold = generate(network.decoder, prompts, sampler=sampler, **how)
    np.testing.assert_array_equal(cold.tokens, generate(network.decoder, prompts, max_new_tokens=20).tokens)


def test_a_traced_temperature_of_0_is_greedy(network):
    prompts = np.array([[1, 2], [5, 4]])

    @jax.jit
    def run(temperature, k):
        sampler = Chain(TopK(k), Temperature(temperature))
        how = {"capacity": 32, "max_new_tokens": 20, "sampler": sampler, "key": jax.random.key(0)}
        return decode(network.decoder, prompts, **how).tokens[:, :20]

    greedy = generate(network.decoder, prompts, max_new_tokens=20).tokens
    np.testing.assert_array_equal(run(0.0, 5), greedy)
    np.testing.assert_array_equal(run(3.0, 1), greedy)
    assert (run(3.0, 0) != greedy).any()


def test_decode_inside_the_users_own_jit_and_vmap(network, lm):
    """Over prompts with any padding, over temperatures, and over the weights of several models."""
    prompts, lengths = jnp.array([[1, 2, 3], [4, 5, 6]]), jnp.array([2, 3])
    keys = jax.random.split(jax.random.key(1), 2)

    def run(decoder, prompt, length, temperature, key):
        how = {"sampler": Temperature(temperature), "key": key, "stop_ids": jnp.array([7])}
        return decode(decoder, prompt, length=length, capacity=24, max_new_tokens=20, **how)

    temperatures = jnp.array([0.0, 1.2])
    for subject in (network, lm):
        out = eqx.filter_jit(eqx.filter_vmap(run, in_axes=(None, 0, 0, 0, 0)))(
            subject.decoder, prompts, lengths, temperatures, keys
        )
        for i in range(2):
            row = naive(subject, prompts[i, : lengths[i]].tolist(), 20, float(temperatures[i]), keys[i], [7])
            Agreement().check(row, out.tokens[i], out.log_probs[i], out.length[i])

    others = jax.tree.map(lambda x: jnp.stack([x, -x]), eqx.filter(network.decoder, eqx.is_array))
    several = eqx.combine(others, network.decoder)
    both = eqx.filter_jit(eqx.filter_vmap(run, in_axes=(0, 0, 0, 0, 0)))(
        several, prompts, lengths, temperatures, keys
    )
    negated = jax.tree.map(lambda x: -x if eqx.is_array(x) else x, network.decoder)
    alone = generate(negated, prompts[1], max_new_tokens=20, stop_ids=[7], sampler=Temperature(1.2), key=keys[1])
    np.testing.assert_array_equal(both.tokens[1, :20], alone.tokens)


def test_penalties_see_the_prompt_and_what_came_since(fill):
    """A script that always prefers the same order of tokens has to go down its list when none may come twice."""
    decoder = spell(0)
    decoder = eqx.tree_at(lambda d: d.rows, decoder, jnp.arange(VOCAB, 0.0, -1.0)[None])
    out = generate(decoder, [[0, 2], [9]], max_new_tokens=6, sampler=PresencePenalty(1e4))
    assert out.tokens.tolist() == [[1, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]
    resumed = generate(decoder, resume=out, max_new_tokens=2, sampler=PresencePenalty(1e4))
    assert resumed.tokens.tolist() == [[8, 9], [6, 7]]
    assert generate(decoder, [3], max_new_tokens=3, sampler=Greedy()).tokens.tolist() == [0, 0, 0]


def test_streaming_takes_nothing_from_the_caller(network):
    """Caches are written in place, but the key and the sampler's numbers are not the sampler's to give away."""
    key, sampler = jax.random.key(4), Chain(TopK(jnp.array(5)), Temperature(jnp.array(0.7)))
    first = list(stream(network.decoder, [1, 2], max_new_tokens=6, sampler=sampler, key=key))
    second = list(stream(network.decoder, [1, 2], max_new_tokens=6, sampler=sampler, key=key))
    assert first == second
    assert not any(
        leaf.is_deleted() for leaf in jax.tree.leaves((network.decoder, sampler, key)) if eqx.is_array(leaf)
    )


def test_a_result_can_be_resumed_more_than_once(lm):
    """Nothing of it is donated: not its caches either."""
    how = {"sampler": Temperature(0.7), "key": jax.random.key(0)}
    out = generate(lm.decoder, [[1, 2], [3], [4]], max_new_tokens=4, **how)
    ways = [generate(lm.decoder, resume=out, max_new_tokens=n, **how).tokens.tolist() for n in (3, 5, 3)]
    assert ways[0] == ways[2] == [row[:3] for row in ways[1]]
