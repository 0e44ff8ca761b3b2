"""What every model of the zoo promises, written once; what generates promises more in `test_decoders.py`.

Each failure says which field of the model, its config or its case to look at.
"""

import dataclasses
import inspect
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, embedded

import zoo

FAST_KEY = jax.random.key(3, impl="unsafe_rbg")  # the kind that compiles fastest


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request, forget_compiled):
    yield request.param
    forget_compiled()


@pytest.fixture(scope="module")
def training(case, fill):
    """With dropout, as in training."""
    return fill(case.make_training)


@pytest.fixture(scope="module")
def model(training):
    return eqx.nn.inference_mode(training)


@pytest.fixture(scope="module")
def make(case):
    """The constructor, compiled once for all keys."""
    return eqx.filter_jit(case.make)


@pytest.fixture(scope="module")
def fresh(make):
    """As the constructor makes it."""
    return make(FAST_KEY)


@pytest.fixture(scope="module")
def example(case):
    return case.example(np.random.default_rng(0))


@pytest.fixture(scope="module")
def logits(case, model, example):
    return call(case, model, *example)


@pytest.fixture(scope="module")
def loss_and_gradient(case, model, example):
    return value_and_gradient(model, case, example)


@eqx.filter_jit
def call(case, model, *example, key=None):
    return case.call(model, *example, key=key)


def loss(model, case, example, key=None):
    """Cross-entropy of targets that differ from row to row."""
    log_probs = jax.nn.log_softmax(case.call(model, *example, key=key))
    classes = log_probs.shape[-1]
    targets = (3 + 2 * jnp.arange(log_probs.size // classes)) % classes
    return -jnp.take_along_axis(log_probs.reshape(-1, classes), targets[:, None], axis=-1).mean()


value_and_gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))


def by_name(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_shape_and_type(case, logits):
    assert logits.shape == case.output
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0.01, f"{case.name}: all logits are about the same"


def test_two_types_meet_only_where_the_model_says_so(case, training, example):
    """Nothing is promoted silently: neither 16 bits to 32 nor whole numbers to others. Traced, never compiled."""
    for dtype in (jnp.float32, jnp.bfloat16):
        params, static = eqx.partition(cast(training, dtype), eqx.is_inexact_array)
        gradient = jax.grad(lambda params, static=static: loss(eqx.combine(params, static), case, example, FAST_KEY))
        with jax.numpy_dtype_promotion("strict"):
            try:
                jax.eval_shape(gradient, params)
            except jax.dtypes.TypePromotionError as error:
                pytest.fail(
                    f"{case.name} with weights of {dtype.__name__} mixes types: convert one with `.astype` where "
                    f"they meet, and back to the type of the weights after a sum in float32. JAX says: {error}"
                )


def test_jit_equals_eager(case, model, example, logits):
    np.testing.assert_allclose(logits, case.call(model, *example), atol=1e-5)


def test_vmap_equals_a_loop(case, model, example):
    rows = [example, *(case.example(np.random.default_rng(seed)) for seed in (1, 2))]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    together = eqx.filter_jit(eqx.filter_vmap(case.call, in_axes=(None, *(0 for _ in batch))))
    for row, out in zip(rows, together(model, *batch), strict=True):
        np.testing.assert_allclose(out, call(case, model, *row), atol=1e-5)


def test_every_array_has_a_gradient(case, model, loss_and_gradient):
    gradients = by_name(loss_and_gradient[1])
    assert gradients.keys() == by_name(eqx.filter(model, eqx.is_inexact_array)).keys()
    assert case.no_gradient <= gradients.keys()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        if name in case.no_gradient:
            assert np.abs(gradient).max() < 1e-6, f"{case.name}: {name} matters: take it out of Case.no_gradient"
        else:
            assert np.abs(gradient).max() > 1e-4, (
                f"{case.name}: the gradient of {name} is zero: use the array, remove it, or list it in "
                "Case.no_gradient with the reason"
            )


def test_same_key_same_weights_and_another_key_others(case, make, fresh):
    other_key = jax.random.split(FAST_KEY)[0]
    models = (fresh, *(make(key) for key in (FAST_KEY, other_key)))
    one, again, other = (by_name(eqx.filter(model, eqx.is_array)) for model in models)
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, again[name])
        constant = (leaf == leaf.reshape(-1)[0]).all() or name in case.no_chance
        assert constant or not np.allclose(leaf, other[name]), (
            f"{case.name}: another key gives the same {name}: give each part a key of its own (`jax.random.split`), "
            "or list the array in Case.no_chance with the reason"
        )


