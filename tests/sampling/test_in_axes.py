"""Rows with a source of their own in one call: each as alone, and the weights are shared, never copied."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import Agreement, naive
from decoders import Elman, Subject, elman

from zoo import Temperature, beam_search, decode, generate, score

pytestmark = pytest.mark.usefixtures("strict_promotion")
ROWS = 3


@pytest.fixture(scope="module")
def plain(fill):
    return elman(fill).decoder


def with_source(decoder, source):
    return eqx.tree_at(lambda d: d.source, decoder, source)


def source_axis(decoder):
    """0 at the source, None elsewhere: as `in_axes` of `vmap`."""
    nothing = jax.tree.map(lambda _: None, decoder)
    return eqx.tree_at(lambda d: d.source, nothing, 0, is_leaf=lambda x: x is None)


@pytest.fixture(scope="module")
def sources():
    return jnp.asarray(np.random.default_rng(5).normal(size=(ROWS, 8)), jnp.float32)


def test_rows_with_their_own_source_are_as_alone(plain, sources):
    prompts, key, agreement = [[1, 2, 3], [4], [1, 2, 3]], jax.random.key(7), Agreement()
    rows, axes = with_source(plain, sources), source_axis(plain)
    how = {"sampler": Temperature(1.0), "stop_ids": [9], "key": key, "in_axes": axes}
    out = generate(rows, prompts, max_new_tokens=12, **how)
    cut = generate(rows, prompts, max_new_tokens=5, **how)
    more = generate(rows, resume=cut, max_new_tokens=7, **how)
    for i, prompt in enumerate(prompts):
        decoder = with_source(plain, sources[i])
        row = naive(
            Subject("row", decoder, eqx.filter_jit(decoder.forward)), prompt, 12, 1.0, jax.random.fold_in(key, i), [9]
        )
        agreement.check(row, out.tokens[i], out.log_probs[i], out.length[i])
        if not cut.stopped[i]:
            agreement.check(row, [*cut.tokens[i], *more.tokens[i]])
    assert agreement.ties == 0
    assert out.tokens[0].tolist() != out.tokens[2].tolist()


def test_scores_and_beams_of_rows_with_their_own_source(plain, sources):
    rows, axes = with_source(plain, sources), source_axis(plain)
    prompts = [[1, 2, 3], [4, 4], [1, 2, 3]]
    scores = score(rows, prompts, in_axes=axes)
    beams = beam_search(rows, prompts, num_beams=2, max_new_tokens=4, in_axes=axes)
    for i, prompt in enumerate(prompts):
        alone = with_source(plain, sources[i])
        np.testing.assert_allclose(scores.total[i], score(alone, prompt).total, rtol=1e-5)
        best = beam_search(alone, prompt, num_beams=2, max_new_tokens=4)
        np.testing.assert_array_equal(beams.tokens[i], best.tokens)


def test_the_weights_are_shared_between_rows(fill):
    """Rows of weights of their own would need 64 copies of 4 MiB beside the one that is given."""
    rows, size = 64, 1024
    decoder = fill(lambda key: Elman(hidden_size=size, key=key))
    axes = source_axis(decoder)
    decoder = with_source(decoder, jnp.zeros((rows, size)))
    arrays, static = eqx.partition(decoder, eqx.is_array)

    def run(arrays, prompts):
        how = {"capacity": 16, "max_new_tokens": 8, "in_axes": axes}
        return decode(eqx.combine(arrays, static), prompts, **how).tokens

    memory = jax.jit(run).lower(arrays, np.ones((rows, 4), np.int32)).compile().memory_analysis()
    weights = decoder.recurrent.nbytes
    assert memory is not None
    assert memory.argument_size_in_bytes > weights
    assert memory.temp_size_in_bytes < 2 * weights


def test_the_number_of_rows_must_fit(plain, sources):
    rows, axes = with_source(plain, sources), source_axis(plain)
    with pytest.raises(ValueError, match="size"):
        generate(rows, [[1], [2]], max_new_tokens=2, in_axes=axes)
    with pytest.raises(ValueError, match="in_axes"):
        generate(rows, [1], max_new_tokens=2, in_axes=axes)
