"""From a model to a folder that transformers loads: one tensor after another, without a second copy of the model."""

import dataclasses
import json
import math
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from zoo.atomic_write import atomic_open, atomic_write
from zoo.decoder import GeneratorConfig
from zoo.pretrained import PretrainedError
from zoo.pretrained.huggingface.family import MODULES, Family, Piece, Shape, family_of, skeleton_of
from zoo.pretrained.huggingface.settings import Settings, read_json
from zoo.pretrained.huggingface.tensors import DTYPES
from zoo.rebuild import check_fits, named_arrays

# What a folder holds beside the model, and what goes with what is made from it.
CARRIED = (
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.model", "*.spm", "chat_template*",
)  # fmt: skip


def to_pretrained(
    folder: str | os.PathLike[str],
    model: eqx.Module,
    *,
    base: str | os.PathLike[str] | None = None,
    model_type: str | None = None,
) -> None:
    """Writes a model as transformers does: `config.json`, `generation_config.json` and `model.safetensors`.

    Args:
        folder: where to; made if there is none.
        model: one of the zoo's that a family of transformers can express, loaded from one or trained here.
        base: the folder that the model was loaded from. Its licence, model card and tokenizer are carried to the new
            one, whose card names the base model.
        model_type: the family, where several can express the model; by default that of `base`, or else the first
            in `zoo.pretrained.huggingface.family.MODULES` that can.

    Raises:
        PretrainedError: no family of transformers, or not this one, has such a model, or it is not what its config
            makes.
        OSError: the folder could not be written.

    Example: a model of one's own, out and back in.
        >>> import jax, tempfile
        >>> from zoo import TransformerLM, TransformerLMConfig, from_pretrained, to_pretrained
        >>> config = TransformerLMConfig.llama(
        ...     vocab_size=9, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=32
        ... )
        >>> lm = TransformerLM(config, key=jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_pretrained(folder, lm)
        ...     again = from_pretrained(folder)
        >>> bool(jnp.all(again.head.weight == lm.head.weight))
        True
    """
    folder, base = Path(folder), None if base is None else Path(base)
    if base is not None and model_type is None:
        model_type = read_json(base / "config.json").get("model_type")
    family, settings = _family(model, model_type)
    _check_made_from_config(family, model)
    settings = {"model_type": family.model_type, **settings, "torch_dtype": _main_type(model)}
    config: Any = model.config  # pyright: ignore[reportAttributeAccessIssue]
    generates = isinstance(config, GeneratorConfig)
    ids = _generation_settings(config, bool(settings.get("is_encoder_decoder"))) if generates else {}
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / "model.safetensors", family, model)
    if generates:
        settings |= {key: ids[key] for key in ids if key != "forced_bos_token_id"}
        _write_json(folder / "generation_config.json", ids)
    _write_json(folder / "config.json", settings)
    if base is not None:
        _carry(base, folder)


def _family(model: Any, model_type: str | None) -> tuple[Family, dict[str, Any]]:
    """The first family that gives the model's config back as it is, and what that writes."""
    reasons = []
    for name in MODULES if model_type is None else [model_type]:
        family = family_of(name)
        if not isinstance(model, family.model):
            continue
        try:
            config = _compared(family, model.config)
            settings = family.write_config(config)
            names = {piece.theirs for piece in family.pieces(model)}
            back = _compared(family, family.read_config(Settings(settings, "config.json"), names))
        except (ValueError, KeyError) as error:
            reasons.append(f"{name}: {error}")
            continue
        fields = [field.name for field in dataclasses.fields(config)]
        lost = [field for field in fields if getattr(back, field) != getattr(config, field)]
        if not lost:
            return family, settings
        reasons.append(f"{name} has no {lost[0]}={getattr(config, lost[0])!r}")
    raise PretrainedError(
        f"no family of transformers has this {type(model).__name__}" + "".join(f"; {reason}" for reason in reasons)
    )


