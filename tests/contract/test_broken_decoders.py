"""The contract catches decoders that are wrong in the ways that one gets wrong, and says nothing of a right one."""

import inspect
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import test_decoders
from cases import VOCAB, Case
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from zoo import AbstractDecoder
from zoo.nn import Linear, TokenEmbedding
from zoo.nn.checks import check_plain, check_sizes

FAULTS = ("forgets its state", "counts padding", "reads token 0")


@dataclass(frozen=True, kw_only=True)
class BagConfig:
    vocab_size: int
    embed_size: int
    fault: str = ""

    def __post_init__(self):
        check_plain(self)
        check_sizes(vocab_size=self.vocab_size, embed_size=self.embed_size)


class Bag(eqx.Module):
    """Logits of the mean vector of the tokens so far, and so of a sum and a count."""

    embedding: TokenEmbedding
    head: Linear
    config: BagConfig = eqx.field(static=True)

    def __init__(self, config: BagConfig, *, key: PRNGKeyArray):
        embedding_key, head_key = jax.random.split(key)
        self.embedding = TokenEmbedding(config.vocab_size, config.embed_size, key=embedding_key)
        self.head = Linear(config.embed_size, config.vocab_size, scale=0.2, key=head_key)
        self.config = config

    def __call__(self, tokens, *, key=None):
        sums = jnp.cumsum(self.embedding(tokens).astype(jnp.float32), axis=0)
        return self.head.accumulate(sums / jnp.arange(1, tokens.size + 1, dtype=jnp.float32)[:, None])

    def decoder(self) -> "BagDecoder":
        return BagDecoder(bag=self, vocab_size=self.config.vocab_size)


class BagDecoder(AbstractDecoder[tuple[Array, Array]]):
    bag: Bag
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True, default=None)

    def init_state(self, capacity: int) -> tuple[Float[Array, " embed"], Float[Array, ""]]:
        return jnp.zeros(self.bag.config.embed_size), jnp.zeros(())

    def prefill(self, tokens, state, *, length=None):
        fault = self.bag.config.fault
        length = tokens.size if length is None or fault == "counts padding" else length
        if fault == "forgets its state":
            state = self.init_state(0)
        if fault == "reads token 0":
            tokens = jnp.full_like(tokens, tokens[0])
        real = jnp.arange(tokens.size) < length
        total = state[0] + jnp.where(real[:, None], self.bag.embedding(tokens), 0.0).sum(0)
        count = state[1] + jnp.asarray(length, jnp.float32)
        return self.bag.head.accumulate(total / count), (total, count)

    def step(self, token, state):
        return self.prefill(token[None], state)


def failures(fill, fault: str) -> list[str]:
    """Names of the decoder's promises that a bag of words with a fault breaks."""
    case = Case(name="Bag", model=Bag, arguments={"vocab_size": VOCAB, "embed_size": 6, "fault": fault})
    assert case.generates
    subject = case.subject(fill(case.make))
    promises: dict[str, Any] = {
        name: value
        for name, value in vars(test_decoders).items()
        if name.startswith("test_") and inspect.isfunction(value)
    }
    broken = []
    for name, promise in promises.items():
        try:
            promise(subject)
        except AssertionError:
            broken.append(name)
        except pytest.skip.Exception:
            pass
    return broken


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_decoder_is_caught(fill, fault):
    assert "test_any_split_into_prefills_and_steps_equals_the_whole" in failures(fill, fault)


def test_a_right_decoder_is_not(fill):
    assert failures(fill, "") == []
