"""A decoder-only Transformer language model.

tokens -> embedding + positions -> num_layers x (causal attention, feed-forward) -> norm -> head -> logits
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray

from zoo.models.transformer_lm_decoder import TransformerLMDecoder
from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_choice, check_positive, check_probability, check_sizes
from zoo.nn.embedding import LearnedPositions, RotaryPositions, Rotation, SinusoidalPositions, TokenEmbedding
from zoo.nn.feed_forward import FeedForward
from zoo.nn.linear import Linear
from zoo.nn.masks import causal_mask
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock, make_norm


class TransformerLM(eqx.Module):
    """Maps a sequence of tokens to logits: row i scores every token as the one that follows token i.

    The defaults are Trax's TransformerLM: pre-norm blocks with relu, a trained table of positions that starts as
    sines and cosines, a head of its own. `positions="rotary", norm="rms", gated=True, activation="silu",
    use_bias=False, use_head_bias=False` is Llama; `position_init="normal", activation="gelu_tanh",
    norm_epsilon=1e-5, tie_embeddings=True` is GPT-2. Padding on the right changes nothing before it.

    References: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; Trax,
    `trax/models/transformer.py`.
    Differs from Trax: no shift inside the model (the data makes inputs and targets) and no log-softmax at its end.

    Example:
        >>> from zoo import TransformerLM, generate
        >>> lm = TransformerLM(32, 16, 2, 4, 64, 10, key=jax.random.key(0))
        >>> lm(jnp.array([0, 4, 6, 8, 10, 0])).shape
        (6, 32)
        >>> generate(lm.decoder(), [0, 4, 6, 8, 10, 0], max_new_tokens=4).tokens.shape
        (4,)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions | None
    rotary: RotaryPositions | None
    dropout: eqx.nn.Dropout
    stack: Stack[TransformerBlock]
    norm_out: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    head: Linear | None

    vocab_size: int = eqx.field(static=True)
    embed_size: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    mlp_size: int = eqx.field(static=True)
    max_length: int = eqx.field(static=True)
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = eqx.field(static=True)
    position_init: Literal["sinusoidal", "normal"] = eqx.field(static=True)
    rotary_base: float = eqx.field(static=True)
    num_kv_heads: int | None = eqx.field(static=True)
    head_size: int | None = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    gated: bool = eqx.field(static=True)
    norm: Literal["layer", "rms"] = eqx.field(static=True)
    norm_epsilon: float = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)
    use_head_bias: bool = eqx.field(static=True)
    tie_embeddings: bool = eqx.field(static=True)
    weight_std: float | None = eqx.field(static=True)
    dropout_p: float = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        num_layers: int,
        num_heads: int,
        mlp_size: int,
        max_length: int,
        *,
        positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned",
        position_init: Literal["sinusoidal", "normal"] = "sinusoidal",
        rotary_base: float = 10_000.0,
        num_kv_heads: int | None = None,
        head_size: int | None = None,
        activation: str = "relu",
        gated: bool = False,
        norm: Literal["layer", "rms"] = "layer",
        norm_epsilon: float = 1e-6,
        use_bias: bool = True,
        use_head_bias: bool = True,
        tie_embeddings: bool = False,
        weight_std: float | None = None,
        dropout_p: float = 0.0,
        remat: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            vocab_size: number of different tokens.
            embed_size: length of a token's vector.
            num_layers: number of blocks.
            num_heads: heads of attention, a divisor of `embed_size` unless `head_size` is given.
            mlp_size: width of the feed-forward layers.
            max_length: most tokens of a sequence.
            positions: "learned", "sinusoidal" (fixed), "rotary" (in attention) or "none".
            position_init: learned positions before training: sines and cosines, or normal.
            rotary_base: of rotary wavelengths, positive.
            num_kv_heads: heads of keys and values, a divisor of `num_heads`; as many by default.
            head_size: length of a head's vectors; `embed_size / num_heads` by default.
            activation: "relu", "gelu", "gelu_tanh" or "silu".
            gated: whether the feed-forward layers are gated.
            norm: "layer" or "rms".
            norm_epsilon: added to variances (Trax 1e-6, GPT-2 1e-5).
            use_bias: biases in the blocks' projections and in LayerNorm.
            use_head_bias: a bias on the logits; a tied head has none.
            tie_embeddings: whether the head shares the token embedding's weights.
            weight_std: of the blocks' initial weights, GPT-2's 0.02 for instance; 1 / sqrt(inputs) by default.
            dropout_p: of embeddings, attention weights and what blocks add, in [0, 1).
            remat: whether training computes blocks again in the backward pass to save memory.
            key: for the weights.

        Raises:
            ValueError: an argument out of its range, or two that do not fit.
        """
        check_sizes(
            vocab_size=vocab_size, embed_size=embed_size, num_layers=num_layers, num_heads=num_heads,
            mlp_size=mlp_size, max_length=max_length, num_kv_heads=num_kv_heads, head_size=head_size,
        )  # fmt: skip
        check_choice("positions", positions, ("learned", "sinusoidal", "rotary", "none"))
        check_choice("position_init", position_init, ("sinusoidal", "normal"))
        check_positive(rotary_base=rotary_base, weight_std=weight_std)
        check_probability("dropout_p", dropout_p)
        self.vocab_size, self.embed_size, self.num_layers = vocab_size, embed_size, num_layers
        self.num_heads, self.mlp_size, self.max_length = num_heads, mlp_size, max_length
        self.positions, self.position_init, self.rotary_base = positions, position_init, rotary_base
        self.num_kv_heads, self.head_size = num_kv_heads, head_size
        self.activation, self.gated, self.norm, self.norm_epsilon = activation, gated, norm, norm_epsilon
        self.use_bias, self.use_head_bias, self.tie_embeddings = use_bias, use_head_bias, tie_embeddings
        self.weight_std = weight_std
        self.dropout_p, self.remat = dropout_p, remat

        embedding_key, position_key, stack_key, head_key = jax.random.split(key, 4)
        # Logits of a fresh model have a variance of at most 0.04, so its loss is ln(vocab_size) to a few hundredths.
        head_scale = 0.2
        tied_std = min(0.02, head_scale / math.sqrt(embed_size))
        self.embedding = TokenEmbedding(
            vocab_size, embed_size, std=tied_std if tie_embeddings else 1.0, key=embedding_key
        )
        self.position_embedding = None
        if positions == "learned":
            self.position_embedding = LearnedPositions(max_length, embed_size, init=position_init, key=position_key)
        elif positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions(embed_size)
        self.dropout = eqx.nn.Dropout(dropout_p)
        # What 2 * num_layers parts add to the residual stream keeps its variance near one (GPT-2).
        out_scale = 1.0 / math.sqrt(2 * num_layers)

        def make_block(key: PRNGKeyArray) -> TransformerBlock:
            attention_key, mlp_key = jax.random.split(key)
            return TransformerBlock(
                MultiHeadAttention(
                    embed_size,
                    num_heads,
                    num_kv_heads=num_kv_heads,
                    head_size=head_size,
                    use_query_bias=use_bias,
                    use_key_bias=use_bias,
                    use_value_bias=use_bias,
                    use_output_bias=use_bias,
                    weight_std=weight_std,
                    out_scale=out_scale,
                    dropout_p=dropout_p,
                    key=attention_key,
                ),
                FeedForward(
                    embed_size,
                    mlp_size,
                    activation=activation,
                    gated=gated,
                    use_bias=use_bias,
                    weight_std=weight_std,
                    out_scale=out_scale,
                    key=mlp_key,
                ),
                embed_size=embed_size,
                norm=norm,
                norm_epsilon=norm_epsilon,
                use_norm_bias=use_bias,
                dropout_p=dropout_p,
            )

        self.stack = Stack.make(make_block, num_layers, remat=remat, key=stack_key)
        # The blocks' first module knows the size of a head; asking it keeps one rule for the default.
        size = self.stack.blocks.attention.head_size
        self.rotary = RotaryPositions(size, rotary_base) if positions == "rotary" else None
        self.norm_out = make_norm(norm, embed_size, epsilon=norm_epsilon, use_bias=use_bias)
        self.head = None
        if not tie_embeddings:
            self.head = Linear(embed_size, vocab_size, use_bias=use_head_bias, scale=head_scale, key=head_key)

    def embed(
        self, tokens: Int[Array, " seq"], positions: Int[Array, " seq"]
    ) -> tuple[Float[Array, "seq {self.embed_size}"], Rotation | None]:
        """What goes into the first block, and the rotation that goes into all of them."""
        x = self.embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions).astype(x.dtype)
        return x, None if self.rotary is None else self.rotary(positions)

    def hidden(
        self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "seq {self.embed_size}"]:
        """The vectors that the head projects to logits. Arguments as in `__call__`."""
        (length,) = tokens.shape
        if length > self.max_length:
            raise ValueError(f"{length} tokens exceed max_length ({self.max_length})")
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, rotation = self.embed(tokens, jnp.arange(length))
        x = self.dropout(x, key=embed_key)
        x = self.stack(x, mask=causal_mask(length), rotation=rotation, key=stack_key)
        return jax.vmap(self.norm_out)(x)

    def project(self, hidden: Float[Array, "*seq {self.embed_size}"]) -> Float32[Array, "*seq {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.embedding.project(hidden) if self.head is None else self.head.accumulate(hidden)

    def __call__(
        self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None
    ) -> Float32[Array, "seq {self.vocab_size}"]:
        """
        Args:
            tokens: ids in 0 to vocab_size - 1, at most `max_length`; others give NaN.
            key: for dropout, needed in training where dropout_p > 0.

        Returns:
            Logits; row i scores token i + 1.
        """
        return self.project(self.hidden(tokens, key=key))

    def decoder(self) -> TransformerLMDecoder:
        """This model for one token at a time, without dropout: for `zoo.sampling`. Costs a copy of the weights."""
        lm = eqx.nn.inference_mode(self)
        shell = eqx.tree_at(lambda lm: lm.stack, lm, None)
        return TransformerLMDecoder(shell, lm.stack.unstack(), lm.vocab_size, lm.max_length)
