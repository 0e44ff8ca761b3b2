"""LoRA: train two thin matrices beside each dense layer of a model that stays as it is, and merge them at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, PRNGKeyArray, PyTree

from zoo.nn.checks import check_positive, check_sizes
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.products import rows_times_matrix
from zoo.rebuild import name_of, named_arrays

Model = TypeVar("Model", bound=eqx.Module)


@final
class LowRank(AbstractLinear):
    """A dense layer of few parameters: `scale * up @ (down @ x)`. It starts at zero.

    In a `Stack` its matrices have the leading axis of layers that all arrays have there.
    """

    down: Float[Array, "*layers rank in"]
    up: Float[Array, "*layers out rank"]
    scale: float = eqx.field(static=True)

    @property
    def weight_shape(self) -> list[int]:
        return [*self.up.shape[:-1], self.down.shape[-1]]

    @property
    def weight(self) -> Float32[Array, "*layers out in"]:
        """The one matrix that does the same."""
        return self.scale * (self.up.astype(jnp.float32) @ self.down.astype(jnp.float32))

    def accumulate(self, x: Float[Array, "*shape in"]) -> Float32[Array, "*shape out"]:
        low = rows_times_matrix(x, self.down.astype(x.dtype)).astype(x.dtype)
        return self.scale * rows_times_matrix(low, self.up.astype(x.dtype))

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return self.accumulate(x).astype(x.dtype)


@final
class LoRALinear(AbstractLinear):
    """A `Linear` and the update that is trained in its stead."""

    linear: Linear
    update: LowRank

    def accumulate(self, x: Float[Array, "*shape in"]) -> Float32[Array, "*shape out"]:
        return self.linear.accumulate(x) + self.update.accumulate(x)

    def __call__(self, x: Float[Array, "*shape in"]) -> Float[Array, "*shape out"]:
        return self.accumulate(x).astype(x.dtype)


class LoRA(eqx.Module):
    """The updates of some of a model's layers without the model, by the layers' names: kilobytes to save and share.

    With them go whole arrays that were trained, too, such as those of a new head.

    Example: trained, saved apart, and put onto the same model again.
        >>> import pathlib, tempfile
        >>> from zoo import CharRNN, CharRNNConfig, LoRA, add_lora, load, save
        >>> base = CharRNN(CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1), key=jax.random.key(0))
        >>> tuned = add_lora(base, 2, key=jax.random.key(1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "lora.safetensors")
        ...     save(file, LoRA.of(tuned), extra={"base": "my-model", "licence": "Apache-2.0"})
        ...     again = load(file).add_to(base)
        >>> bool(eqx.tree_equal(again, tuned))
        True
    """

    updates: dict[str, LowRank]
    whole: dict[str, Float[Array, "..."]]

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        rank: int,
        scale: float | int = 1.0,
        whole_shapes: Mapping[str, Sequence[int]] | None = None,
        *,
        key: PRNGKeyArray,
    ):
        """
        Args:
            shapes: of the weights to update, `(*layers, out, in)`, by the name of their layer.
            rank: of the updates, at least 1.
            scale: factor on the updates, positive.
            whole_shapes: of the arrays that take the place of a model's, by their names; zeros at first.
            key: for the matrices `down`; the others start at zero, so the model is at first what it was.
        """
        check_sizes(rank=rank)
        check_positive(scale=scale)
        if not shapes:
            raise ValueError("shapes must name at least one layer")
        self.updates = {}
        for (name, shape), layer_key in zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True):
            *layers, out_size, in_size = shape
            down = jax.random.normal(layer_key, (*layers, rank, in_size)) / jnp.sqrt(in_size)
            self.updates[name] = LowRank(down, jnp.zeros((*layers, out_size, rank)), float(scale))
        self.whole = {name: jnp.zeros(tuple(shape)) for name, shape in (whole_shapes or {}).items()}

    @classmethod
    def of(cls, model: eqx.Module, whole: Sequence[str] = ()) -> "LoRA":
        """The updates of a model that `add_lora` made.

        Args:
            model: the model.
            whole: names of arrays to take as they are, such as `head.weight`: those of the model without updates.

        Raises:
            ValueError: the model has no updates, or no array of such a name.
        """
        updates = {name: layer.update for name, layer in _layers(model, LoRALinear).items()}
        if not updates:
            raise ValueError(f"this {type(model).__name__} has no updates: add_lora makes a model that has")
        arrays = named_arrays(_without_updates(model))
        if missing := [name for name in whole if name not in arrays]:
            raise ValueError(
                f"this {type(model).__name__} has no array called {missing[0]}; it has {', '.join(arrays)}"
            )
        taken = {name: arrays[name] for name in whole}
        shapes = {name: update.weight_shape for name, update in updates.items()}
        one = next(iter(updates.values()))
        sizes = (shapes, one.down.shape[-2], one.scale, {name: list(array.shape) for name, array in taken.items()})
        like = eqx.filter_eval_shape(cls, *sizes, key=jax.random.key(0))
        return eqx.tree_at(lambda lora: (lora.updates, lora.whole), like, (updates, taken))

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: update.weight_shape for name, update in self.updates.items()}

    @property
    def whole_shapes(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.whole.items()}

    @property
    def rank(self) -> int:
        return next(iter(self.updates.values())).down.shape[-2]

    @property
    def scale(self) -> float:
        return next(iter(self.updates.values())).scale

    def add_to(self, model: Model) -> Model:
        """The model with these updates beside its layers, which share its arrays, and the whole arrays in it.

        Raises:
            ValueError: it has no `Linear` or array of such a name and shape, or updates already.
        """
        if _layers(model, LoRALinear):
            raise ValueError(f"this {type(model).__name__} has updates already: merge_lora them first")
        arrays = named_arrays(model)
        for name, shape in self.whole_shapes.items():
            if name not in arrays or list(arrays[name].shape) != shape:
                raise ValueError(f"{type(model).__name__} has no array called {name} of shape {shape}")
        model = jax.tree_util.tree_map_with_path(lambda path, leaf: self.whole.get(name_of(path), leaf), model)
        linears = _layers(model, Linear)
        for name, update in self.updates.items():
            if name not in linears:
                raise ValueError(f"{type(model).__name__} has no Linear called {name}; it has {', '.join(linears)}")
            if list(linears[name].weight.shape) != update.weight_shape:
                raise ValueError(
                    f"the update of {name} is for weights of shape {update.weight_shape}, "
                    f"the model's has {list(linears[name].weight.shape)}"
                )
        return eqx.tree_at(
            lambda m: [_layers(m, Linear)[name] for name in self.updates],
            model,
            [LoRALinear(linears[name], update) for name, update in self.updates.items()],
        )


def add_lora(
    model: Model,
    rank: int,
    where: Callable[[Model], Any] | None = None,
    *,
    scale: float | int = 1.0,
    key: PRNGKeyArray,
) -> Model:
    """A model that computes what it did, with an update of low rank beside chosen dense layers, to be trained alone.

    `training.init_state(model, ..., trainable=lora_filter(model))` trains nothing else; then `merge_lora` makes a
    plain model of it again, or `LoRA.of` takes the updates out, to be saved apart. Losses and decoders take it like
    the model that it was. No gradient of the layers' own weights is ever computed.

    References: Hu et al., "LoRA", 2021, arXiv:2106.09685.
    Differs from the paper: one number, `scale`, is its alpha / rank; no dropout of the updates' input.

    Args:
        model: any with `zoo.nn.Linear`s in it.
        rank: of the updates, at least 1; 4 to 64 are usual.
        where: which of its `Linear`s, one or several, as for `eqx.tree_at`, such as
            `lambda lm: (lm.stack.blocks.attention.query, lm.stack.blocks.attention.value)`; all of them by default.
        scale: factor on the updates, positive.
        key: for the updates.

    Raises:
        ValueError: a number out of its range, `where` gives something else than `Linear`s or nothing, or the model
            has updates already.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig, count_parameters, lora_filter
        >>> rnn = CharRNN(CharRNNConfig(vocab_size=32, hidden_size=16, num_layers=1), key=jax.random.key(0))
        >>> tuned = add_lora(rnn, 2, lambda rnn: rnn.head, key=jax.random.key(1))
        >>> count_parameters(eqx.filter(tuned, lora_filter(tuned))), count_parameters(rnn)
        (96, 1328)
    """
    names = {id(linear): name for name, linear in _layers(model, Linear).items()}
    chosen = [where(model)] if where is not None else list(_layers(model, Linear).values())
    chosen = jax.tree.leaves(chosen, is_leaf=lambda node: isinstance(node, eqx.Module))
    other = [type(node).__name__ for node in chosen if id(node) not in names]
    if other or not chosen:
        got = f"a {other[0]}" if other else "nothing"
        raise ValueError(f"where must give Linears that are parts of the model themselves, got {got}")
    shapes = {names[id(linear)]: list(linear.weight.shape) for linear in chosen}
    return LoRA(shapes, rank, scale, key=key).add_to(model)


def lora_filter(model: PyTree) -> PyTree[bool]:
    """What is trained of a model that `add_lora` made: True for its updates, False for all else.

    A prefix of the model, as `eqx.partition` and `training.init_state` take it.
    """
    return jax.tree.map(lambda node: isinstance(node, LowRank), model, is_leaf=lambda node: isinstance(node, LowRank))


def merge_lora(model: Model) -> Model:
    """The plain model that computes the same, its updates added to the weights, which keep their type."""

    def merge(node: Any) -> Any:
        if not isinstance(node, LoRALinear):
            return node
        weight = node.linear.weight
        merged = (weight.astype(jnp.float32) + node.update.weight).astype(weight.dtype)
        return eqx.tree_at(lambda linear: linear.weight, node.linear, merged)

    return jax.tree.map(merge, model, is_leaf=lambda node: isinstance(node, LoRALinear))


def _without_updates(model: Model) -> Model:
    return jax.tree.map(
        lambda node: node.linear if isinstance(node, LoRALinear) else node,
        model,
        is_leaf=lambda node: isinstance(node, LoRALinear),
    )


Layer = TypeVar("Layer", bound=eqx.Module)


def _layers(model: PyTree, kind: type[Layer]) -> dict[str, Layer]:
    """All modules of a kind in a model, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, kind))
    return {name_of(path): node for path, node in leaves if isinstance(node, kind)}
