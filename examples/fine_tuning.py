"""What the examples share to fine-tune: the model to begin with, and how much of it is trained."""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

import zoo
import zoo.text
from training import Options, Run, TrainState, data_fingerprint, init_state
from training.launch.options import check_numbers
from zoo.nn import Linear
from zoo.rebuild import name_of, named_arrays
from zoo.text import Classifier, Embedder, Translator, Writer

Model = TypeVar("Model", bound=eqx.Module)

_HEAD_ALONE = 6  # times the preset's rate, at which a few hundred steps leave a new head half trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(Options):
    """Options of the examples that train."""

    OPTION_GROUPS: ClassVar = {"fine-tune": ("init_from", "freeze", "lora", "learning_rate")}

    init_from: Path | None = None
    """Begin with a saved model, or a Hugging Face folder."""
    freeze: tuple[str, ...] = ()
    """Names of weights that stay: embedding 'stack.*.mlp'."""
    lora: int | None = None
    """Train updates of this rank alone, and a new head."""
    learning_rate: float | None = None
    """By default by the preset and by what is trained."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, math.inf, "lora")
        check_numbers(self, math.ulp(0.0), math.inf, "learning_rate")
        if self.lora is not None and self.init_from is None:
            raise ValueError("--lora needs --init-from, the model whose layers are updated")
        if self.lora is not None and self.freeze:
            raise ValueError("give either --lora or --freeze: beside updates, nothing but a new head is trained")
        if self.overwrite and self.init_from is not None and self.out is not None:
            begin, out = self.init_from.resolve(), self.out.resolve()
            if out == begin or out in begin.parents:
                raise ValueError(f"--overwrite would delete {self.init_from}, which --init-from names, in --out")

    def base(self, *classes: type) -> Any:
        """The model that `--init-from` names, with its tokenizers: a `zoo.text.Writer` or its like.

        To be called after `make_sharding`, as everything that makes an array.

        Args:
            classes: what the model may be.

        Returns:
            None without `--init-from`.

        Raises:
            ValueError: it is another model, or without a tokenizer.
        """
        if self.init_from is None:
            return None
        path = self._path()
        found = _of_folder(path) if path.is_dir() else zoo.text.load(path)
        self._check(found.model, classes)
        return found

    def base_model(self, *classes: type) -> Any:
        """The same without tokenizers, which may be missing."""
        if self.init_from is None:
            return None
        path = self._path()
        model = zoo.from_pretrained(path, dtype=jnp.float32) if path.is_dir() else zoo.load(path)
        self._check(model, classes)
        return model

    def _path(self) -> Path:
        """The folder, the file, or the file in the folder of a run."""
        assert self.init_from is not None
        return model_in(self.init_from)

    def _check(self, model: Any, classes: Sequence[type]) -> None:
        if not isinstance(model, tuple(classes)):
            allowed = " or ".join(cls.__name__.removeprefix("Abstract") for cls in classes)
            held = f"{self.init_from} holds a {type(model).__name__}"
            raise ValueError(f"--init-from must hold a model of class {allowed}; {held}")

    def batch_for(self, of_preset: int, rows: int | None) -> int:
        """The preset's batch size, or less for so few rows of somebody's own that an epoch had not eight steps."""
        if rows is None:
            return of_preset
        size, parts = of_preset, 2 * math.lcm(self.accumulate, self.devices * (self.processes or 1))
        while (8 < size > rows // 8 or size > rows) and size % parts == 0:
            size //= 2
        return size

    def rate(self, of_preset: float, model: PyTree = None, new: Sequence[str] = ()) -> float:
        """The largest learning rate: small where a model is trained further, large for a head alone."""
        if self.learning_rate or self.init_from is None or self.lora:
            return self.learning_rate or of_preset
        alone = bool(self.freeze and new) and all(_is_in(name, new) for name in self._trained(model, new))
        return of_preset * _HEAD_ALONE if alone else of_preset / 10

    def tuned(self, model: Model, *, new: Sequence[str] = (), key: PRNGKeyArray) -> Model:
        """The model with updates beside its dense layers, if they are asked for.

        Args:
            model: what `--init-from` named, perhaps with new parts.
            new: names of those parts, such as "head", which get no updates.
            key: for the updates.
        """
        if self.lora is None:
            return model
        return zoo.add_lora(model, self.lora, lambda model: _linears(model, without=new), key=key)

    def init_state(
        self, model: PyTree, optimiser: optax.GradientTransformation, *, new: Sequence[str] = (), **options: Any
    ) -> TrainState:
        """As `training.init_state`, with that alone trained which is asked for; says how much that is.

        Raises:
            ValueError: `--freeze` has a pattern that no weight matches.
        """
        if self.lora is None and not self.freeze:
            return init_state(model, optimiser, **options)
        names = self._trained(model, new)
        trainable = jax.tree_util.tree_map_with_path(lambda path, _: name_of(path) in names, model)
        state = init_state(model, optimiser, trainable=trainable, **options)
        trained, size = trained_figures(state).values()
        whole = zoo.count_parameters(state.model) // (state.ensemble_size or 1)
        print(f"{trained:,} of {whole:,} parameters are trained; the optimiser's state has {size:,} bytes")
        return state

    def _trained(self, model: PyTree, new: Sequence[str]) -> set[str]:
        """Names of the weights that are trained."""
        names = [name for name, array in named_arrays(model).items() if eqx.is_inexact_array(array)]
        if self.lora is not None:
            updates = named_arrays(eqx.filter(model, zoo.lora_filter(model)))
            return {name for name in names if name in updates or _is_in(name, new)}
        for pattern in self.freeze:
            if not any(_is_in(name, [pattern]) for name in names):
                raise ValueError(f"--freeze {pattern} is the name of no weight; there are {', '.join(names)}")
        return {name for name in names if not _is_in(name, self.freeze)}

    def merged(self, model: Model, run: Run, *, new: Sequence[str] = ()) -> Model:
        """The plain model. Its updates, if it has some, are saved apart beside it, with whose they are."""
        if self.lora is None:
            return model
        whole = [name for name in named_arrays(model) if _is_in(name, new)]
        zoo.save(run.path("lora.safetensors"), zoo.LoRA.of(model, whole), extra=self._origin())
        return zoo.merge_lora(model)

    def _origin(self) -> dict[str, Any]:
        """What the base model is called, what is in its file, and its licence, as far as its model card says so."""
        path = self._path()
        weights = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else [path]
        card = path / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        licence = re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", text)
        return {
            "base": "/".join(path.resolve().parts[-2:]),
            "base_fingerprint": data_fingerprint(weights),
            "licence": licence[1] if licence else None,
        }


def model_in(path: Path) -> Path:
    """The model's file in the folder of a run; any other path itself."""
    saved = path / "model.safetensors"
    return saved if saved.is_file() and not (path / "config.json").exists() else path


