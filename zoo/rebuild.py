"""Arrays of a model by name, and models made anew from a changed config."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree, Shaped

Model = TypeVar("Model", bound=eqx.Module)

_SHOWN = 5  # names in an error


def rebuild(model: Model, *, key: PRNGKeyArray | None = None, **changes: Any) -> Model:
    """The model that a changed config describes, with the weights of this one.

    Another dropout or `remat` changes no array. Where the vocabulary, the number of classes, positions or layers
    changes, entries that both shapes have are kept and the others are initialised by `key`: the first rows of a
    longer table are those of the old one. An array that changes along more than one axis is initialised anew.

    Args:
        model: one with a config, such as all models of the zoo.
        key: for arrays of another shape, and new ones, which have the weights' type if that is one; without it such
            a change is an error.
        changes: fields of the config and their new values.

    Returns:
        The new model, of the weights' own types, with the mode (training or inference) of the old one.

    Raises:
        TypeError: the model has no config, or the config has no such field.
        ValueError: a value out of its range, a shape changes and there is no `key`, or the model has parts that its
            config does not make, such as the updates of `add_lora`.

    Example: a larger vocabulary, and two models with different dropout averaged.
        >>> from zoo import CharRNN, CharRNNConfig
        >>> one, two = (
        ...     CharRNN(CharRNNConfig(vocab_size=5, hidden_size=4, num_layers=1, dropout_p=p), key=jax.random.key(0))
        ...     for p in (0.1, 0.2)
        ... )
        >>> rebuild(one, vocab_size=7, key=jax.random.key(1)).head.weight.shape
        (7, 4)
        >>> mean = jax.tree.map(lambda a, b: (a + b) / 2, one, rebuild(two, dropout_p=0.1))
    """
    make = _maker(type(model), _changed(model, changes))
    skeleton = eqx.filter_eval_shape(make, jax.random.key(0) if key is None else key)
    slots, arrays = named_arrays(skeleton), named_arrays(model)
    if not arrays.keys() <= slots.keys():  # a change left them out, or the config never made them
        own = named_arrays(eqx.filter_eval_shape(_maker(type(model), _changed(model, {})), jax.random.key(0)))
        if foreign := sorted(arrays.keys() - own.keys()):
            raise ValueError(
                f"this {type(model).__name__} has parts that its config does not make ({_first(foreign)}), which "
                "would be lost: merge_lora it, or put its own parts back, before"
            )
    changed = [
        f"{name} {_shape(arrays.get(name))} -> {_shape(slots.get(name))}"
        for name in [*slots, *(name for name in arrays if name not in slots)]
        if _shape(arrays.get(name)) != _shape(slots.get(name))
    ]
    if changed and key is None:
        raise ValueError(f"these changes need a key, because arrays change: {_first(changed)}")
    if changed:
        assert key is not None
        types = {array.dtype for array in arrays.values() if _is_float(array)}
        common = types.pop() if len(types) == 1 else None

        @jax.jit
        def changed_arrays(arrays: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
            fresh = named_arrays(make(key))
            return {name: _carried_over(arrays.get(name), fresh[name], common) for name in slots}

        arrays = changed_arrays(arrays, key)
    return _keep_mode(model, with_arrays(skeleton, arrays))


def _changed(model: eqx.Module, changes: Mapping[str, Any]) -> Any:
    config = getattr(model, "config", None)
    if config_class(type(model)) is None or config is None:
        raise TypeError(f"{type(model).__name__} has no config to change")
    return changed_config(config, changes)


def changed_config(config: Any, changes: Mapping[str, Any]) -> Any:
    """A config with other values; `TypeError` for a field that it has not, `ValueError` for one out of its range."""
    unknown = sorted(changes.keys() - {field.name for field in dataclasses.fields(config)})
    if unknown:
        raise TypeError(f"{type(config).__name__} has no field {unknown[0]!r}")
    return dataclasses.replace(config, **changes)


def _maker(cls: Any, config: Any) -> Any:
    return lambda key: cls(config, key=key)


def _shape(array: Any) -> str:
    return "(none)" if array is None else str(tuple(array.shape))


def _carried_over(old: Any, fresh: jax.Array, common: Any) -> jax.Array:
    """`fresh` with the entries of `old` where their shapes differ along one axis at most; of `old`'s type.

    Where nothing is old, numbers have the `common` type of the others, if they have one.
    """
    if old is None:
        return fresh.astype(common) if common is not None and _is_float(fresh) else fresh
    same_rank = old.ndim == fresh.ndim
    differing = [axis for axis in range(fresh.ndim) if same_rank and old.shape[axis] != fresh.shape[axis]]
    if not same_rank or len(differing) > 1:
        return fresh.astype(old.dtype)
    common = tuple(slice(min(a, b)) for a, b in zip(old.shape, fresh.shape, strict=True))
    return fresh.astype(old.dtype).at[common].set(old[common])


def _keep_mode(old: Model, new: Model) -> Model:
    """Whether dropout is off, as `eqx.nn.inference_mode` sets it, part by part."""
    modes = {name: leaf for name, leaf in _named_leaves(old).items() if name.rpartition(".")[2] == "inference"}

    def mode(path: Any, leaf: Any) -> Any:
        return modes.get(name_of(path), leaf)

    return jax.tree_util.tree_map_with_path(mode, new)


def config_class(cls: type) -> type | None:
    """The dataclass that is annotated as a module's field `config`, or None: such a module is made from it alone."""
    field = getattr(cls, "__dataclass_fields__", {}).get("config")
    if field is None:
        return None
    found = typing.get_type_hints(cls).get("config") if isinstance(field.type, str) else field.type
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array of JAX or NumPy, or the shape of one."""
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | jax.ShapeDtypeStruct)


def name_of(path: tuple[Any, ...]) -> str:
    """A leaf's path as people write it: `stack.blocks.mlp.up.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = name_of(path)
        if name in named:
            raise ValueError(f"two leaves have the name {name}: rename a key or a field that has a dot in it")
        named[name] = leaf
    return named


