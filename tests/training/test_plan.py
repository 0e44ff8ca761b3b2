"""The plan, made from shapes, against what XLA says of the very step that `fit` compiles."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import Sums, adamw, next_token_loss, stream_carry, stream_loss
from training.plan import plan, xla_cost_analysis
from zoo import CharRNN, CharRNNConfig, TransformerLM, TransformerLMConfig

OPTIMISER = adamw(1e-3, total_steps=10, clip_norm=1.0)


def rows(number, length):
    ids = np.zeros((number, length), np.int32)
    return {"inputs": ids, "targets": ids, "weights": np.ones((number, length), np.float32)}


@pytest.fixture
def compiled(fill):
    return lambda make_model, batch: xla_cost_analysis(fill(make_model), next_token_loss, OPTIMISER, batch)


# vocabulary, width, layers, heads, context, rows. XLA counts the operations of a loop once, however often it runs,
# and leaves out of a short stack, which has no loop, what was to be computed again.
SIZES = [(65, 128, 2, 4, 64, 12), (256, 256, 4, 4, 128, 8), (1000, 256, 2, 4, 128, 16), (512, 512, 3, 8, 128, 4)]
LOOPS = [(65, 128, 6, 4, 64, 12), (256, 256, 8, 4, 128, 8)]


def maker(vocab, width, layers, heads, context, **options):
    config = TransformerLMConfig(
        vocab_size=vocab, embed_size=width, num_layers=layers, num_heads=heads, mlp_size=4 * width,
        max_length=context, **options,
    )  # fmt: skip
    return lambda key: TransformerLM(config, key=key)


@functools.cache
def planned(*sizes, number, **options):
    """A plan, made once for all tests."""
    return plan(maker(*sizes), next_token_loss, OPTIMISER, rows(number, sizes[-1]), **options)


@pytest.mark.parametrize("size", [SIZES[0], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])])
def test_bytes_and_operations_are_those_of_xla(size, compiled):
    *sizes, number = size
    batch = rows(number, sizes[-1])
    found = planned(*sizes, number=number)
    held, flops = compiled(maker(*sizes), batch)
    assert found.on().total == pytest.approx(held, rel=0.001)
    assert found.flops == pytest.approx(flops, rel=0.05)


@pytest.mark.parametrize("size", LOOPS)
@pytest.mark.slow  # of a short stack it is above; that what is computed again is not held, below
def test_bytes_are_those_of_xla_whether_activations_are_kept_or_computed_again(size, compiled):
    *sizes, number = size
    batch, make_again = rows(number, sizes[-1]), maker(*sizes, remat=True)
    kept, again = planned(*sizes, number=number), plan(make_again, next_token_loss, OPTIMISER, batch)
    for found, make_model in ((kept, maker(*sizes)), (again, make_again)):
        assert found.on().total == pytest.approx(compiled(make_model, batch)[0], rel=0.001)
    assert again.on().total < 0.7 * kept.on().total


def test_weights_and_optimiser_are_counted_exactly_and_shared():
    whole = planned(64, 64, 1, 4, 16, number=2)
    model = eqx.filter_eval_shape(maker(64, 64, 1, 4, 16), jax.random.key(0))
    held = sum(4 * leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape"))
    one, eight = whole.on(), whole.on(8, fsdp=True)
    assert whole.parameters == held / 4
    assert (one.weights, one.gradients, one.optimiser) == (held, held, 2 * held + 12)
    assert whole.on(8) == one
    assert held / 8 < eight.weights < held / 7
    assert whole.activations <= eight.activations < one.activations  # the update is shared, the rows are not


def test_operations_grow_with_layers_also_in_a_loop():
    vocab, width, _, heads, context, number = LOOPS[0]
    flops = [planned(vocab, width, n, heads, context, number=number).flops for n in (6, 12)]
    per_layer = (flops[1] - flops[0]) / 6
    # Forward, and backward for weights and inputs, of 12 matrices and all tokens.
    products = 6 * width * (12 * width) * context * number
    assert products < per_layer < 1.3 * products


def test_activations_that_are_computed_again_are_not_held():
    vocab, width, _, heads, context, number = LOOPS[0]
    kept = planned(vocab, width, 6, heads, context, number=number)
    again = plan(
        maker(vocab, width, 6, heads, context, remat=True), next_token_loss, OPTIMISER, rows(number, context)
    )
    assert again.on().total < 0.7 * kept.on().total


def test_any_model_and_a_carry():
    rnn = eqx.filter_jit(CharRNN)(CharRNNConfig(vocab_size=16, hidden_size=8, num_layers=2), key=jax.random.key(0))
    carry = stream_carry(rnn, 4)
    batch = {**rows(4, 8), "reset": np.array(True)}
    planned = plan(rnn, stream_loss, optax.sgd(0.1), batch, carry=carry)
    assert planned.on().optimiser == 0
    assert planned.flops > 6 * 4 * 8 * (3 * 8 * 8 + 8 * 16)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_counts_with_all_its_rounds(reverse):
    w, x = jnp.ones((8, 8)), jnp.ones(8)

    def loss(model, batch, carry, key):
        x, _ = jax.lax.scan(lambda x, _: (model @ x, None), batch["x"], None, length=carry, reverse=reverse)
        return Sums.of(jnp.sum(x), 1.0), carry

    few, many = (plan(w, loss, optax.sgd(0.1), {"x": x}, carry=n).flops for n in (3, 1003))
    # Forward, and backward for the matrix and the vector; and what is added to the sum of the gradients.
    assert many - few == pytest.approx(1000 * 3 * 2 * 8 * 8, rel=0.2)


def test_the_model_itself_or_a_pytree_is_planned_like_what_makes_it(fill):
    """And the shapes of a batch will do."""
    made = planned(16, 8, 1, 2, 8, number=2)
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in rows(2, 8).items()}
    itself = plan(fill(maker(16, 8, 1, 2, 8)), next_token_loss, OPTIMISER, shapes)
    assert (made.on(), made.flops, made.parameters) == (itself.on(), itself.flops, itself.parameters)


def test_bfloat16_planned_on_a_cpu_is_an_upper_estimate():
    both = planned(16, 8, 1, 2, 8, number=2), planned(16, 8, 1, 2, 8, number=2, precision="bfloat16")
    assert [one.backend for one in both] == [jax.default_backend()] * 2
    assert [one.is_upper_estimate for one in both] == [False, jax.default_backend() == "cpu"]


def test_accumulating_needs_less():
    whole, parts = planned(64, 64, 1, 4, 64, number=8), planned(64, 64, 1, 4, 64, number=8, accumulate=4)
    assert parts.activations < whole.activations / 2
    assert parts.flops == pytest.approx(whole.flops, rel=0.05)


def test_nonsense_is_refused(as_users):
    make, batch = maker(16, 8, 1, 2, 8), rows(3, 8)
    with pytest.raises(ValueError, match="devices must be at least 1; got 0"):
        planned(16, 8, 1, 2, 8, number=2).on(0)
    with pytest.raises(ValueError, match="2 parts of 3 rows"):
        plan(make, next_token_loss, OPTIMISER, batch, accumulate=2)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16; got 'float8'"):
        plan(make, next_token_loss, OPTIMISER, batch, precision="float8")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow  # the example in the docstring of `plan` is another one too large to be made
def test_nothing_is_made():
    """A thousand times what this machine has."""
    planned = plan(maker(50257, 16384, 120, 128, 2048), next_token_loss, OPTIMISER, rows(1, 2048))
    assert planned.parameters == pytest.approx(12 * 16384**2 * 120 + 2 * 50257 * 16384, rel=0.01)
    assert planned.on(4096, fsdp=True).optimiser < planned.on().optimiser / 4000
