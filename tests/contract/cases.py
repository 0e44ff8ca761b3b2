"""Every model of the zoo, a row each: what `test_contract.py` has to know of it. Sizes are tiny and odd."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from zoo import (
    T5,
    AbstractDecoder,
    CharRNN,
    EncoderDecoder,
    Gemma,
    ModernBert,
    TextConvNet,
    TextEncoder,
    TransformerClassifier,
    TransformerLM,
    TransformerLMClassifier,
)
from zoo.rebuild import config_class

VOCAB = 11
SEQUENCE = 5


def tokens(rng: np.random.Generator, length: int = SEQUENCE) -> tuple[Any, ...]:
    """Different ones, so that none hides another."""
    return (jnp.asarray(rng.permutation(VOCAB)[:length].astype(np.int32), jnp.int32),)


def pad_tokens(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return (jnp.asarray(np.concatenate([arguments[0], tokens(rng, size)[0]]), jnp.int32),)


def embedded(model: Any, example: tuple[Any, ...]) -> tuple[Array, Callable[[Array], Any]]:
    """Of a model whose field `embedding` maps the last argument of a call, the tokens, to a vector each."""

    def put(vectors: Array) -> Any:
        return eqx.tree_at(lambda m: m.embedding, model, Given(vectors, model.embedding))

    return model.embedding(example[-1]), put


def own_decoder(model: Any, *given: Any) -> AbstractDecoder[Any]:
    return model.decoder(*given)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A decoder, and the same model without any state: a whole sequence to the logits after each token."""

    name: str
    decoder: AbstractDecoder[Any]
    forward: Callable[[Int[Array, " seq"]], Float[Array, "seq vocab"]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One way to build one model. The defaults are those of a causal language model of tokens.

    Attributes:
        name: what `-k` finds; begins with the name of the class.
        model: the class.
        arguments: fields of its config, with `vocab_size=VOCAB`.
        output: shape of what it gives for an example.
        wrong: values that the config refuses with a `ValueError` that names the field.
        example: random arguments of one call; tokens to generate are the last of them.
        pad: the same arguments with so much padding on the right, random too.
        per_token: whether row i of the output belongs to token i, so that padding adds rows.
        vectors: of a causal model, the vectors of an example's tokens and what puts others in their place; else None.
        call: its logits for an example.
        decoder: what generates, given all arguments of an example but the last; by default a method of that name.
        no_gradient: arrays that can't matter. A bias of all keys adds the same to all scores of a query.
        no_chance: arrays that start the same whatever the key, beside those of one value throughout.
        float32_inside: primitives that the model needs, and that never see a shorter type.
        fresh: other sizes at which a new model's loss is ln(classes).
        remat: whether to compare the gradients of rematerialised layers, which is slow.
    """

    name: str
    model: type[eqx.Module]
    arguments: dict[str, Any]
    output: tuple[int, ...] = (SEQUENCE, VOCAB)
    wrong: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    example: Callable[[np.random.Generator], tuple[Any, ...]] = tokens
    pad: Callable[[np.random.Generator, tuple[Any, ...], int], tuple[Any, ...]] = pad_tokens
    per_token: bool = True
    vectors: Callable[[Any, tuple[Any, ...]], tuple[Array, Callable[[Array], Any]]] | None = embedded
    call: Callable[..., Array] = lambda model, *example, key=None: model(*example, key=key)
    decoder: Callable[..., AbstractDecoder[Any]] = own_decoder
    no_gradient: frozenset[str] = frozenset()
    no_chance: frozenset[str] = frozenset()
    float32_inside: frozenset[str] = frozenset()
    fresh: tuple[dict[str, Any], ...] = ()
    remat: bool = False

    def config(self, **changes: Any) -> Any:
        """The model's config with some fields changed."""
        make: Any = config_class(self.model)
        assert make is not None, f"{self.model.__name__} needs a static field `config: {self.model.__name__}Config`"
        return make(**self.arguments | changes)

    def make(self, key: Any, **changes: Any) -> Any:
        """A fresh model."""
        return self.model(self.config(**changes), key=key)  # pyright: ignore[reportCallIssue]

    @property
    def has_dropout(self) -> bool:
        return hasattr(self.config(), "dropout_p")

    def make_training(self, key: Any, **changes: Any) -> Any:
        """As in training: with dropout, if the model has any."""
        return self.make(key, **({"dropout_p": 0.3} if self.has_dropout else {}) | changes)

    @property
    def generates(self) -> bool:
        return self.decoder is not own_decoder or hasattr(self.model, "decoder")

    def subject(self, model: Any) -> Subject:
        """The model's decoder beside the model; what it is given beside tokens, if anything, has padding."""
        rng = np.random.default_rng(0)
        *given, _ = self.pad(rng, self.example(rng), 2)
        decoder = eqx.filter_jit(self.decoder)(model, *given)
        return Subject(self.name, decoder, eqx.filter_jit(lambda tokens: self.call(model, *given, tokens)))


class Given(eqx.Module):
    """In place of an embedding: these vectors, for as many tokens; a source of another length is embedded."""

    vectors: Float[Array, "seq embed"]
    embedding: Any

    def __call__(self, tokens):
        return self.vectors if len(tokens) == len(self.vectors) else self.embedding(tokens)

    def __getattr__(self, name):
        return getattr(self.embedding, name)


def recurrent_inputs(model: Any, example: tuple[Any, ...]) -> tuple[Array, Callable[[Array], Any]]:
    """A recurrent network has a column of weights per token: no two tokens of an example are the same."""
    columns, where = model.cells[0].input.weight, example[-1]

    def put(vectors: Array) -> Any:
        return eqx.tree_at(lambda m: m.cells[0].input.weight, model, columns.at[:, where].set(vectors.T))

    return columns[:, where].T, put


def sentence_pair(rng: np.random.Generator) -> tuple[Any, ...]:
    """A source, how long it is, and the target's inputs."""
    source, target = tokens(rng, SEQUENCE + 1)[0], tokens(rng)[0]
    return source, jnp.asarray(SEQUENCE + 1, jnp.int32), target


def pad_sentence_pair(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    source, length, target = arguments
    return *pad_tokens(rng, (source,), size + 1), length, *pad_tokens(rng, (target,), size)


NOT_SIZES = (0, -1, 2.0, True, "3")
NOT_POSITIVE = (0.0, -1.0, float("nan"), float("inf"))
LM = {"vocab_size": VOCAB, "embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
LM_WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("vocab_size", "embed_size", "num_layers", "num_heads", "mlp_size", "max_length"), NOT_SIZES),
    "num_kv_heads": (*NOT_SIZES, 3, 8),
    "head_size": NOT_SIZES,
    "positions": ("absolute", None),
    "position_init": ("zeros",),
    "activation": ("swish",),
    "norm": ("batch",),
    "norm_epsilon": NOT_POSITIVE,
    "rotary_base": NOT_POSITIVE,
    "rotary_factor": NOT_POSITIVE,
    "rotary_bands": ((1.0, 4.0), (4.0, 1.0, 8), (1.0, 4.0, 0), ("1", 4.0, 8)),
    "window": NOT_SIZES,
    "attention_bias": ("keys", True),
    **dict.fromkeys(("start_ids", "stop_ids", "forbidden_ids"), ((VOCAB,), (-1,), (1.0,), (True,))),
    "weight_std": NOT_POSITIVE,
    "dropout_p": (1.0, -0.1, float("nan")),
}
SOFTMAX_AND_NORMS = frozenset({"exp", "rsqrt", "reduce_sum"})
KEY_BIAS = frozenset({".stack.blocks.attention.key.bias"})
LLAMA = {"positions": "rotary", "norm": "rms", "gated": True, "activation": "silu", "use_bias": False}
GPT2 = {
    "position_init": "normal",
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-5,
    "tie_embeddings": True,
    "weight_std": 0.02,
}


def lm(
    name: str,
    no_gradient: frozenset[str] = KEY_BIAS,
    fresh: tuple[dict[str, Any], ...] = (),
    remat: bool = False,
    **options,
) -> Case:
    return Case(
        name=f"TransformerLM-{name}",
        model=TransformerLM,
        arguments=LM | options,
        wrong=LM_WRONG | {"num_heads": (*NOT_SIZES, 5)} if "head_size" not in options else LM_WRONG,
        float32_inside=SOFTMAX_AND_NORMS,
        no_gradient=no_gradient,
        no_chance=frozenset({".position_embedding.weight"})
        if options.get("position_init") != "normal"
        else frozenset(),
        fresh=fresh,
        remat=remat,
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


GEMMA = {
    **LM,
    "num_kv_heads": 2,
    "head_size": 6,
    "norm_after": True,
    "qk_norm": True,
    "query_size": 9.0,
    "score_cap": 2.0,
    "logit_cap": 30.0,
    "window": 3,
    "global_every": 2,
    "rotary_base": 500.0,
    "rotary_factor": 2.0,
    "local_rotary_base": 50.0,
}

PAIR = {
    "vocab_size": VOCAB,
    "embed_size": 12,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_size": 20,
    "max_length": 12,
    "head_dropout_p": 0.0,
}
PAIR_WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "vocab_size",
            "embed_size",
            "num_layers",
            "mlp_size",
            "max_length",
            "num_decoder_layers",
            "source_vocab_size",
        ),
        NOT_SIZES,
    ),
    "num_heads": (*NOT_SIZES, 5),
    "start_ids": ((VOCAB,),),
    "positions": ("rotary", None),
    "position_layout": ("thirds", None),
    **dict.fromkeys(("shared_positions", "embedding_norm", "use_logit_bias"), (None, 1)),
    **dict.fromkeys(("norm_epsilon", "embed_scale", "logit_scale"), NOT_POSITIVE),
    "activation": ("swish",),
    "dropout_p": (1.0, -0.1, float("nan")),
    "head_dropout_p": (1.0, -0.1, float("nan")),
}


