"""Samplers: small modules that reshape a row of logits before a token is drawn from it.

Each maps logits to logits; a token that must not be drawn gets -inf. They compose in a `Chain`. Their numbers may
be traced, so one compilation serves every temperature. None of them sorts the vocabulary: a threshold is found bit
by bit in the order of float32, which reads the logits 32 times (0.3 ms for 50,257 of them; a sort takes 8 ms).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float32, Int, Int32, PRNGKeyArray

from zoo.sampling._checks import HUGE, TINY, Scalar, as_float32, check_number
from zoo.sampling._threshold import keep_from_threshold


class AbstractSampler(eqx.Module):
    """Maps the logits of one row, and the tokens it has seen so far, to the logits that it draws from.

    Tokens are drawn by adding Gumbel noise and taking the maximum if `draws`, else by taking the maximum.
    """

    @property
    def draws(self) -> bool:
        """Whether the next token is random, so that a key is needed; a sampler that is deterministic says so."""
        return True

    @abstractmethod
    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        """
        Args:
            logits: of the next token.
            context: the row's tokens so far, prompt included, then -1.
        """


class Greedy(AbstractSampler):
    """Keeps the best token alone (the first of several)."""

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        return _only_best(logits)


class Temperature(AbstractSampler):
    """Divides logits by a temperature: 1 samples from the model, 0 is exactly greedy, above 1 flattens.

    Example:
        >>> Temperature(0.5)(jnp.array([0.0, 1.0]), jnp.array([-1])).tolist()
        [-2.0, 0.0]
    """

    temperature: Scalar = 1.0

    def __check_init__(self):
        check_number("temperature", self.temperature, 0.0)

    @property
    def draws(self) -> bool:
        # What is too small for float32 is flushed to zero below. A traced number may be any: then it needs a key.
        return isinstance(self.temperature, Tracer) or not float(self.temperature) < TINY

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        temperature = as_float32(self.temperature)
        warm = temperature >= TINY
        # The maximum goes first: divided by a small temperature, large logits would overflow.
        scaled = (logits - jnp.max(logits)) / jnp.where(warm, temperature, 1.0)
        # XLA multiplies by the reciprocal, which is 0 for the largest temperatures: -inf would become NaN.
        scaled = jnp.where(logits == -jnp.inf, -jnp.inf, scaled)
        return jnp.where(warm, scaled, _only_best(logits))


class TopK(AbstractSampler):
    """Keeps the k best tokens, and all that tie with the last of them. 0 keeps everything, as does k >= vocab.

    References: Fan et al., "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833.
    """

    k: Scalar

    def __check_init__(self):
        check_number("top_k", self.k, 0.0, whole=True, clipped=True)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        k = jnp.minimum(as_float32(self.k), logits.size)  # float32: more than an int32 is allowed
        return keep_from_threshold(logits, jnp.ones_like(logits), jnp.where(k == 0, logits.size, k))


class TopP(AbstractSampler):
    """Keeps the fewest best tokens whose probabilities add up to p, and all that tie with the last of them.

    1 keeps everything, 0 the best alone.

    References: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751.
    """

    p: Scalar

    def __check_init__(self):
        check_number("top_p", self.p, 0.0, 1.0)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        p = as_float32(self.p)
        weights = jnp.exp(logits - jnp.max(logits))
        enough = jnp.sum(weights) * p
        kept = keep_from_threshold(logits, weights, enough)
        return jnp.where(p >= 1.0, logits, kept)  # rounding must not drop the last tokens of all


class MinP(AbstractSampler):
    """Keeps the tokens that are at least p times as probable as the best. 0 keeps everything, 1 the best alone.

    References: Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024, arXiv:2407.01082.
    """

    p: Scalar

    def __check_init__(self):
        check_number("min_p", self.p, 0.0, 1.0)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        below_best = jnp.log(as_float32(self.p))
        return jnp.where(logits - jnp.max(logits) >= below_best, logits, -jnp.inf)


class RepetitionPenalty(AbstractSampler):
    """Divides the positive logits of tokens seen before by a penalty and multiplies negative ones by it.

    1 changes nothing; 1.2 is a usual value. It is between 1e-30 and 1e30: beyond, logits would leave float32 and tie.

    References: Keskar et al., "CTRL", 2019, arXiv:1909.05858, section 4.1.
    """

    penalty: Scalar

    def __check_init__(self):
        check_number("repetition_penalty", self.penalty, 1e-30, 1e30)

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        penalty = as_float32(self.penalty)
        penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return _where_seen(context, penalised, logits)


class PresencePenalty(AbstractSampler):
    """Subtracts a penalty from the logits of tokens seen before; a negative one invites repetition."""

    penalty: Scalar

    def __check_init__(self):
        check_number("presence_penalty", self.penalty)

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        return _where_seen(context, logits - as_float32(self.penalty), logits)


class Forbid(AbstractSampler):
    """Never draws these tokens: their logits become -inf.

    Example:
        >>> Forbid([1])(jnp.array([0.0, 1.0]), jnp.array([-1])).tolist()
        [0.0, -inf]
    """

    ids: Int[Array | np.ndarray, " forbidden"]

    def __init__(self, ids: Sequence[int] | Int[Array, " forbidden"] | Int[np.ndarray, " forbidden"]):
        """`ids` are whole numbers, or it is a `ValueError`; -1 and those beyond the vocabulary forbid nothing."""
        given = ids if isinstance(ids, Array | np.ndarray) else np.asarray(ids)
        if given.size and not jnp.issubdtype(given.dtype, jnp.integer):
            raise ValueError(f"ids must be whole numbers, got {ids!r}")
        self.ids = given if given is ids else np.asarray(ids, np.int32)

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        return forbid(logits, self.ids)


class Chain(AbstractSampler):
    """Samplers one after another: `Chain(TopK(50), Temperature(0.8))`."""

    samplers: tuple[AbstractSampler, ...]

    def __init__(self, *samplers: AbstractSampler):
        for sampler in samplers:
            check_sampler(sampler)
        self.samplers = samplers

    @property
    def draws(self) -> bool:
        return any(sampler.draws for sampler in self.samplers)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        for sampler in self.samplers:
            logits = sampler(logits, context)
        return logits


def check_sampler(sampler: Any) -> None:
    """Raises `TypeError` if it is not a sampler: most often it is the number or the class of one."""
    if isinstance(sampler, AbstractSampler):
        return
    if isinstance(sampler, type) and issubclass(sampler, AbstractSampler):
        raise TypeError(f"sampler is the class {sampler.__name__}: pass one of its objects, {sampler.__name__}(...)")
    array = isinstance(sampler, np.ndarray | jax.Array) and sampler.ndim == 0
    if array or (isinstance(sampler, float | int | np.number) and not isinstance(sampler, bool)):
        raise TypeError(f"sampler must be a sampler, not a number: Temperature({sampler})")
    if isinstance(sampler, list | tuple):
        raise TypeError("sampler must be one sampler: several, one after another, are Chain(first, second)")
    raise TypeError(f"sampler must be a sampler, such as Greedy() or Temperature(0.8), got {sampler!r}")


def draw(
    sampler: AbstractSampler,
    logits: Float32[Array, " vocab"],
    context: Int[Array, " capacity"],
    key: PRNGKeyArray | None,
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The next token of one row, and whether there was one: False where the logits left nothing finite."""
    scores = sampler(logits, context)
    # A maximum is NaN if anything is, so two reductions check all.
    finite = jnp.isfinite(jnp.max(logits)) & jnp.isfinite(jnp.max(scores))
    if sampler.draws:
        if key is None:
            raise ValueError("this sampler draws at random: key must be given")
        scores = scores + jax.random.gumbel(key, scores.shape, scores.dtype)
    return _first_of_largest(scores), finite


