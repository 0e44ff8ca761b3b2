from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import Sums, adamw, init_state, make_step, member, next_token_loss, train_step
from training.devices.sharding import Sharding
from training.state import copy_arrays, keep_best, with_best


def same(a, b, **tolerances):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerances)


def numbers(tree):
    """All arrays of a tree as numpy arrays."""
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in arrays]
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in zip(arrays, keys, strict=True)]


optimiser = adamw(1e-2, total_steps=10, weight_decay=0.1, clip_norm=1.0)


def test_step_is_that_of_optax_on_the_mean_loss(tiny, make_batches):
    model, (batch,) = tiny(key=jax.random.key(0)), make_batches(1)
    state = init_state(model, optimiser, key=jax.random.key(1))
    after, report = make_step(next_token_loss, optimiser)(batch, state)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        mlp = eqx.combine(params["mlp"], eqx.filter(model.mlp, eqx.is_inexact_array, inverse=True))
        logits = jax.vmap(jax.vmap(mlp))(params["table"][batch["inputs"]])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])

    params = {"table": model.table, "mlp": eqx.filter(model.mlp, eqx.is_inexact_array)}
    value, gradient = loss(params)
    updates, _ = jax.jit(optimiser.update)(gradient, optimiser.init(params), params)
    expected: Any = eqx.apply_updates(params, updates)
    norms = [np.linalg.norm(g) for g in numbers((gradient["table"], gradient["mlp"]))]
    assert float(report.sums.mean()) == pytest.approx(float(value), rel=1e-6)
    assert float(report.grad_norm) == pytest.approx(float(np.linalg.norm(norms)), rel=1e-5)
    np.testing.assert_allclose(report.leaf_norms, norms, rtol=1e-5)
    same((after.model.table, after.model.mlp), (expected["table"], expected["mlp"]), rtol=1e-5, atol=1e-6)
    assert int(after.step) == 1
    assert int(after.model.shift) == 3  # integers are not trained


def test_step_donates_its_state_and_nothing_else(tiny, make_batches):
    model, (batch,) = tiny(key=jax.random.key(0)), make_batches(1)
    batch = jax.tree.map(jnp.asarray, batch)
    state = init_state(model, optimiser, key=jax.random.key(1))
    before = copy_arrays(model)
    make_step(next_token_loss, optimiser)(batch, state)
    assert state.model.table.is_deleted()
    same(model, before)  # the user's arrays are alive, because the state has copies
    assert not any(x.is_deleted() for x in batch.values())


def test_step_is_traced_once_and_pure(make_batches):
    """Also when the model came with JAX's weak types, which the optimiser's update would make strong."""
    pure = train_step(linear_loss, optimiser)
    step = eqx.filter_jit(eqx.debug.assert_max_traces(pure, max_traces=1), donate="all-except-first")
    first = state = init_state({"w": jnp.asarray(2.0)}, optimiser, key=jax.random.key(1), carry=jnp.asarray(0))
    slow = copy_arrays(first)
    for batch in make_batches(3):
        state, report = step(batch, state)
        slow, slow_report = pure(batch, slow)
        assert float(report.grad_norm) == pytest.approx(float(slow_report.grad_norm), rel=1e-6)
    same(state, slow, rtol=1e-6)


def linear_loss(model, batch, carry, key):
    del key
    return Sums.of(jnp.sum(batch["weights"] * (model["w"] - batch["inputs"]) ** 2), jnp.sum(batch["weights"])), carry


def test_step_t_draws_from_the_key_folded_with_t(tiny, make_batches):
    (batch,) = make_batches(1)
    seen = []

    def loss(model, batch, carry, key):
        jax.debug.callback(lambda data: seen.append(data.tolist()), jax.random.key_data(key), ordered=True)
        return next_token_loss(model, batch, carry, key)

    key = jax.random.key(5)
    state = init_state(tiny(key=key), optimiser, key=key)
    step = make_step(loss, optimiser)
    for _ in range(3):
        state, _ = step(batch, state)
    jax.effects_barrier()
    assert seen == [jax.random.key_data(jax.random.fold_in(key, t)).tolist() for t in range(3)]


def test_only_what_is_trainable_changes(tiny, make_batches):
    model, (batch,) = tiny(key=jax.random.key(0)), make_batches(1)
    only_table = eqx.tree_at(lambda m: m.table, jax.tree.map(lambda _: False, model), True)
    state = init_state(model, optimiser, key=jax.random.key(1), trainable=only_table)
    assert len(jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "mu"))) == 1
    state, report = make_step(next_token_loss, optimiser)(batch, state)
    assert report.leaf_norms.shape == (1,)
    assert not np.array_equal(state.model.table, model.table)
    same(state.model.mlp, model.mlp, rtol=0)