def encoder_decoder(name: str, fresh: tuple[dict[str, Any], ...] = (), remat: bool = False, **options) -> Case:
    return pair_case(
        f"EncoderDecoder-{name}",
        EncoderDecoder,
        arguments=PAIR | options,
        wrong=PAIR_WRONG,
        no_gradient=frozenset(
            f".{place}.key.bias"
            for place in (
                "encoder_stack.blocks.attention",
                "decoder_stack.blocks.attention",
                "decoder_stack.blocks.cross_attention",
            )
        ),
        no_chance=frozenset({".position_embedding.weight", ".source_position_embedding.weight"}),
        fresh=fresh,
        remat=remat,
    )


def pair_case(name: str, model: type[eqx.Module], **options: Any) -> Case:
    """Of a model that maps a source and the target so far to logits."""
    return Case(
        name=name,
        model=model,
        example=sentence_pair,
        pad=pad_sentence_pair,
        float32_inside=SOFTMAX_AND_NORMS,
        call=lambda model, source, length, target, key=None: model(source, target, source_length=length, key=key),
        **options,
    )


def t5(name: str, **options: Any) -> Case:
    sizes = {"vocab_size": VOCAB, "embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "head_size": 5}
    return pair_case(
        f"T5-{name}",
        T5,
        arguments={**sizes, "num_buckets": 8, "max_distance": 6, "dropout_p": 0.0, **options},
        wrong={
            **dict.fromkeys((*sizes, "num_decoder_layers"), NOT_SIZES),
            "num_buckets": (*NOT_SIZES, 6),
            "max_distance": (*NOT_SIZES, 4),
            "stop_ids": ((VOCAB,),),
            "activation": ("swish",),
            "gated": (None, 1),
            "scale_hidden": (None, 1),
            "norm_epsilon": NOT_POSITIVE,
            "dropout_p": (1.0, -0.1, float("nan")),
        },
        fresh=(
            {"vocab_size": 5000, "embed_size": 64, "num_layers": 6, "tie_embeddings": True, "scale_hidden": True},
        ),
    )


def pair_sizes(vocab_size: int, embed_size: int, num_layers: int, **options: Any) -> dict[str, Any]:
    lengths = {"mlp_size": 2 * embed_size, "max_length": 64}
    return {"vocab_size": vocab_size, "embed_size": embed_size, "num_layers": num_layers, **lengths, **options}


def text(rng: np.random.Generator) -> tuple[Any, ...]:
    """A text and its length."""
    return tokens(rng)[0], jnp.asarray(SEQUENCE, jnp.int32)


def pad_text(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return *pad_tokens(rng, arguments[:1], size), arguments[1]


CLASSES = 3
CLASSIFIER_WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("vocab_size", "num_classes", "embed_size", "hidden_size"), NOT_SIZES),
    "unknown_id": (-1, VOCAB),
    **dict.fromkeys(("dropout_p", "channel_dropout_p", "token_dropout_p"), (1.0, -0.1, float("nan"))),
}


