"""A model is asked about many texts, and one sees how far it is."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

MANY = 1_000


def with_bar(ask: Callable[..., Any], texts: Sequence[Any], what: str, **options: Any) -> Any:
    """What `ask(texts, **options)` gives, with a bar on a terminal where it takes more than two seconds; elsewhere
    there is a line, if the texts are many.

    Args:
        ask: a `zoo.text.Classifier` or its like, which takes `progress`.
        texts: or what else it takes.
        what: is done with them, as "testing".
        options: further ones of `ask`.
    """
    if len(texts) >= MANY and not sys.stderr.isatty():
        print(f"{what} ({len(texts):,} texts) ...", file=sys.stderr, flush=True)
    with tqdm(total=len(texts), desc=what, delay=2, disable=None) as bar:
        return ask(texts, progress=bar.update, **options)
