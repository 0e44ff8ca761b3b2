"""The one protocol of everything that generates: what `zoo.sampling` knows of a model."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from zoo.varying import vary_together

State = TypeVar("State")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """What the config of every model that generates has in common: the ids with which it was trained to do so.

    They come from other people's checkpoints, or from who trains a model; `generate`, `stream` and `beam_search`
    take them from the decoder where they are not told otherwise.
    """

    start_ids: Sequence[int] = ()
    """What a text begins with, where there is no prompt."""
    stop_ids: Sequence[int] = ()
    """Ids that end a text."""
    forbidden_ids: Sequence[int] = ()
    """Ids that are never generated, such as padding."""

    def check_generation_ids(self, vocab_size: int) -> None:
        """Raises `ValueError` for the first that is no id of the vocabulary, for `__post_init__` of a config."""
        for name, ids in self.generation_ids().items():
            for token in ids:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
                    raise ValueError(f"{name} must be ids in 0..{vocab_size - 1}, got {ids!r}")

    def generation_ids(self) -> dict[str, tuple[int, ...]]:
        """The three, by name: for a decoder."""
        ids = {"start_ids": self.start_ids, "stop_ids": self.stop_ids, "forbidden_ids": self.forbidden_ids}
        return {name: tuple(value) for name, value in ids.items()}


class AbstractDecoder(eqx.Module, Generic[State]):
    """A model with its weights laid out for one token at a time: what came before, in a state, to what comes next.

    A state is a pytree of arrays that nobody but the decoder looks into: hidden vectors, or caches and a
    position. It goes in and comes out, so it can be kept, forked, vmapped, or continued.

    Attributes:
        vocab_size: number of logits; token ids are 0 to vocab_size - 1.
        max_length: most tokens that a state can take in all, or None where there is no limit.
        start_ids, stop_ids, forbidden_ids: as in `GeneratorConfig`; none by default.

    Example: a decoder that counts up, whose state is the last token.
        >>> class Counter(AbstractDecoder[Array]):
        ...     vocab_size: int = 10
        ...     max_length: int | None = None
        ...
        ...     def init_state(self, capacity):
        ...         return jnp.array(0)
        ...
        ...     def prefill(self, tokens, state, *, length=None):
        ...         length = len(tokens) if length is None else length
        ...         return self.step(tokens[length - 1], state)
        ...
        ...     def step(self, token, state):
        ...         return jax.nn.one_hot((token + 1) % 10, 10), token
        >>> from zoo.sampling import generate
        >>> generate(Counter(), [3], max_new_tokens=4).tokens.tolist()
        [4, 5, 6, 7]
    """

    vocab_size: eqx.AbstractVar[int]
    max_length: eqx.AbstractVar[int | None]
    start_ids: tuple[int, ...] = eqx.field(static=True, default=(), kw_only=True)
    stop_ids: tuple[int, ...] = eqx.field(static=True, default=(), kw_only=True)
    forbidden_ids: tuple[int, ...] = eqx.field(static=True, default=(), kw_only=True)

    @abstractmethod
    def init_state(self, capacity: int) -> State:
        """The state before any token, with room for `capacity` tokens; `ValueError` if that exceeds `max_length`."""

    @abstractmethod
    def prefill(
        self, tokens: Int[Array, " seq"], state: State, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float[Array, " vocab"], State]:
        """Takes in many tokens at once.

        Args:
            tokens: at least one, padded on the right with any valid id.
            state: what came before; need not be empty.
            length: how many are real, at least 1; all of them by default.

        Returns:
            The logits of the token after the last real one, and the state that has taken in the real ones.
            NaN logits if they do not fit into the state's capacity.
        """

    @abstractmethod
    def step(self, token: Int[Array, ""], state: State) -> tuple[Float[Array, " vocab"], State]:
        """Takes in one token; as `prefill` of that token alone. Past the capacity: NaN logits, nothing written."""

    def extend(self, tokens: Int[Array, " seq"], state: State) -> tuple[Float[Array, "seq vocab"], State]:
        """Logits after each of many tokens, for `score`.

        Here one step after another; a decoder that sees a whole sequence at once has a faster one of its own.
        """

        def step(state: State, token: Int[Array, ""]) -> tuple[State, Float[Array, " vocab"]]:
            logits, state = self.step(token, state)
            return state, logits

        state, *_ = vary_together(state, self, tokens)
        state, logits = jax.lax.scan(step, state, tokens)
        return logits, state


class PositionIndexed(eqx.Module, Generic[Value]):
    """Marks arrays of a state in which a step only fills fresh slots, found by a counter elsewhere in the state.

    What lies at a slot past the counter is never read before it is written again. So a step is undone by taking
    back the rest of the state, and the sampler need not copy these arrays to hold a row that has stopped.
    """

    value: Value


def keep_if_stopped(stopped: Bool[Array, ""], before: State, after: State) -> State:
    """The state of one row: as it was before the step if the row has stopped, else as it is after it."""

    def choose(old, new):
        return new if isinstance(old, PositionIndexed) else jnp.where(stopped, old, new)

    return jax.tree.map(choose, before, after, is_leaf=lambda node: isinstance(node, PositionIndexed))
