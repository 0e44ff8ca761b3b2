"""The libraries of the extra `text`, which are imported where something needs them and not before."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def text_extra() -> Iterator[None]:
    """Around an import: what is missing is named together with the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is needed for this, which `pip install 'pytree-zoo[text]'` brings", name=error.name
        ) from None
