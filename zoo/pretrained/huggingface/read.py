"""From a folder to a model: all of it is checked, then each array is filled from the mapped files."""

import dataclasses
import functools
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, Shaped

from zoo.decoder import GeneratorConfig
from zoo.pretrained import PretrainedError
from zoo.pretrained.huggingface.family import MODULES, Family, Piece, family_of, skeleton_of
from zoo.pretrained.huggingface.settings import Settings, read_json
from zoo.pretrained.huggingface.tensors import Tensors
from zoo.rebuild import changed_config, named_arrays, with_arrays

ALIGNMENT = 64  # bytes; on a CPU an array of such memory becomes one of JAX's without a copy
SHOWN = 3  # names in an error
HEAD = "lm_head.weight"  # is kept as one of its own where config.json says so, even if it is equal to the embedding

Sharding = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


def from_pretrained(
    folder: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    sharding: Sharding | None = None,
    **changes: Any,
) -> Any:
    """The model in a folder that transformers wrote, or that was downloaded from the Hugging Face Hub.

    Every name, shape and value is checked before memory is taken for weights. Then each array is allocated once
    and filled from the mapped files, so that loading takes little more memory than the model. Nothing in a folder
    is executed: no `auto_map`, and a `pytorch_model.bin` is read without running its pickle.

    Args:
        folder: of `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or in several files. Nothing
            is downloaded: `hf download ORGANISATION/MODEL --local-dir FOLDER` (of `huggingface_hub`) does that.
        dtype: type of all weights; by default each has the one it is stored in. To train weights that are stored in
            16 bits pass `jnp.float32`, or small updates are lost; the steps may still compute in bfloat16.
        sharding: maps a leaf's name (`stack.blocks.mlp.up.weight`) and shape to its sharding; each device then gets
            its part alone. By default all goes to JAX's default device.
        changes: fields of our config and their new values, such as `dropout_p`, which is 0 otherwise, or `remat`.

    Returns:
        One of the models of the zoo, whose config also holds with which ids texts begin and end. It is in training
        mode as a new one, which makes a difference with `dropout_p` alone.

    Raises:
        PretrainedError: there is no such folder, or it holds something that the zoo does not have: a model type, a
            value in `config.json`, a tensor; or a tensor is missing or of another shape, or a file is damaged.
        TypeError, ValueError: changes that are not possible.
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a type of floats, such as jnp.bfloat16, got {dtype}")
    path = _existing(folder)
    settings = Settings(read_json(path / "config.json"), str(path / "config.json"))
    family = family_of(settings.choice("model_type", {name: name for name in MODULES}))
    settings.only("quantization_config")
    tensors = _without_copies(family, _renamed(family, Tensors(path)), settings)
    config = _config(path, family, settings, tensors)
    if changes:
        config = changed_config(config, changes)
    skeleton = skeleton_of(family, config)
    pieces = _checked(path, family, skeleton, tensors)
    arrays = {
        leaf: _filled(tensors, leaf, slot.shape, pieces[leaf], _type_of(tensors, leaf, pieces[leaf], dtype), sharding)
        for leaf, slot in named_arrays(skeleton).items()
    }
    return with_arrays(skeleton, arrays)


def _existing(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    if path.is_dir():
        return path
    name = os.fspath(folder)
    known = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith(".")
    command = f"hf download {name if known else 'ORGANISATION/MODEL'} --local-dir {name}"
    raise PretrainedError(
        f"{name} is no folder here, and nothing is downloaded: `{command}` (huggingface_hub) does it"
    )


def _renamed(family: Family, tensors: Tensors) -> Tensors:
    """With today's names."""
    for name in list(tensors):
        for old, new in family.renamed.items():
            if name.endswith(old):
                tensors[name.removesuffix(old) + new] = tensors.pop(name)
    return tensors


def _without_copies(family: Family, tensors: Tensors, settings: Settings) -> Tensors:
    """Without what is there twice: the head of a tied model, which some files hold, and a side's embedding."""
    bare, tied = _is_bare(family, tensors), settings.flag("tie_word_embeddings", True)
    for name, original in family.copies.items():
        original = original.removeprefix(family.prefix) if bare else original
        if (tied or name != HEAD) and tensors.equal(name, original):
            del tensors[name]
    return tensors


def _is_bare(family: Family, tensors: Tensors) -> bool:
    """Whether the names lack the family's prefix, as those of a model without a head do."""
    return bool(family.prefix) and not any(name.startswith(family.prefix) for name in tensors)


