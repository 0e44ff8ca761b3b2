"""The commonest mistakes with models and batches: each has one error that says what to do."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import Evaluation, NonFiniteError, Sums, adamw, fit, init_state, next_token_loss
from training.reporting.recorder import find_wrong_id
from zoo import (
    CharRNN,
    CharRNNConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    TextConvNet,
    TextConvNetConfig,
    TransformerClassifier,
    TransformerClassifierConfig,
    TransformerLM,
    TransformerLMConfig,
)

KEY = jax.random.key(0)
SGD, W, ONES = optax.sgd(0.1), {"w": jnp.ones(())}, (jnp.ones(()),) * 3
SIZES: Any = {"embed_size": 8, "num_heads": 2, "mlp_size": 8}


@functools.cache
def made(make, config):
    return eqx.nn.inference_mode(eqx.filter_jit(make)(config, key=KEY))


def lm():
    return made(TransformerLM, TransformerLMConfig(vocab_size=7, num_layers=1, max_length=6, **SIZES))


def translator(source):
    return made(EncoderDecoder, EncoderDecoderConfig(vocab_size=7, **SIZES))(source, jnp.array([1]))


MODELS = {
    "lm": lm,
    "rnn": lambda: made(CharRNN, CharRNNConfig(vocab_size=7, hidden_size=4, num_layers=1)),
    "convnet": lambda: made(TextConvNet, TextConvNetConfig(vocab_size=7, num_classes=2)),
    "classifier": lambda: made(TransformerClassifier, TransformerClassifierConfig(vocab_size=7, num_classes=2)),
    "translator": lambda: translator,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("as_users")
def test_calls_of_a_model_that_say_what_to_do(name):
    model = MODELS[name]()
    for tokens, error, message in (
        (jnp.ones((2, 3), int), ValueError, r"must have one axis, got shape \(2, 3\): .*jax.vmap"),
        (jnp.asarray(3), ValueError, r"must have one axis, got shape \(\)"),
        ([1, 2, 3], TypeError, r"must be an array of integers, got a list: jnp.asarray"),
        (jnp.ones(3), TypeError, "must be integers, got float32"),
        (jnp.zeros(0, int), ValueError, "is empty: there must be at least one id"),
    ):
        with pytest.raises(error, match=message):
            model(tokens)
    with pytest.raises(ValueError, match=r"the batch is empty|at least one"):
        jax.vmap(model)(jnp.zeros((0, 3), int))


def batch_of(**changes):
    ids = np.ones((4, 6), np.int32)
    return {"inputs": ids, "targets": ids, "weights": np.ones((4, 6), np.float32), **changes}


class Tensor:
    """What a batch of PyTorch's has in it."""


Tensor.__module__ = "torch"


def ones_loss(model, batch, carry, key):
    return Sums.of(model["w"] * 1.0, 1.0), carry


def train(batches, loss=next_token_loss, **options):
    fit(lm(), batches, loss, optax.sgd(0.1), steps=1, key=KEY, **options)


@pytest.mark.usefixtures("as_users")
def test_losses_and_batches_that_are_none():
    mean = lambda model, batch, carry, key: jnp.mean(batch["weights"])  # noqa: E731
    pair = lambda model, batch, carry, key: (jnp.mean(batch["weights"]), carry)  # noqa: E731
    for loss in (mean, pair):
        with pytest.raises(TypeError, match=r"a loss must return \(sums, carry\), for instance Sums.of.* returned "):
            train([batch_of()], loss)
    short = batch_of()
    del short["weights"]
    with pytest.raises(ValueError, match="a batch needs weights; this one has inputs, targets; weights of 1 count"):
        train([short])
    with pytest.raises(TypeError, match="a batch must be a mapping with inputs, targets, weights; got a tuple"):
        train([(np.ones(3), np.ones(3))])
    with pytest.raises(TypeError, match=r"inputs in a batch is a torch.Tensor, not an array .*\.numpy\(\)"):
        train([batch_of(inputs=Tensor())])
    with pytest.raises(TypeError, match=r"inputs in a batch is a torch.Tensor"):
        train([batch_of()], evaluation=Evaluation([batch_of(inputs=Tensor())]))


def test_a_model_of_which_nothing_is_trained():
    for trainable in (lambda leaf: False, False):
        with pytest.raises(ValueError, match="there is nothing to train: trainable leaves out every array"):
            init_state({"w": jnp.ones(3)}, optax.sgd(0.1), key=KEY, trainable=trainable)
    with pytest.raises(ValueError, match="there is nothing to train: the model has no array of floating-point num"):
        init_state({"w": jnp.ones(3, int)}, optax.sgd(0.1), key=KEY)