def test_carry_goes_from_batch_to_batch_without_a_gradient():
    def loss(weight, batch, carry, key):
        hidden = weight * carry + batch["x"]
        return Sums.of(jnp.sum(hidden**2), 1.0), hidden

    sgd = optax.sgd(0.0)
    state = init_state(jnp.array(2.0), sgd, key=jax.random.key(0), carry=jnp.array(1.0))
    step = make_step(loss, sgd)
    carries, norms = [], []
    for x in (1.0, 10.0):
        state, report = step({"x": jnp.array(x)}, state)
        carries.append(float(state.carry))
        norms.append(float(report.grad_norm))
    assert carries == [3.0, 16.0]
    assert norms == [2 * 3.0 * 1.0, 2 * 16.0 * 3.0]  # d(hidden^2)/d weight, with the carry a constant


@pytest.mark.parametrize("rates", [None, np.array([1e-3, 1e-2, 1e-1], np.float32)])
def test_members_step_as_they_would_alone(tiny, make_batches, rates):
    batches, key = make_batches(4), jax.random.key(9)
    keys = jax.random.split(jax.random.key(0), 3)
    models = eqx.filter_vmap(lambda k: tiny(key=k, dropout_p=0.3))(keys)
    together = init_state(models, optimiser, key=key, ensemble_size=3, learning_rates=rates)
    step = make_step(next_token_loss, optimiser)
    reports = []
    for batch in batches:
        together, report = step(batch, together)
        assert report.grad_norm.shape == report.sums.loss.shape == (3,)
        reports.append(report)
    single = make_step(next_token_loss, optimiser)
    for i in range(3):
        alone = init_state(tiny(key=keys[i], dropout_p=0.3), optimiser, key=jax.random.fold_in(key, i))
        if rates is not None:
            rate = jnp.asarray(rates[i])
            tree = optax.tree_utils.tree_set(alone.opt_state, learning_rate=rate)
            alone = eqx.tree_at(lambda s: s.opt_state, alone, tree, is_leaf=lambda x: x is None)
        for batch, report in zip(batches, reports, strict=True):
            alone, alone_report = single(batch, alone)
            assert float(alone_report.sums.loss) == pytest.approx(float(report.sums.loss[i]), rel=1e-4)
        for x, y in zip(numbers(alone), numbers(together), strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-4, atol=1e-5)


def test_learning_rates_need_a_place_and_members():
    models, key, rates = {"w": jnp.zeros((2, 3))}, jax.random.key(0), np.array([1, 2], np.float32)
    with pytest.raises(ValueError, match="learning_rates are for an ensemble; pass ensemble_size too"):
        init_state(models, optimiser, key=key, learning_rates=rates)
    with pytest.raises(ValueError, match="learning_rates need an optimiser that keeps `learning_rate`"):
        init_state(models, optax.sgd(0.1), key=key, ensemble_size=2, learning_rates=rates)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    state = init_state(models, injected, key=key, ensemble_size=2, learning_rates=rates)
    assert state.opt_state.hyperparams["learning_rate"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"has a leading axis of 3, but w is of shape \(2, 3\)"):
        init_state(models, optimiser, key=key, ensemble_size=3)
    with pytest.raises(ValueError, match="ensemble_size must be at least 1; got 0"):
        init_state(models, optimiser, key=key, ensemble_size=0)


def test_the_best_is_kept_per_member_and_only_if_finite():
    models = {"w": jnp.zeros(4), "b": jnp.zeros((4, 2))}
    state = init_state(models, optax.sgd(0.1), key=jax.random.key(0), ensemble_size=4)
    state = with_best(state)

    def at(step, state, weights, values):
        model = {"w": jnp.array(weights), "b": jnp.ones((4, 2)).at[3].set(jnp.nan)}
        state = eqx.tree_at(lambda s: (s.model, s.step), state, (model, jnp.full(4, step, jnp.int32)))
        return keep_best(jnp.array(values), state, Sharding.single())

    state, better, finite = at(1, state, [1.0, 1.0, 1.0, 1.0], [5.0, 5.0, jnp.nan, 5.0])
    assert better.tolist() == [True, True, False, False]  # member 2 has no finite value, member 3 no finite weight
    assert finite.tolist() == [[True, True, True, False], [True] * 4]  # in the order b, w
    state, better, _ = at(2, state, [2.0, 2.0, 2.0, 2.0], [4.0, 5.0, -jnp.inf, 1.0])
    assert better.tolist() == [True, False, False, False]  # as good as before is not better
    assert state.best is not None
    assert state.best.model["w"].tolist() == [2.0, 1.0, 0.0, 0.0]
    assert state.best.step.tolist() == [2, 1, 0, 0]
    assert state.best.value.tolist() == [4.0, 5.0, float("inf"), float("inf")]
    assert bool(jnp.all(jnp.isfinite(state.best.model["b"])))


