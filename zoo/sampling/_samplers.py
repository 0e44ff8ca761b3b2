"""Samplers: small modules that reshape a row of logits before a token is drawn from it.

Each maps logits to logits; a token that must not be drawn gets -inf. They compose in a `Chain`. Their numbers may
be traced, so one compilation serves every temperature. None of them sorts the vocabulary: a threshold is found bit
by bit in the order of float32, which reads the logits 32 times (0.3 ms for 50,257 of them; a sort takes 8 ms).
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Int32, PRNGKeyArray, UInt32

Scalar = (
    Float[Array, ""]
    | Float[np.ndarray, ""]
    | Int[Array, ""]
    | Int[np.ndarray, ""]
    | np.floating
    | np.integer
    | float
    | int
)


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
        _check_number("temperature", self.temperature, 0.0, math.inf)

    @property
    def draws(self) -> bool:
        return not (isinstance(self.temperature, float | int) and self.temperature == 0)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        temperature = jnp.asarray(self.temperature, jnp.float32)
        warm = temperature >= jnp.finfo(jnp.float32).tiny  # what is smaller is flushed to zero: greedy
        # The maximum goes first: divided by a small temperature, large logits would overflow.
        scaled = (logits - jnp.max(logits)) / jnp.where(warm, temperature, 1.0)
        return jnp.where(warm, scaled, _only_best(logits))


class TopK(AbstractSampler):
    """Keeps the k best tokens, and all that tie with the last of them. 0 keeps everything, as does k >= vocab.

    References: Fan et al., "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833.
    """

    k: Scalar

    def __check_init__(self):
        _check_number("top_k", self.k, 0.0, math.inf, whole=True)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        k = jnp.minimum(jnp.asarray(self.k, jnp.float32), logits.size)  # float32: more than an int32 is allowed
        k = jnp.where(k == 0, logits.size, k).astype(jnp.int32)
        return _keep_from_threshold(logits, jnp.ones_like(logits), k.astype(jnp.float32))


class TopP(AbstractSampler):
    """Keeps the fewest best tokens whose probabilities add up to p, and all that tie with the last of them.

    1 keeps everything, 0 the best alone.

    References: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751.
    """

    p: Scalar

    def __check_init__(self):
        _check_number("top_p", self.p, 0.0, 1.0)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        p = jnp.asarray(self.p, jnp.float32)
        weights = jnp.exp(logits - jnp.max(logits))
        enough = p * jnp.sum(weights)
        kept = _keep_from_threshold(logits, weights, enough)
        return jnp.where(p >= 1.0, logits, kept)  # rounding must not drop the last tokens of all


class MinP(AbstractSampler):
    """Keeps the tokens that are at least p times as probable as the best. 0 keeps everything, 1 the best alone.

    References: Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024, arXiv:2407.01082.
    """

    p: Scalar

    def __check_init__(self):
        _check_number("min_p", self.p, 0.0, 1.0)

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        below_best = jnp.log(jnp.asarray(self.p, jnp.float32))
        return jnp.where(logits - jnp.max(logits) >= below_best, logits, -jnp.inf)


class RepetitionPenalty(AbstractSampler):
    """Divides the positive logits of tokens seen before by a penalty and multiplies negative ones by it.

    1 changes nothing; 1.2 is a usual value.

    References: Keskar et al., "CTRL", 2019, arXiv:1909.05858, section 4.1.
    """

    penalty: Scalar

    def __check_init__(self):
        _check_number("repetition_penalty", self.penalty, 0.0, math.inf, above=True)

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        penalty = jnp.asarray(self.penalty, jnp.float32)
        penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(_seen(context, logits.size), penalised, logits)


class PresencePenalty(AbstractSampler):
    """Subtracts a penalty from the logits of tokens seen before; a negative one invites repetition."""

    penalty: Scalar

    def __check_init__(self):
        _check_number("presence_penalty", self.penalty, -math.inf, math.inf)

    @property
    def draws(self) -> bool:
        return False

    def __call__(
        self, logits: Float32[Array, " vocab"], context: Int[Array, " capacity"]
    ) -> Float32[Array, " vocab"]:
        penalty = jnp.asarray(self.penalty, jnp.float32)
        return jnp.where(_seen(context, logits.size), logits - penalty, logits)


class Chain(AbstractSampler):
    """Samplers one after another: `Chain(TopK(50), Temperature(0.8))`."""

    samplers: tuple[AbstractSampler, ...]

    def __init__(self, *samplers: AbstractSampler):
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
        scores = scores + jax.random.gumbel(key, scores.shape)
    return _first_of_largest(scores), finite


def _first_of_largest(scores: Float32[Array, " vocab"]) -> Int32[Array, ""]:
    """As `jnp.argmax`, but by two reductions that XLA vectorises: on a CPU argmax takes several times as long.

    Where a score is NaN none is the largest, and it is the last one.
    """
    ids = jnp.arange(scores.size, dtype=jnp.int32)
    first = jnp.min(jnp.where(scores == jnp.max(scores), ids, scores.size))
    return jnp.minimum(first, scores.size - 1).astype(jnp.int32)


def _only_best(logits: Float32[Array, " vocab"]) -> Float32[Array, " vocab"]:
    return jnp.where(jnp.arange(logits.size) == _first_of_largest(logits), logits, -jnp.inf)


def _seen(context: Int[Array, " capacity"], vocab_size: int) -> Bool[Array, " vocab"]:
    ids = jnp.where(context < 0, vocab_size, context)  # the -1 behind the context is dropped, not the last id
    return jnp.zeros(vocab_size, bool).at[ids].set(True, mode="drop")


def _keep_from_threshold(
    logits: Float32[Array, " vocab"], weights: Float32[Array, " vocab"], enough: Float32[Array, ""]
) -> Float32[Array, " vocab"]:
    """Keeps the logits above the highest threshold whose weights add up to `enough`; always the best.

    The threshold is built bit by bit from the top: the sum suffices below some value and not above it.
    """
    # Rows of 128, filled up with what no threshold keeps: sums of columns use the whole width of a CPU's registers.
    fill = -logits.size % 128
    ordered, weights = (jnp.pad(x, (0, fill)).reshape(-1, 128) for x in (_in_order(logits), weights))
    best = jnp.max(ordered)

    def set_bit(i: Int[Array, ""], threshold: UInt32[Array, ""]) -> UInt32[Array, ""]:
        candidate = threshold | jnp.left_shift(jnp.uint32(1), 31 - i.astype(jnp.uint32))
        total = jnp.sum(jnp.sum(jnp.where(ordered >= candidate, weights, 0.0), axis=0))
        return jnp.where((candidate <= best) & (total >= enough), candidate, threshold)

    threshold = jax.lax.fori_loop(0, 32, set_bit, jnp.uint32(0))
    return jnp.where(_in_order(logits) >= threshold, logits, -jnp.inf)


def _in_order(x: Float32[Array, " vocab"]) -> UInt32[Array, " vocab"]:
    """Whole numbers in the same order as the floats: the sign bit is turned, negative numbers are reversed."""
    x = jnp.where(x == 0.0, 0.0, x)  # 0.0 for -0.0: equal numbers, equal bits (XLA drops `x + 0.0`)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 0, bits | jnp.uint32(1 << 31), ~bits)


def _check_number(
    name: str, value: Scalar, low: float, high: float, *, whole: bool = False, above: bool = False
) -> None:
    try:
        number = float(value)
    except jax.errors.ConcretizationTypeError:
        return  # a traced number has no value yet
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not low <= number <= high or not math.isfinite(number) or (above and number == low):
        allowed = f"finite and {'above' if above else 'at least'} {low}" + (
            f", at most {high}" if math.isfinite(high) else ""
        )
        raise ValueError(f"{name} must be {allowed if math.isfinite(low) else 'finite'}, got {number}")
    if whole and number != int(number):
        raise ValueError(f"{name} must be a whole number, got {number}")
