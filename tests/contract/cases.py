"""Every model of the zoo, a row each: what `test_contract.py` has to know of it. Sizes are tiny and odd."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from zoo import TransformerLM

VOCAB = 11
SEQUENCE = 5


@dataclasses.dataclass(frozen=True)
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
        embedding: the module that maps tokens to vectors in a causal model, None in one that is not.
        no_gradient: arrays that can't matter. A bias of all keys adds the same to all scores of a query.
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
    embedding: Callable[[Any], Any] | None
    no_gradient: frozenset[str] = frozenset()
    fresh: tuple[dict[str, Any], ...] = ()
    rematerialise: bool = False


def tokens(rng: np.random.Generator, length: int = SEQUENCE) -> tuple[Any, ...]:
    """Different ones, so that none hides another."""
    return (jnp.asarray(rng.permutation(VOCAB)[:length], jnp.int32),)


def pad_tokens(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return (jnp.concatenate([arguments[0], tokens(rng, size)[0]]),)


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
        embedding=lambda model: model.embedding,
        no_gradient=no_gradient,
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
)