def forbid(
    logits: Float32[Array, "*rows vocab"], ids: Int[Array | np.ndarray, " forbidden"]
) -> Float32[Array, "*rows vocab"]:
    """With -inf for these ids; -1 stands for none."""
    return logits.at[..., jnp.where(ids < 0, logits.shape[-1], ids)].set(-jnp.inf, mode="drop")


def _first_of_largest(scores: Float32[Array, " vocab"]) -> Int32[Array, ""]:
    """As `jnp.argmax`, but by two reductions that XLA vectorises: on a CPU argmax takes several times as long.

    Where a score is NaN none is the largest, and it is the last one.
    """
    ids = jnp.arange(scores.size, dtype=jnp.int32)
    first = jnp.min(jnp.where(scores == jnp.max(scores), ids, scores.size))
    return jnp.minimum(first, scores.size - 1).astype(jnp.int32)


def _only_best(logits: Float32[Array, " vocab"]) -> Float32[Array, " vocab"]:
    return jnp.where(jnp.arange(logits.size) == _first_of_largest(logits), logits, -jnp.inf)


def _where_seen(
    context: Int[Array, " capacity"], penalised: Float32[Array, " vocab"], logits: Float32[Array, " vocab"]
) -> Float32[Array, " vocab"]:
    """The penalised logits of the tokens in the context. They stay finite: a penalty forbids nothing."""
    ids = jnp.where(context < 0, logits.size, context)  # the -1 after the context is dropped, not the last id
    seen = jnp.zeros(logits.size, bool).at[ids].set(True, mode="drop")
    return jnp.where(seen & (logits > -jnp.inf), jnp.clip(penalised, -HUGE, HUGE), logits)
