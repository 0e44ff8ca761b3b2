"""Whether a loss can have changed since it was compiled: what is compiled is found again by the loss."""

import dataclasses
import functools
import inspect
import types
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from training.losses import Batch, Carry, Loss, Sums

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, np.dtype, type, types.BuiltinFunctionType)


class _Once:
    """Another loss, equal to nothing else, so that nothing is found that was compiled before."""

    def __init__(self, loss: Loss):
        self.loss = loss
        self.__name__ = getattr(loss, "__name__", type(loss).__name__)

    def __call__(self, model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
        return self.loss(model, batch, carry, key)


def as_it_is_now(loss: Loss) -> Loss:
    """The loss itself if it can't change, else one that is to be compiled anew, for one call of `fit` or `evaluate`.

    Example:
        >>> from training import next_token_loss
        >>> as_it_is_now(next_token_loss) is next_token_loss
        True
        >>> scaled = lambda scale: lambda *args: (next_token_loss(*args)[0], scale)
        >>> as_it_is_now(loss := scaled(2.0)) is loss
        False
    """
    return loss if isinstance(loss, _Once) or cannot_change(loss) else _Once(loss)


def cannot_change(value: Any) -> bool:
    """Whether a value computes the same for ever: functions that close over nothing (their globals are read once, as
    by `jax.jit`), frozen dataclasses such as the losses of `training`, and all that these hold."""
    if isinstance(value, types.FunctionType):
        if value.__globals__.get("__name__") == "jaxtyping._decorator":
            value = inspect.unwrap(value)  # what checks a function's types closes over the function
        return value.__closure__ is None
    if isinstance(value, functools.partial):
        return all(map(cannot_change, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, tuple | frozenset):
        return all(map(cannot_change, value))
    if isinstance(value, _CONSTANTS) or eqx.is_array(value):  # arrays in a module are traced
        return True
    parameters = getattr(type(value), "__dataclass_params__", None)
    if not isinstance(value, eqx.Module) and not getattr(parameters, "frozen", False):
        return False
    return all(cannot_change(getattr(value, field.name, None)) for field in dataclasses.fields(value))