def _config(path: Path, family: Family, settings: Settings, tensors: Tensors) -> Any:
    """Our config, with the ids for generation, which a file of their own may give."""
    try:
        config = family.read_config(settings, tensors)
        if not isinstance(config, GeneratorConfig):
            return config
        other = path / "generation_config.json"
        generation = Settings(read_json(other), str(other)) if other.is_file() else settings
        return dataclasses.replace(config, **_generation_ids(settings, generation))
    except PretrainedError:
        raise
    except ValueError as error:
        raise PretrainedError(f"{settings.where} describes no model of the zoo: {error}") from error


def _generation_ids(settings: Settings, generation: Settings) -> dict[str, tuple[int, ...]]:
    def ids(key: str) -> tuple[int, ...]:
        found = generation.ids(key)
        return (settings.ids(key) if found is None else found) or ()

    start = ids("decoder_start_token_id") if settings.flag("is_encoder_decoder", False) else ()
    forbidden = generation.values.get("bad_words_ids", settings.values.get("bad_words_ids", []))
    if not isinstance(forbidden, list) or not all(isinstance(word, list) and len(word) == 1 for word in forbidden):
        raise generation.error("bad_words_ids", "a list of lists of one id each for us to read it")
    return {
        "start_ids": (start or ids("bos_token_id")) + ids("forced_bos_token_id"),
        "stop_ids": ids("eos_token_id"),
        "forbidden_ids": tuple(token for (token,) in forbidden) + ids("suppress_tokens"),
    }


def _checked(path: Path, family: Family, skeleton: Any, tensors: Tensors) -> dict[str, list[Piece]]:
    """What each leaf is made of, once all of that is in the files and nothing else is."""
    bare = _is_bare(family, tensors)
    pieces: dict[str, list[Piece]] = defaultdict(list)
    used = set()
    for piece in family.pieces(skeleton):
        theirs = piece.theirs.removeprefix(family.prefix) if bare else piece.theirs
        entry = tensors.get(theirs)
        if entry is None:
            raise PretrainedError(f"{path} has no tensor {theirs}, which this {family.model_type} needs")
        if isinstance(entry.dtype, str) or entry.dtype.kind not in "fV":
            raise PretrainedError(
                f"{path}: {theirs} is {entry.dtype}, and weights are floats (quantised ones are not read)"
            )
        if entry.shape != piece.their_shape:
            raise PretrainedError(
                f"{path}: {theirs} has shape {list(entry.shape)}, where config.json says {list(piece.their_shape)}"
            )
        used.add(theirs)
        pieces[piece.leaf].append(piece._replace(theirs=theirs))
    over = sorted(
        name for name in tensors.keys() - used if not any(re.fullmatch(pattern, name) for pattern in family.ignored)
    )
    if over:
        more = f" and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
        raise PretrainedError(
            f"{path} has {', '.join(over[:SHOWN])}{more}, which this {family.model_type} has no place for"
        )
    return pieces


def _type_of(tensors: Tensors, leaf: str, pieces: list[Piece], dtype: DTypeLike | None) -> Any:
    if dtype is not None:
        return jnp.dtype(dtype)
    stored = functools.reduce(jnp.promote_types, (tensors[piece.theirs].dtype for piece in pieces))
    if jax.dtypes.canonicalize_dtype(stored) != stored:
        raise PretrainedError(
            f"{leaf} is stored as {stored}, which needs JAX_ENABLE_X64=1, or dtype=jnp.float32 here"
        )
    return stored


def _filled(
    tensors: Tensors, leaf: str, shape: tuple[int, ...], pieces: list[Piece], dtype: Any, sharding: Sharding | None
) -> jax.Array:
    """One of our arrays, each of whose shards is allocated once and filled piece by piece."""

    def fill(index: Any) -> Shaped[np.ndarray, "..."]:
        ranges = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
        out = _aligned_empty(tuple(map(len, ranges)), dtype)
        for piece in pieces:
            theirs = piece.view.of(tensors.array(piece.theirs))
            if piece.layer is None:
                out[...] = theirs[index]
            elif piece.layer in ranges[0]:
                out[ranges[0].index(piece.layer)] = theirs[index[1:]]
        return out

    if sharding is None:
        return jax.device_put(fill(tuple(slice(None) for _ in shape)))
    return jax.make_array_from_callback(shape, sharding(leaf, shape), fill)


def _aligned_empty(shape: tuple[int, ...], dtype: Any) -> Shaped[np.ndarray, "..."]:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