def _gradient_of_parts(dtype, rows, parts, x):
    """Of one weight in so many micro-batches whose gradients are each x times their rows."""

    def loss(model, batch, carry, key):
        weighted = jnp.sum((model["w"] * batch["x"].astype(dtype)).astype(jnp.float32))
        return Sums.of(weighted, batch["x"].size), carry

    keeps = optax.GradientTransformation(
        lambda params: params, lambda updates, state, params=None: (updates, updates)
    )
    state = init_state({"w": jnp.ones((), dtype)}, keeps, key=jax.random.key(0))
    state, report = make_step(loss, keeps, accumulate=parts)({"x": np.full(rows, x, np.float32)}, state)
    assert state.opt_state["w"].dtype == dtype
    return float(report.grad_norm)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(("rows", "parts", "x"), [(512, 512, 2.0), (16, 4, 30_000.0), (64, 2, 4096.0)])
def test_gradients_are_summed_in_float32_whatever_the_weights(dtype, rows, parts, x):
    """A sum of ones ends at 256 in bfloat16; float16 ends at 65,504, which one part's sum can pass, too."""
    assert _gradient_of_parts(dtype, rows, parts, x) == pytest.approx(x, rel=1e-2 if dtype == jnp.bfloat16 else 1e-3)


def squares(model, batch, carry, key):
    return Sums.of(jnp.sum((model["w"] * batch["x"]) ** 2), batch["x"].size), carry


@pytest.mark.parametrize(
    ("batch", "carry", "message"),
    [
        ({"classes": np.ones(2), "x": np.ones(4)}, None, r"by rows; batch.classes has 2 of them and batch.x has 4"),
        ({"x": np.ones(4)}, {"h": jnp.ones(2)}, r"by rows; batch.x has 4 of them and carry.h has 2"),
        ({"x": np.ones(4)}, jnp.zeros(()), "a carry must have rows as the batch has; in this one is a number"),
    ],
)
def test_accumulation_cuts_rows_and_nothing_else(batch, carry, message):
    sgd = optax.sgd(0.1)
    state = init_state({"w": jnp.ones(())}, sgd, key=jax.random.key(0), carry=carry)
    with pytest.raises(ValueError, match=message):
        make_step(squares, sgd, accumulate=2)(batch, state)


def test_weights_keep_their_type_and_an_optimiser_gets_the_loss():
    wide = optax.chain(optax.adam(0.1, mu_dtype=jnp.float32), optax.contrib.reduce_on_plateau())
    state = init_state({"w": jnp.ones((), jnp.bfloat16)}, wide, key=jax.random.key(0))
    state, report = make_step(squares, wide)({"x": np.full(2, 2.0, np.float32)}, state)
    assert state.model["w"].dtype == jnp.bfloat16
    assert float(state.model["w"]) < 1.0
    assert float(optax.tree_utils.tree_get(state.opt_state, "best_value")) == float(report.sums.mean()) == 4.0


def test_what_is_no_array_of_floats_is_never_trained():
    model = {"mlp": eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0)), "count": jnp.array(3)}
    whole, named = (init_state(model, optimiser, key=jax.random.key(0), trainable=t) for t in (True, eqx.is_array))
    assert whole.trainable == named.trainable == tuple(map(eqx.is_inexact_array, jax.tree.leaves(model)))


@pytest.mark.usefixtures("as_users")
def test_rates_in_a_list_and_members_out_of_range():
    injected, models = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5), {"w": jnp.arange(2.0)}
    state = init_state(models, injected, key=jax.random.key(0), ensemble_size=2, learning_rates=[1.0, 2.0])
    assert state.opt_state.hyperparams["learning_rate"].tolist() == [1.0, 2.0]
    assert member(models, -1, 2) == {"w": 1.0}
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"index must be less than 2, the size of the ensemble; got {index}"):
            member(models, index, 2)