def transformer_classifier(name: str, **options: Any) -> Case:
    sizes = {"embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
    return Case(
        name=f"TransformerClassifier-{name}",
        model=TransformerClassifier,
        arguments={
            "vocab_size": VOCAB,
            "num_classes": CLASSES,
            "dropout_p": 0.0,
            "head_dropout_p": 0.0,
            **sizes,
            **options,
        },
        output=(CLASSES,),
        wrong=CLASSIFIER_WRONG
        | dict.fromkeys(("num_layers", "mlp_size", "max_length", "ngram_buckets", "ngram_size"), NOT_SIZES)
        | {
            "num_heads": (*NOT_SIZES, 5),
            "positions": ("rotary", None),
            "pooling": ("first", None),
            "activation": ("swish",),
            "norm_epsilon": NOT_POSITIVE,
            "head_dropout_p": (1.0, -0.1, float("nan")),
        },
        example=text,
        pad=pad_text,
        per_token=False,
        vectors=None,
        float32_inside=SOFTMAX_AND_NORMS,
        no_gradient=KEY_BIAS,
        fresh=({"vocab_size": 5000, "embed_size": 64, "num_layers": 6},),
        remat=options.get("pre_norm", False),
    )


def text_and_types(rng: np.random.Generator) -> tuple[Any, ...]:
    """A text, its length and a type for each token."""
    return *text(rng), jnp.arange(SEQUENCE, dtype=jnp.int32) % 2


def pad_text_and_types(rng: np.random.Generator, arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    *of_text, types = arguments
    return *pad_text(rng, tuple(of_text), size), jnp.pad(types, (0, size), constant_values=1)


def text_encoder(name: str, model: type[eqx.Module], wrong: dict[str, tuple[Any, ...]], **options: Any) -> Case:
    sizes = {"vocab_size": VOCAB, "embed_size": 16, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
    classifies, typed = options["head"] == "classifier", "num_types" in options
    return Case(
        name=f"{model.__name__}-{name}",
        model=model,
        arguments={**sizes, "norm_epsilon": 1e-6, "dropout_p": 0.0, **options},
        output=(CLASSES,) if classifies else (SEQUENCE, VOCAB),
        wrong={
            **dict.fromkeys(sizes, NOT_SIZES),
            "num_heads": (*NOT_SIZES, 5),
            "head": ("tokens", None),
            "num_classes": (*NOT_SIZES, None if classifies else 3),
            "class_names": (("a", "b"), ("a", 2, "c")) if classifies else (("a", "b"),),
            "activation": ("swish",),
            "norm_epsilon": NOT_POSITIVE,
            "dropout_p": (1.0, -0.1, float("nan")),
            **wrong,
        },
        example=text_and_types if typed else text,
        pad=pad_text_and_types if typed else pad_text,
        per_token=not classifies,
        vectors=None,
        call=lambda model, tokens, length, types=None, key=None: model(tokens, length, types=types, key=key),
        float32_inside=SOFTMAX_AND_NORMS,
        no_gradient=KEY_BIAS if model is TextEncoder else frozenset(),
        fresh=() if classifies else ({"vocab_size": 5000, "embed_size": 64, "num_layers": 6},),
    )


def text_convnet(name: str, fresh: tuple[dict[str, Any], ...] = (), **options: Any) -> Case:
    sizes = {
        "embed_size": 12,
        "num_filters": 8,
        "ngram_buckets": 50,
        "ngram_size": 4,
        "embedding_dropout_p": 0.0,
        "dropout_p": 0.0,
    }
    return Case(
        name=f"TextConvNet-{name}",
        model=TextConvNet,
        arguments={"vocab_size": VOCAB, "num_classes": CLASSES, **sizes, **options},
        output=(CLASSES,),
        wrong=CLASSIFIER_WRONG
        | dict.fromkeys(("num_filters", "ngram_buckets", "ngram_size"), NOT_SIZES)
        | {
            "branches": ([[]], [[(3, 1, 1)]]),
            "padding": ("VALID", None),
            "norm_epsilon": NOT_POSITIVE,
            "embedding_dropout_p": (1.0, -0.1, float("nan")),
        },
        example=text,
        pad=pad_text,
        per_token=False,
        vectors=None,
        fresh=fresh,
    )


CASES = (
    transformer_classifier("seed"),
    transformer_classifier(
        "pre-norm",
        pre_norm=True,
        pooling="mean_max",
        positions="none",
        hidden_size=None,
        activation="gelu",
        ngram_orders=(2,),
        ngram_buckets=50,
        ngram_size=3,
    ),
    text_convnet("seed", fresh=({"vocab_size": 5000, "embed_size": 128, "num_filters": 128},), hidden_size=16),
    text_convnet(
        "kim",
        branches=(((2, 1),), ((3, 1),)),
        use_norm=False,
        pool_embedding=True,
        ngram_orders=(1, 2),
        hidden_size=None,
    ),
    lm("trax", remat=True, fresh=(sizes(5000, 12, 12),)),
    lm("gpt2", fresh=(sizes(11, 512, 2),), **GPT2),
    lm(
        "llama",
        no_gradient=frozenset(),
        remat=True,
        fresh=(sizes(5000, 512, 2),),
        **LLAMA,
        num_kv_heads=2,
        head_size=6,
        use_head_bias=False,
        qk_norm=True,
        attention_bias="qkv",
        rotary_factor=4.0,
        rotary_bands=(1.0, 4.0, 20),
    ),
    lm(
        "sinusoidal-tied",
        window=3,
        fresh=({**sizes(50, 512, 2), "positions": "none"},),
        positions="sinusoidal",
        tie_embeddings=True,
        activation="gelu",
        num_kv_heads=1,
        head_size=6,
    ),
    Case(
        name="TransformerLMClassifier",
        model=TransformerLMClassifier,
        arguments={**LM, "num_classes": CLASSES, "pooling": "last"},
        output=(CLASSES,),
        wrong={"num_classes": NOT_SIZES, "pooling": ("first", None), "head_dropout_p": (1.0, -0.1, float("nan"))},
        example=text,
        pad=pad_text,
        per_token=False,
        vectors=None,
        float32_inside=SOFTMAX_AND_NORMS,
        no_gradient=frozenset({".body" + name for name in KEY_BIAS}),
        no_chance=frozenset({".body.position_embedding.weight"}),
        fresh=(sizes(5000, 64, 6),),
    ),
    Case(
        name="Gemma-2-and-3",
        model=Gemma,
        arguments=GEMMA,
        wrong={
            **dict.fromkeys(
                (
                    *("vocab_size", "embed_size", "num_layers", "num_heads", "mlp_size", "max_length"),
                    *("num_kv_heads", "head_size", "window", "global_every"),
                ),
                NOT_SIZES,
            ),
            **dict.fromkeys(
                (
                    *("norm_epsilon", "query_size", "score_cap", "logit_cap"),
                    *("rotary_base", "rotary_factor", "local_rotary_base"),
                ),
                NOT_POSITIVE,
            ),
            "dropout_p": (1.0, -0.1, float("nan")),
            "stop_ids": ((VOCAB,),),
        },
        float32_inside=SOFTMAX_AND_NORMS,
        fresh=({"vocab_size": 5000, "embed_size": 512, "num_layers": 2, "mlp_size": 1024, "max_length": 64},),
    ),
    Case(
        name="CharRNN-lstm",
        model=CharRNN,
        arguments={"vocab_size": VOCAB, "hidden_size": 12, "num_layers": 2, "cell": "lstm"},
        wrong={
            **dict.fromkeys(("vocab_size", "hidden_size", "num_layers"), NOT_SIZES),
            "cell": ("transformer",),
            "dropout_p": (1.0, -0.1, float("nan")),
        },
        vectors=recurrent_inputs,
        no_chance=frozenset({".cells[0].input.bias", ".cells[1].input.bias"}),  # 1 for what an LSTM keeps
        call=lambda model, tokens, key=None: model(tokens, key=key)[0],
    ),
    encoder_decoder(
        "tied",
        num_layers=1,
        fresh=(pair_sizes(5000, 256, 1, tie_embeddings=False), pair_sizes(500, 128, 2)),
        shared_positions=False,
        embed_scale=1.0,
        embedding_norm=True,
        tie_embeddings=True,
        logit_scale=1.0,
        use_logit_bias=True,
    ),
    encoder_decoder(
        "pre-norm",
        fresh=(pair_sizes(5000, 64, 6),),
        remat=True,
        pre_norm=True,
        num_decoder_layers=1,
        source_vocab_size=13,
        positions="sinusoidal",
        activation="gelu",
    ),
    t5("flan", num_decoder_layers=1, gated=True, activation="gelu_tanh", tie_embeddings=False, scale_hidden=False),
    text_encoder(
        "masked-lm",
        TextEncoder,
        {"num_types": NOT_SIZES, "pooler": ("gelu", None)},
        head="masked_lm",
        num_types=2,
    ),
    text_encoder(
        "classifier",
        ModernBert,
        {
            **dict.fromkeys(("window", "global_every"), NOT_SIZES),
            **dict.fromkeys(("rotary_base", "local_rotary_base"), NOT_POSITIVE),
            "num_layers": (*NOT_SIZES, 1),
            "pooling": ("max", None),
        },
        num_layers=3,
        head="classifier",
        num_classes=CLASSES,
        pooling="mean",
        window=2,
        global_every=2,
    ),
)
