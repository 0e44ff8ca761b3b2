"""Gemma 1, 2 and 3 (text): decoder-only Transformers of Google's, from one config.

tokens -> sqrt(embed_size) x embedding -> num_layers x (causal attention, gated feed-forward) -> norm -> embedding

They differ from a Llama in this. The head is the embedding, whose vectors are scaled on the way in and not on the way
out. Norms are RMSNorms that multiply by one plus their weight. Gemma 2 normalises what comes out of attention and
feed-forward as well as what goes in, bends scores and logits so that none is large, and scales scores by a number of
its own; every second layer attends to a window. Gemma 3 normalises queries and keys instead of the bends, and its
windowed layers, five in six, have rotary positions with a base of their own.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from zoo.models.gemma_config import GemmaConfig
from zoo.models.kv_state import AbstractKVDecoder, KVState
from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_ids
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import RotaryPositions, Rotation, TokenEmbedding
from zoo.nn.feed_forward import FeedForward
from zoo.nn.kv_cache import KVCache
from zoo.nn.masks import cache_mask
from zoo.nn.scaled_dot_product import softcap
from zoo.nn.stack import Stack


class GemmaNorm(eqx.Module):
    """RMSNorm times one plus a weight, computed in float32; a weight of zero is what it starts with.

    The one is not added to the weight: near it, numbers of 16 bits are coarse.
    """

    weight: Float[Array, " size"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, size: int, epsilon: float):
        self.weight, self.epsilon = jnp.zeros(size), epsilon

    def __call__(self, x: Float[Array, " size"]) -> Float[Array, " size"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2) + self.epsilon)
        return (wide * (1.0 + self.weight.astype(jnp.float32))).astype(x.dtype)


class GemmaBlock(eqx.Module):
    """Self-attention and a gated feed-forward layer, each with a residual, a norm before it and perhaps one after."""

    attention_norm: GemmaNorm
    attention: MultiHeadAttention
    attention_norm_after: GemmaNorm | None
    mlp_norm: GemmaNorm
    mlp: FeedForward
    mlp_norm_after: GemmaNorm | None
    dropout: Dropout

    def __init__(self, config: GemmaConfig, *, key: PRNGKeyArray):
        attention_key, mlp_key = jax.random.split(key)
        # The variance of the residual stream, to which 2 * num_layers parts add, stays near one.
        out_scale = 1.0 / math.sqrt(2 * config.num_layers)

        def norm(size: int = config.embed_size) -> GemmaNorm:
            return GemmaNorm(size, config.norm_epsilon)

        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention_norm_after, self.mlp_norm_after = (norm() if config.norm_after else None for _ in range(2))
        self.attention = MultiHeadAttention(
            config.embed_size, config.num_heads, num_kv_heads=config.num_kv_heads, head_size=config.head_size,
            scale=1.0 / math.sqrt(config.query_size or config.head_size), score_cap=config.score_cap,
            make_head_norm=norm if config.qk_norm else None, use_query_bias=False, use_key_bias=False,
            use_value_bias=False, use_output_bias=False, out_scale=out_scale, dropout_p=config.dropout_p,
            key=attention_key,
        )  # fmt: skip
        self.mlp = FeedForward(
            config.embed_size, config.mlp_size, activation="gelu_tanh", gated=True, use_bias=False,
            out_scale=out_scale, key=mlp_key,
        )  # fmt: skip
        self.dropout = Dropout(config.dropout_p)

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        *,
        mask: Bool[Array, "seq seq"] | None,
        rotation: Rotation,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        weights_key, attention_key, mlp_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        y = jax.vmap(self.attention_norm)(x)
        y = self.attention(y, mask=mask, causal=True, rotation=rotation, key=weights_key)
        return self._feed_forward(self._add(x, y, self.attention_norm_after, attention_key), mlp_key)

    def extend(
        self,
        x: Float[Array, "seq embed"],
        cache: KVCache,
        slots: Int[Array, " seq"],
        *,
        mask: Bool[Array, "seq capacity"],
        rotation: Rotation,
    ) -> tuple[Float[Array, "seq embed"], KVCache]:
        """New tokens after those in a cache, as `MultiHeadAttention.extend`. Meant for inference mode."""
        y, cache = self.attention.extend(jax.vmap(self.attention_norm)(x), cache, slots, mask=mask, rotation=rotation)
        return self._feed_forward(self._add(x, y, self.attention_norm_after)), cache

    def _feed_forward(
        self, x: Float[Array, "seq embed"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "seq embed"]:
        return self._add(x, self.mlp(jax.vmap(self.mlp_norm)(x)), self.mlp_norm_after, key)

    def _add(
        self,
        x: Float[Array, "seq embed"],
        branch: Float[Array, "seq embed"],
        norm: GemmaNorm | None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        return x + self.dropout(branch if norm is None else jax.vmap(norm)(branch), key=key)


class Gemma(eqx.Module):
    """Maps a sequence of tokens to logits: row i scores every token as the one that follows token i.

    References: Gemma Team, "Gemma", 2024, arXiv:2403.08295; "Gemma 2", 2024, arXiv:2408.00118; "Gemma 3", 2025,
    arXiv:2503.19786.

    Example:
        >>> config = GemmaConfig.gemma3(
        ...     vocab_size=32, embed_size=16, num_layers=2, num_heads=4, head_size=4, mlp_size=64, max_length=10
        ... )
        >>> gemma = eqx.filter_jit(Gemma)(config, key=jax.random.key(0))
        >>> eqx.filter_jit(gemma)(jnp.array([0, 4, 6, 8, 10, 0])).shape
        (6, 32)
    """

    embedding: TokenEmbedding
    rotary: RotaryPositions
    local_rotary: RotaryPositions
    dropout: Dropout
    stack: Stack[GemmaBlock]
    final_norm: GemmaNorm
    config: GemmaConfig = eqx.field(static=True)

    def __init__(self, config: GemmaConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        embedding_key, stack_key = jax.random.split(key)
        # Logits of a fresh model have a variance of 0.04, so its loss is ln(vocab_size) to a few hundredths.
        root = math.sqrt(config.embed_size)
        self.embedding = TokenEmbedding(
            config.vocab_size, config.embed_size, std=0.2 / root, scale=root, key=embedding_key
        )
        self.rotary = RotaryPositions(config.head_size, config.rotary_base, factor=config.rotary_factor)
        self.local_rotary = self.rotary
        if config.local_rotary_base is not None:
            self.local_rotary = RotaryPositions(config.head_size, config.local_rotary_base)
        self.dropout = Dropout(config.dropout_p)
        self.stack = Stack.make(
            lambda key: GemmaBlock(config, key=key), config.num_layers, remat=config.remat, key=stack_key
        )
        self.final_norm = GemmaNorm(config.embed_size, config.norm_epsilon)
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def hidden(
        self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        """The vectors that `project` turns into logits. Arguments as in `__call__`."""
        check_ids("tokens", tokens, self.max_length)
        (length,) = tokens.shape
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        positions = jnp.arange(length)
        rotations = self.rotary(positions), self.local_rotary(positions)
        masks = cache_mask(positions, length), cache_mask(positions, length, self.config.window)
        keys = None if stack_key is None else jax.random.split(stack_key, self.config.num_layers)
        local = jnp.array([self.config.is_local(layer) for layer in range(self.config.num_layers)])

        def apply(block: GemmaBlock, x: Array, entry: Any) -> tuple[Array, None]:
            is_local, key = entry
            mask, rotation = jax.tree.map(
                lambda everywhere, nearby: jnp.where(is_local, nearby, everywhere),
                *zip(masks, rotations, strict=True),
            )
            return block(x, mask=mask, rotation=rotation, key=key), None

        x = self.dropout(self.embedding(tokens), key=embed_key)
        return jax.vmap(self.final_norm)(self.stack.scan(apply, x, (local, keys))[0])

    def project(
        self, hidden: Float[Array, "*seq {self.config.embed_size}"]
    ) -> Float32[Array, "*seq {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return project(self, hidden)

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

    def decoder(self) -> "GemmaDecoder":
        """This model for one token at a time, without dropout: for `zoo.sampling`. Costs a copy of the weights."""
        gemma = eqx.nn.inference_mode(self)
        return GemmaDecoder(
            embedding=gemma.embedding, rotary=gemma.rotary, local_rotary=gemma.local_rotary,
            blocks=gemma.stack.unstack(), final_norm=gemma.final_norm, config=gemma.config,
            vocab_size=gemma.vocab_size, max_length=gemma.max_length, **gemma.config.generation_ids(),
        )  # fmt: skip


class GemmaDecoder(AbstractKVDecoder):
    """A `Gemma` one token at a time, made by `Gemma.decoder()`, with its blocks not stacked."""

    embedding: TokenEmbedding
    rotary: RotaryPositions
    local_rotary: RotaryPositions
    blocks: tuple[GemmaBlock, ...]
    final_norm: GemmaNorm
    config: GemmaConfig = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        positions, slots, mask = state.place(tokens.shape[0], length)
        local_mask = cache_mask(positions, state.capacity, self.config.window)
        everywhere, nearby = (mask, self.rotary(positions)), (local_mask, self.local_rotary(positions))
        x, caches = self.embedding(tokens), []
        for layer, (block, cache) in enumerate(zip(self.blocks, state.caches.value, strict=True)):
            mask, rotation = nearby if self.config.is_local(layer) else everywhere
            x, cache = block.extend(x, cache, slots, mask=mask, rotation=rotation)
            caches.append(cache)
        return x, *state.advance(tuple(caches), length)

    def logits(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
        return project(self, self.final_norm(x))


def project(model: Gemma | GemmaDecoder, hidden: Float[Array, "*seq embed"]) -> Float32[Array, "*seq vocab"]:
    """The products with every token's vector, bent to stay below the cap."""
    logits, cap = model.embedding.project(hidden), model.config.logit_cap
    return logits if cap is None else softcap(logits, cap)