@pytest.mark.usefixtures("as_users")
def test_a_model_of_numpys_arrays():
    with pytest.raises(TypeError, match=r"an embedding is an array of NumPy's: jax.tree.map\("):
        jax.tree.map(np.asarray, lm())(jnp.array([1, 2]))


def test_batches_that_end_before_the_steps_say_so(capsys):
    fit(W, [batch_of()] * 3, ones_loss, SGD, steps=10, key=KEY)
    assert "the batches ended after 3 of 10 steps\n" in capsys.readouterr().out
    fit(W, [batch_of()] * 3, ones_loss, SGD, steps=3, key=KEY)
    assert "ended" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "where", "wrong"), [("inputs", (2, 3), 7), ("targets", (0, 5), -1), ("inputs", (0, 0), 50_000)]
)
def test_an_id_out_of_range_is_named(column, where, wrong):
    """As a loss that is nan, or a validation loss."""
    batch = batch_of(**{column: np.ones((4, 6), np.int32)})
    batch[column][where] = wrong
    message = rf"{column}\[{where[0]}, {where[1]}\] is {wrong}, and the model knows 0 to 6"
    with pytest.raises(NonFiniteError, match=rf"^step 1: the loss is nan: {message}$"):
        train([batch])
    with pytest.raises(ValueError, match=rf"^step 1: the validation loss is nan: {message}$"):
        train([batch_of()], evaluation=Evaluation([batch_of(), batch], every=1))


def test_ids_that_do_no_harm_are_not_blamed():
    """Where the weight is 0, or after a row's length, anything may stand."""
    assert find_wrong_id(lm(), batch_of(targets=np.full((4, 6), -100), weights=np.zeros((4, 6)))) is None
    texts = {"tokens": np.full((2, 3), 9), "tokens_length": np.array([0, 2]), "labels": np.array([0, 1])}
    texts["weights"] = np.ones(2)
    convnet = MODELS["convnet"]()
    assert find_wrong_id(convnet, texts) == "tokens[1, 0] is 9, and the model knows 0 to 6"
    texts |= {"tokens": np.zeros((2, 3), int), "labels": np.array([1, 2])}
    assert find_wrong_id(convnet, texts) == "labels[1] is 2, and the model knows 0 to 1"
    assert find_wrong_id({"w": 1.0}, texts) is None


@pytest.mark.usefixtures("as_users")
def test_arguments_of_another_kind():
    ids, given, one = [[1] * 6] * 4, {"steps": 1, "key": KEY}, batch_of()
    options: Any = given | {"steps": 2.5}
    number, vector = (lambda *args: (Sums.of(1.0, 1.0), None)), (lambda *args: (Sums.of(jnp.ones(2), 1.0), None))

    class More(Sums):
        extra: Any = 0.0

    for error, message, call in (
        (
            TypeError,
            "weights.0 in a batch is a list, not an array",
            lambda: train([batch_of(weights=[[1.0] * 6] * 4)]),
        ),
        (TypeError, "inputs.0 in a batch is a list, not an array", lambda: train([batch_of(inputs=ids)])),
        (TypeError, "got one batch, a mapping", lambda: train(batch_of())),
        (TypeError, "got one batch, a mapping", lambda: Evaluation(one)),  # pyright: ignore[reportArgumentType]
        (TypeError, "every must be a whole number; got 2.5", lambda: Evaluation([batch_of()], every=2.5)),  # pyright: ignore[reportArgumentType]
        (
            TypeError,
            "steps must be a whole number; got 2.5",
            lambda: fit(lm(), [], number, SGD, **options),
        ),
        (ValueError, r"its loss is of shape|a number; got shape \(2,\): sum it", lambda: train([batch_of()], vector)),
        (ValueError, r"weight has shape \(2,\), and the loss \(\): sum it", lambda: Sums.of(1.0, jnp.ones(2))),
        (TypeError, "of a More all further fields", lambda: train([batch_of()], lambda *args: (More(*ONES), None))),
        (ValueError, "the evaluation has 0 batches", lambda: train([Tensor()], evaluation=Evaluation([]))),
        (ValueError, "learning_rate must be a number", lambda: adamw(lambda step: 1.0, total_steps=1)),  # pyright: ignore[reportArgumentType]
        (ValueError, "learning_rate must be finite and more", lambda: adamw(np.float32(-1), total_steps=1)),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(error, match=message):
            call()
    on_eval: Any = lambda *args: 0.5  # noqa: E731
    with pytest.raises(TypeError, match="on_eval must return a text or None; it returned a float"):
        fit(W, [batch_of()], ones_loss, SGD, **given, evaluation=Evaluation([batch_of()], on_eval=on_eval))
