"""Every model of the zoo, a row each: what `test_contract.py` has to know of it. Sizes are tiny and odd."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from zoo import CharRNN, TransformerLM

VOCAB = 11
SEQUENCE = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One way to build one model.

    Attributes:
        model: the class.
        arguments: of its constructor, all but the key.
        output: shape of what it gives for an example.
        wrong: values that the constructor refuses with a `ValueError` that names the argument.
        example: random arguments of one call.
        pad: the same arguments with so much padding on the right, random too.
        per_token: whether row i of the output belongs to token i, so that padding adds rows.
        call: its logits for an example.
        vectors: of a causal model, the vectors of an example's tokens and what puts others in their place; else None.
        no_gradient: arrays that can't matter. A bias of all keys adds the same to all scores of a query.
        no_chance: arrays that start the same whatever the key, beside those of one value throughout.
        float32_inside: primitives that the model needs, and that never see a shorter type.
        fresh: other sizes at which a new model's loss is ln(classes).
        rematerialise: whether to compare the gradients of rematerialised layers, which is slow.
    """

    name: str
    model: Callable[..., eqx.Module]
    arguments: dict[str, Any]
    output: tuple[int, ...]
    wrong: dict[str, tuple[Any, ...]]
    example: Callable[[np.random.Generator], tuple[Any, ...]]
    pad: Callable[[np.random.Generator, tuple[Any, ...], int], tuple[Any, ...]]
    per_token: bool
    vectors: Callable[[Any, tuple[Any, ...]], tuple[Array, Callable[[Array], Any]]] | None
    no_gradient: frozenset[str] = frozenset()
    no_chance: frozenset[str] = frozenset()
    float32_inside: frozenset[str] = frozenset({"exp", "rsqrt", "reduce_sum"})  # of softmax and norms
    fresh: tuple[dict[str, Any], ...] = ()
    rematerialise: bool = False
    call: Callable[..., Array] = lambda model, *example, key=None: model(*example, key=key)


def tokens(rng: np.random.Generator, length: int = SEQUENCE) -> tuple[Any, ...]:
    """Different ones, so that none hides another."""
    return (jnp.asarray(rng.permutation(VOCAB)[:length], jnp.int32),)


def pad_tokens(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return (jnp.concatenate([arguments[0], tokens(rng, size)[0]]),)


class Given(eqx.Module):
    """In place of an embedding: these vectors."""

    vectors: Float[Array, "seq embed"]
    embedding: eqx.Module

    def __call__(self, tokens):
        return self.vectors

    def __getattr__(self, name):
        return getattr(self.embedding, name)


def embedded(model: Any, example: tuple[Any, ...]) -> tuple[Array, Callable[[Array], Any]]:
    def put(vectors: Array) -> Any:
        return eqx.tree_at(lambda m: m.embedding, model, Given(vectors, model.embedding))

    return model.embedding(example[-1]), put


def recurrent_inputs(model: Any, example: tuple[Any, ...]) -> tuple[Array, Callable[[Array], Any]]:
    """A recurrent network has a column of weights per token: no two tokens of an example are the same."""
    columns, where = model.cells[0].input.weight, example[-1]

    def put(vectors: Array) -> Any:
        return eqx.tree_at(lambda m: m.cells[0].input.weight, model, columns.at[:, where].set(vectors.T))

    return columns[:, where].T, put


NOT_SIZES = (0, -1, 2.0, True, "3")
NOT_POSITIVE = (0.0, -1.0, float("nan"), float("inf"))
LM = {"vocab_size": VOCAB, "embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
LM_WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("vocab_size", "embed_size", "num_layers", "num_heads", "mlp_size", "max_length"), NOT_SIZES),
    "num_kv_heads": (*NOT_SIZES, 3, 8),
    "head_size": NOT_SIZES,
    "positions": ("absolute", None),
    "position_start": ("zeros",),
    "activation": ("swish",),
    "norm": ("batch",),
    "norm_epsilon": NOT_POSITIVE,
    "rotary_base": NOT_POSITIVE,
    "weight_std": NOT_POSITIVE,
    "dropout_p": (1.0, -0.1, float("nan")),
}
KEY_BIAS = frozenset({".stack.blocks.attention.key.bias"})
LLAMA = {"positions": "rotary", "norm": "rms", "gated": True, "activation": "silu", "use_bias": False}
GPT2 = {
    "position_start": "normal",
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-5,
    "tie_embeddings": True,
    "weight_std": 0.02,
}


def lm(
    name: str,
    no_gradient: frozenset[str] = KEY_BIAS,
    fresh: tuple[dict[str, Any], ...] = (),
    rematerialise: bool = False,
    **options,
) -> Case:
    return Case(
        name=f"TransformerLM-{name}",
        model=TransformerLM,
        arguments=LM | options,
        output=(SEQUENCE, VOCAB),
        wrong=LM_WRONG | {"num_heads": (*NOT_SIZES, 5)} if "head_size" not in options else LM_WRONG,
        example=tokens,
        pad=pad_tokens,
        per_token=True,
        vectors=embedded,
        no_gradient=no_gradient,
        no_chance=frozenset({".position_embedding.weight"})
        if options.get("position_start") != "normal"
        else frozenset(),
        fresh=fresh,
        rematerialise=rematerialise,
    )


def sizes(vocab_size: int, embed_size: int, num_layers: int) -> dict[str, Any]:
    """Heads by default, so that these models share the shapes that each take time to compile."""
    return {
        "vocab_size": vocab_size,
        "embed_size": embed_size,
        "num_layers": num_layers,
        "mlp_size": 2 * embed_size,
        "max_length": 64,
        "num_kv_heads": None,
        "head_size": None,
    }


CASES = (
    lm("trax", rematerialise=True, fresh=(sizes(5000, 12, 12),)),
    lm("gpt2", fresh=(sizes(11, 512, 2),), **GPT2),
    lm(
        "llama",
        no_gradient=frozenset(),
        rematerialise=True,
        fresh=(sizes(5000, 512, 2),),
        **LLAMA,
        num_kv_heads=2,
        head_size=6,
        use_head_bias=False,
    ),
    lm(
        "sinusoidal-tied",
        fresh=({**sizes(50, 512, 2), "positions": "none"},),
        positions="sinusoidal",
        tie_embeddings=True,
        activation="gelu",
        num_kv_heads=1,
        head_size=6,
    ),
    Case(
        name="CharRNN-lstm",
        model=CharRNN,
        arguments={"vocab_size": VOCAB, "hidden_size": 12, "num_layers": 2, "cell": "lstm"},
        output=(SEQUENCE, VOCAB),
        wrong={
            **dict.fromkeys(("vocab_size", "hidden_size", "num_layers"), NOT_SIZES),
            "cell": ("transformer",),
            "dropout_p": (1.0, -0.1, float("nan")),
        },
        example=tokens,
        pad=pad_tokens,
        per_token=True,
        vectors=recurrent_inputs,
        no_chance=frozenset({".cells[0].input.bias", ".cells[1].input.bias"}),  # 1 for what an LSTM keeps
        float32_inside=frozenset(),
        call=lambda model, tokens, key=None: model(tokens, key=key)[0],
    ),
)