def named_arrays(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree, or their shapes, by name, such as `stack.blocks.mlp.up.weight`.

    Raises:
        ValueError: two of them have the same name.

    Example:
        >>> sorted(named_arrays(eqx.nn.Linear(2, 1, key=jax.random.key(0))))
        ['bias', 'weight']
    """
    return _named_leaves(eqx.filter(tree, is_array))


def with_arrays(like: Model, arrays: Mapping[str, Any]) -> Model:
    """A model with all its arrays replaced, each by the one of its name, in the arrays' own types.

    Args:
        like: a model, or its shapes alone (`eqx.filter_eval_shape`).
        arrays: by the names that `named_arrays` gives.

    Raises:
        ValueError: an array is missing, left over, of another shape, or an integer where a float belongs.

    Example:
        >>> like = eqx.filter_eval_shape(eqx.nn.Linear, 2, 1, key=jax.random.key(0))
        >>> model = with_arrays(like, {"weight": np.ones((1, 2)), "bias": np.array([3.0])})
        >>> model(jnp.array([1.0, 2.0])).tolist()
        [6.0]
    """
    check_fits(like, arrays)
    slots, static = eqx.partition(like, is_array)
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[name_of(path)]), slots)
    return eqx.combine(filled, static)


def check_fits(like: PyTree, arrays: Mapping[str, Shaped[Any, "..."]]) -> None:
    """Raises `ValueError` unless the arrays are those of `like`: the same names, shapes and kinds of numbers."""
    wanted = named_arrays(like)
    for which, names in (("missing", wanted.keys() - arrays.keys()), ("unknown", arrays.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{len(names)} {which} array(s): {_first(sorted(names))}")
    for name, slot in wanted.items():
        found = arrays[name]
        if found.shape != slot.shape or _is_float(found) != _is_float(slot):
            raise ValueError(
                f"{name} is {found.dtype}{list(found.shape)}, the model takes {slot.dtype}{list(slot.shape)}"
            )


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _first(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
