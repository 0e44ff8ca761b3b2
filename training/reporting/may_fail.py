"""What may fail without taking a run with it."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def may_fail(failure: str) -> Iterator[None]:
    """What comes after a model is saved and may fail, such as a picture: an error is then a warning line.

    Args:
        failure: what the line says before the error's own words.

    Example:
        >>> with may_fail("no picture"):
        ...     raise ValueError("nothing to draw")
    """
    try:
        yield
    except Exception as error:
        print(f"warning: {failure}: {error or type(error).__name__}", file=sys.stderr, flush=True)
