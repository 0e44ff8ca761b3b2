"""What a family of models is: a table of names, and what differs between their tensors and our arrays."""

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Shaped

from zoo.pretrained import PretrainedError
from zoo.pretrained.huggingface.settings import Settings
from zoo.rebuild import named_arrays

Shape = tuple[int, ...]

# model_type -> the module here that defines its FAMILY. Where a model fits several, the first is written.
MODULES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "xlm_roberta",
    "distilbert": "distilbert",
    "modernbert": "modernbert",
    "bart": "bart",
    "marian": "marian",
    "t5": "t5",
}


@dataclass(frozen=True)
class View:
    """One of their tensors in our layout.

    Attributes:
        of: their array -> a view of the whole of it or of a part, laid out as ours is.
        shape: the shape of ours -> that of theirs.
    """

    of: Callable[[Shaped[np.ndarray, "..."]], Shaped[np.ndarray, "..."]]
    shape: Callable[[Shape], Shape]

    def __rshift__(self, then: "View") -> "View":
        """First this view of theirs, then another of what it gives."""
        return View(lambda array: then.of(self.of(array)), lambda shape: self.shape(then.shape(shape)))


SAME = View(lambda array: array, lambda shape: shape)
TRANSPOSED = View(np.transpose, lambda shape: shape[::-1])  # a bias stays as it is


def rows(before: int, after: int = 0) -> View:
    """Ours are theirs without the first `before` rows and the last `after`, which are zero when written."""
    return View(
        lambda array: array[before : array.shape[0] - after],
        lambda shape: (before + shape[0] + after, *shape[1:]),
    )


def part(index: int, count: int) -> View:
    """Ours are the rows of the `index`-th of `count` equal parts of theirs, such as the keys of (q, k, v) in one."""

    def of(array: np.ndarray) -> np.ndarray:
        size = array.shape[0] // count
        return array[index * size : (index + 1) * size]

    return View(of, lambda shape: (shape[0] * count, *shape[1:]))


class Place(NamedTuple):
    """Where a module's arrays are: their name, without `.weight` and with `{}` for the layer, and how they differ."""

    name: str
    view: View = SAME
    first: int = 0  # number of the first layer


class Piece(NamedTuple):
    """One of their tensors, or a part of it, and where it belongs: a leaf of ours, or one layer of a stacked leaf."""

    leaf: str
    layer: int | None
    theirs: str
    view: View
    shape: Shape

    @property
    def their_shape(self) -> Shape:
        return self.view.shape(self.shape)


Table = Mapping[str, str | Place]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type` of transformers. See the docstring of the package.

    Attributes:
        model_type: its name in `config.json`.
        model: our class, which is made from a config.
        read_config: (`config.json`, names of tensors) -> our config. Dropout is left at zero: it is for training.
        write_config: our config -> `config.json`, with `architectures`; ids and types are added for it.
        table: module path of ours -> name of theirs, or a `Place`; or our config -> such a table, where it makes a
            difference.
        copies: names of tensors that may repeat another, such as a tied head's, and of that one.
        prefix: beginning of their names that files of the model without a head lack.
        renamed: endings of names in old files -> those of today.
        ignored: regular expressions for names of tensors that hold no weights.
        canonical: our config without what the files do not keep (dropout) or what makes no difference (a number that
            is the default), for comparing two of them.
    """

    model_type: str
    model: type
    read_config: Callable[[Settings, Collection[str]], Any]
    write_config: Callable[[Any], dict[str, Any]]
    table: Table | Callable[[Any], Table]
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    canonical: Callable[[Any], Any] = lambda config: config

    def pieces(self, skeleton: Any) -> Iterator[Piece]:
        """Of every array of a model (or of its shapes), the tensors that it comes from."""
        table = self.table(skeleton.config) if callable(self.table) else self.table
        for leaf, array in named_arrays(skeleton).items():
            place, ending = table.get(leaf), ""
            if place is None:
                module, _, attribute = leaf.rpartition(".")
                place, ending = table.get(module), f".{attribute}"
            if place is None:
                raise PretrainedError(f"{leaf} has no place in a {self.model_type} of transformers")
            name, view, first = Place(place) if isinstance(place, str) else place
            if "{}" not in name:
                yield Piece(leaf, None, name + ending, view, tuple(array.shape))
            else:
                for layer in range(array.shape[0]):
                    yield Piece(
                        leaf, layer, name.replace("{}", str(first + layer)) + ending, view, tuple(array.shape[1:])
                    )


def family_of(model_type: Any) -> Family:
    """The family of a `model_type`, or a `PretrainedError`."""
    if not isinstance(model_type, str) or model_type not in MODULES:
        raise PretrainedError(f"model_type must be one of {', '.join(MODULES)}, got {model_type!r}")
    return importlib.import_module(f"zoo.pretrained.huggingface.{MODULES[model_type]}").FAMILY


def skeleton_of(family: Family, config: Any) -> Any:
    """The shapes of a family's model."""
    return eqx.filter_eval_shape(family.model, config, key=jax.random.key(0))
