"""The errors of training: each says in one line what is wrong; some say with what code a program should end."""

from typing import Any


class NonFiniteError(FloatingPointError):
    """A loss, gradient, weight or validation loss is infinite or not a number.

    Attributes:
        step: the training step that showed it, counted from 1.
        what: what was found, for instance "the loss is nan".
        leaf: name of the first array that is not finite (of the gradient, or of the model), if it is known.
        result: the `FitResult` so far when `fit` raised it. Its `last` and `state.model` are not to be used;
            its `model` is the best before the error (the first model, if no evaluation came before it), or
            None without evaluation.
    """

    result: Any = None

    def __init__(self, step: int, what: str, leaf: str | None = None):
        self.step = step
        self.what = what
        self.leaf = leaf
        super().__init__(f"step {step}: {what}" + (f" (first in {leaf})" if leaf else ""))


class WrongIdError(NonFiniteError, ValueError):
    """Something is not finite because of an id that the model does not know; the message says which, and where."""

    exit_code = 2

    def __init__(self, step: int, what: str, leaf: str | None, wrong: str):
        super().__init__(step, f"{what}: {wrong}")
        self.leaf = leaf


class CheckpointError(ValueError):
    """A checkpoint that can't be written, is damaged or does not fit; the message names the file or folder."""

    exit_code = 5


class RunFolderError(ValueError):
    """A run's folder can't be used, because something else is in it."""


class ProcessLostError(OSError):
    """Another process of this run is gone, or never came."""

    exit_code = 4