def _check_made_from_config(family: Family, model: Any) -> None:
    """Raises `PretrainedError` unless the config that is written makes a model of the same names and shapes."""
    try:
        check_fits(skeleton_of(family, model.config), named_arrays(model))
    except ValueError as error:
        raise PretrainedError(
            f"{type(model).__name__} is not what its config makes, so from_pretrained would refuse it: {error}; "
            "zoo.rebuild changes a model together with its config"
        ) from None


def _compared(family: Family, config: Any) -> Any:
    """What of a config a family has to give back; ids are written for it."""
    config = family.canonical(config)
    if isinstance(config, GeneratorConfig):
        config = dataclasses.replace(config, start_ids=(), stop_ids=(), forbidden_ids=())
    return config


def _generation_settings(config: GeneratorConfig, is_encoder_decoder: bool) -> dict[str, Any]:
    """Our ids in the words of `generation_config.json`."""
    ids: dict[str, Any] = {}
    first, *forced = config.start_ids or (None,)
    if len(forced) > 1:
        raise PretrainedError(
            f"transformers has at most two ids that a text begins with, got start_ids={config.start_ids}"
        )
    ids["decoder_start_token_id" if is_encoder_decoder else "bos_token_id"] = first
    ids["forced_bos_token_id"] = forced[0] if forced else None
    ids["eos_token_id"] = list(config.stop_ids) if len(config.stop_ids) > 1 else next(iter(config.stop_ids), None)
    ids["suppress_tokens"] = list(config.forbidden_ids) or None
    return {key: value for key, value in ids.items() if value is not None}


def _main_type(model: eqx.Module) -> str:
    """The type of most weights."""
    sizes: dict[str, int] = defaultdict(int)
    for array in named_arrays(model).values():
        sizes[str(array.dtype)] += array.size
    return max(sizes, key=lambda dtype: sizes[dtype])


def _write_tensors(path: Path, family: Family, model: eqx.Module) -> None:
    """As safetensors lays them out: the length of a header, the header, and the tensors in its order."""
    leaves = named_arrays(model)
    tensors: dict[str, list[Piece]] = defaultdict(list)
    for piece in sorted(family.pieces(model), key=lambda piece: -1 if piece.layer is None else piece.layer):
        tensors[piece.theirs].append(piece)
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, pieces in tensors.items():
        shape, dtype = pieces[0].their_shape, jnp.result_type(*(leaves[piece.leaf].dtype for piece in pieces))
        if str(dtype) not in kinds:
            raise PretrainedError(f"{pieces[0].leaf} is of type {dtype}, which no family of transformers has")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": kinds[str(dtype)], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_open(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, pieces in tensors.items():
            info = header[name]
            _assembled(pieces, leaves, info["shape"], jnp.dtype(DTYPES[info["dtype"]])).tofile(file)


def _assembled(pieces: list[Piece], leaves: dict[str, Any], shape: Shape, dtype: Any) -> Shaped[np.ndarray, "..."]:
    """One of their tensors."""
    theirs = np.zeros(shape, dtype)
    for piece in pieces:
        ours = np.asarray(leaves[piece.leaf])  # on a CPU a view
        piece.view.of(theirs)[...] = ours if piece.layer is None else ours[piece.layer]
    return theirs


def _write_json(path: Path, value: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


def _carry(base: Path, folder: Path) -> None:
    """Licence, tokenizer and model card of the base model; the card says whose it was."""
    for pattern in CARRIED:
        for file in sorted(base.glob(pattern)):
            if file.is_file() and file.resolve() != (folder / file.name).resolve():
                shutil.copyfile(file, folder / file.name)
    card = base / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    _, front, body = text.split("---\n", 2) if re.match(r"---\n.*^---\n", text, re.S | re.M) else ("", "", text)
    lines = [line for line in front.splitlines() if not line.startswith("base_model:")]
    lines.append(f"base_model: {_name_of(base)}")
    atomic_write(folder / "README.md", "\n".join(["---", *lines, "---", ""]).encode() + body.encode())


def _name_of(base: Path) -> str:
    """ORGANISATION/MODEL where a cache's folder or `config.json` says so, else the folder's own name."""
    for part in base.resolve().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    named = read_json(base / "config.json").get("_name_or_path")
    return named if isinstance(named, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", named) else base.resolve().name
