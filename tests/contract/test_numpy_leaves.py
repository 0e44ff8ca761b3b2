"""Models whose arrays are NumPy's, as `jax.device_get` or a file of one's own gives them: one clear error."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

pytestmark = pytest.mark.usefixtures("as_users")
ERROR = r"^(an embedding|the weight of a cell's input|the table of n-grams) is an array of NumPy's: jax\.tree\.map\("


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def test_a_model_of_numpys_arrays_names_what_to_do(case, fill):
    """Called itself, by `vmap`, and in a `jit` that does not get it as an argument."""
    model = fill(case.make)
    example = case.example(np.random.default_rng(0))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), example)
    for given in (jax.device_get(model), jax.tree.map(np.asarray, model)):
        with pytest.raises(TypeError, match=ERROR):
            case.call(given, *example)
        with pytest.raises(TypeError, match=ERROR):
            jax.vmap(lambda *row: case.call(given, *row))(*batch)  # noqa: B023
        with pytest.raises(TypeError, match=ERROR):
            jax.eval_shape(lambda *row: case.call(given, *row), *example)  # noqa: B023


def test_what_the_error_says_makes_it_a_model_again(case, fill):
    """Also in training, where a dropout's flag must have stayed one."""
    model = fill(case.make_training)
    cured = jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else leaf, jax.device_get(model))
    assert jax.tree.structure(cured) == jax.tree.structure(model)
    example, key = case.example(np.random.default_rng(0)), jax.random.key(0)
    assert eqx.filter_eval_shape(case.call, cured, *example, key=key).shape == case.output


def test_every_other_array_may_be_numpys(case, fill):
    """Those that are not looked up in are computed with as they are: never an error of JAX's."""
    model = eqx.nn.inference_mode(fill(case.make))
    example = case.example(np.random.default_rng(0))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), example)
    looked_up = ("embedding.weight", "cells[0].input.weight")

    def other(path, leaf):
        kept = not eqx.is_array(leaf) or jax.tree_util.keystr(path).endswith(looked_up)
        return leaf if kept else np.asarray(leaf)

    mixed = jax.tree_util.tree_map_with_path(other, model)
    if getattr(model, "ngrams", None) is not None:
        with pytest.raises(TypeError, match=ERROR):
            jax.vmap(lambda *row: case.call(mixed, *row))(*batch)
        return
    # In a `jit` that does not get the model its arrays meet the rows just so, and one program is compiled, not fifty.
    got, expected = (jax.jit(jax.vmap(lambda *row, m=m: case.call(m, *row)))(*batch) for m in (mixed, model))
    np.testing.assert_allclose(got, expected, atol=1e-5)