def test_dropout_is_for_training_and_needs_a_key(case, training, example, logits):
    if not case.has_dropout:
        np.testing.assert_array_equal(
            call(case, training, *example, key=FAST_KEY),
            logits,
            err_msg=f"{case.name} draws random numbers in training: its config should have a field `dropout_p`",
        )
        return
    with pytest.raises(RuntimeError, match="key"):
        jax.eval_shape(lambda: case.call(training, *example))
    noisy = call(case, training, *example, key=FAST_KEY)
    assert not np.allclose(noisy, call(case, training, *example, key=jax.random.split(FAST_KEY)[0]), atol=0.01)
    np.testing.assert_array_equal(noisy, call(case, training, *example, key=FAST_KEY))
    assert not np.allclose(noisy, logits, atol=0.01)


def test_inference_is_without_key_chance_or_dropout(case, fill, model, example, logits):
    np.testing.assert_array_equal(call(case, model, *example), logits)
    without = fill(lambda key: case.make(key, **({"dropout_p": 0.0} if case.has_dropout else {})))
    np.testing.assert_allclose(case.call(without, *example), logits, atol=1e-5)  # eager, which compiles little new


@pytest.mark.usefixtures("as_users")
def test_wrong_arguments_are_named(case):
    for name, values in case.wrong.items():
        for value in values:
            refuses(case, name, value, "check it in `__post_init__` with a function of zoo/nn/checks.py")


def refuses(case, name, value, advice):
    """The config refuses a value with a `ValueError` that names the field."""
    try:
        case.config(**{name: value})
    except Exception as error:
        if not isinstance(error, ValueError) or name not in re.findall(r"\w+", str(error)):
            pytest.fail(f"{case.name}: {name}={value!r} gives {error!r}, no ValueError that names {name}: {advice}")
    else:
        pytest.fail(f"{case.name}: the config takes {name}={value!r}: {advice}")


def as_lists(nested):
    """JSON knows no tuples; a config that takes them takes lists as well."""
    return [as_lists(item) for item in nested] if isinstance(nested, tuple) else nested


@pytest.mark.usefixtures("as_users")
def test_the_config_is_kept_and_is_json(case, fresh):
    config = case.config()
    assert fresh.config == config
    assert hash(config) == hash(case.config())
    text = json.dumps(dataclasses.asdict(config))
    assert type(config)(**json.loads(text)) == config
    assert {name: as_lists(value) for name, value in dataclasses.asdict(config).items()} == json.loads(text)
    for field in dataclasses.fields(config):
        for wrong in (np.float32(1.0), np.int64(1), jnp.ones(()), {"a": 1}, float("inf")):
            refuses(case, field.name, wrong, "begin `__post_init__` with `check_plain(self)` of zoo/nn/checks.py")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dropout_p = 0.5
    assert next(iter(inspect.signature(case.model).parameters)) == "config"
    assert inspect.signature(case.model).parameters["key"].kind is inspect.Parameter.KEYWORD_ONLY


def test_padding_changes_nothing_before_it(case, model, example, logits):
    long = call(case, model, *case.pad(np.random.default_rng(4), example, 3))
    rows = long[: logits.shape[0]] if case.per_token else long
    np.testing.assert_allclose(rows, logits, atol=1e-5)