def _of_folder(folder: Path) -> Any:
    """In float32, in which small steps are not lost."""
    model = zoo.from_pretrained(folder)
    if isinstance(model, zoo.AbstractEncoderDecoder):
        kind = Translator
    elif hasattr(model, "decoder"):
        kind = Writer
    else:
        kind = Embedder if model.config.num_classes is None else Classifier
    return kind.from_pretrained(folder, dtype=jnp.float32)


def trained_figures(state: TrainState) -> dict[str, int]:
    """How much is trained, for the summary of a run; of one model of an ensemble."""
    arrays = jax.tree.leaves(eqx.filter(state.opt_state, eqx.is_array))
    models = state.ensemble_size or 1
    return {
        "trained_parameters": zoo.count_parameters(state.split_model()[0]) // models,
        "optimiser_bytes": sum(array.nbytes for array in arrays) // models,
    }


def _is_in(name: str, patterns: Sequence[str]) -> bool:
    """Whether a dotted name, or that of something it is a part of, matches one of the patterns.

    Example:
        >>> [_is_in("stack.blocks.mlp.up.weight", [pattern]) for pattern in ("stack", "stack.*.mlp", "mlp", "*.up")]
        [True, True, False, True]
    """
    parts = name.split(".")
    wholes = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(whole, pattern) for whole in wholes for pattern in patterns)


def _linears(model: PyTree, *, without: Sequence[str]) -> list[Linear]:
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, Linear))
    return [node for path, node in leaves if isinstance(node, Linear) and not _is_in(name_of(path), without)]