def test_the_future_has_exactly_no_influence(case, model, example):
    if case.vectors is None:
        pytest.skip("not a causal model")
    assert case.vectors is not embedded or hasattr(model, "embedding"), (
        f"{case.name} has no field `embedding`: let Case.vectors say where the vectors of tokens come in, or be None "
        "if the model is not causal"
    )
    vectors, put = case.vectors(model, example)

    def scores(vectors):
        logits = case.call(put(vectors), *example)
        return logits @ jnp.sin(jnp.arange(logits.shape[-1], dtype=jnp.float32))

    jacobian = np.asarray(jax.jit(jax.jacrev(scores))(vectors))
    influence = np.abs(jacobian).max(-1)
    past = np.tri(*influence.shape, dtype=bool)
    assert (influence[~past] == 0.0).all(), (
        f"{case.name}: logits depend on later tokens; if they may, set Case.vectors=None"
    )
    assert (influence[past] > 1e-6).all(), f"{case.name}: logits do not depend on every token so far"


def cast(tree, dtype):
    """NumPy's, which compiles nothing."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype), dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )


SENSITIVE = {"exp", "exp2", "log", "log1p", "rsqrt", "sqrt", "reduce_sum", "cumsum"}
PRODUCTS = {"dot_general", "rows_times_matrix"}


def equations(jaxpr):
    """All equations, those of inner functions, loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_float32_inside_under_bfloat16(case, model, example):
    low = cast(model, jnp.bfloat16)
    out, exact = call(case, low, *example), call(case, cast(low, jnp.float32), *example)
    assert out.dtype == jnp.float32, (
        f"{case.name}: with bfloat16 weights the logits are {out.dtype}: make them with `head.accumulate(hidden)` of "
        "zoo.nn.Linear (or `embedding.project`), which gives the sum in float32 before it is rounded"
    )
    assert np.abs(out - exact).max() < 0.1 * np.std(exact)
    seen = set()
    for equation in equations(jax.make_jaxpr(lambda: case.call(low, *example))().jaxpr):
        name = equation.primitive.name
        types = {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}
        if name in SENSITIVE:
            assert "bfloat16" not in types, (
                f"{case.name}: with bfloat16 weights, {name} works in bfloat16: convert what goes in with "
                f"`.astype(jnp.float32)` and what comes out back. In JAX's words: {equation}"
            )
        if name in PRODUCTS:  # the sum runs in float32 even where the factors are short
            assert equation.outvars[0].aval.dtype == jnp.float32, (
                f"{case.name}: with bfloat16 weights a product is summed in bfloat16: take zoo.nn.Linear, or "
                f"`preferred_element_type=jnp.float32`. In JAX's words: {equation}"
            )
        seen.add(name)
    missing = sorted(case.float32_inside - (seen & SENSITIVE))
    assert not missing, f"{case.name} never uses {missing}: take it out of Case.float32_inside"
    assert seen & PRODUCTS, f"{case.name} has no product among {sorted(PRODUCTS)}: this test sees nothing of it"


def test_rematerialising_changes_neither_value_nor_gradient(case, fill, example, loss_and_gradient):
    if not case.remat:
        pytest.skip("compared for other cases")
    again = eqx.nn.inference_mode(fill(lambda key: case.make_training(key, remat=True)))
    (value, gradient), (value_again, gradient_again) = loss_and_gradient, value_and_gradient(again, case, example)
    np.testing.assert_allclose(value_again, value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient_again), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_save_and_load_give_the_same_model(tmp_path, training):
    path, extra = tmp_path / "model.safetensors", {"words": ["a", "ß"], "n": 3}
    for saved in (training, cast(training, jnp.bfloat16)):
        zoo.save(path, saved, extra=extra)
        for loaded in (zoo.load(path), zoo.load(path, type(training))):
            assert type(loaded) is type(training)
            assert jax.tree.structure(loaded) == jax.tree.structure(saved)
            for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
                assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()) if eqx.is_array(b) else a == b
    assert zoo.read_extra(path) == extra


def test_a_fresh_model_guesses(case, fresh, example):
    """Its loss is ln(classes); see `test_fresh_loss.py` for other sizes."""
    logits = call(case, fresh, *example)
    above = float(-jax.nn.log_softmax(logits).mean() - np.log(logits.shape[-1]))
    assert abs(above) < 0.1, (
        f"{case.name}: logits of a fresh model are too large, its loss is {above:.2f} above ln({logits.shape[-1]}): "
        "start the head smaller, `self.head = Linear(..., scale=0.2, key=head_key)`"
    )
