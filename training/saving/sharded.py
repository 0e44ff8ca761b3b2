"""Checkpoints of which each process writes its own part while training continues: by Orbax, which has to be there.

They are for models that no single host can hold, or that take long to write. What is verified of them is what Orbax
verifies; the files of `training.saving.files` are hashed throughout.
"""

import contextlib
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from training.errors import CheckpointError
from training.saving.files import parse_json
from training.state import copy_arrays

UNFINISHED = r"step_.*\.orbax-checkpoint-tmp.*"
"""Names of folders that a killed process left behind."""
_ARRAYS, _DESCRIPTION, _FILE = "arrays", "description", "description.json"


def check_installed() -> None:
    """Raises `ValueError` where Orbax is missing."""
    if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("orbax.checkpoint") is None:
        raise ValueError('sharded saving needs Orbax: pip install "pytree-zoo[sharded]"')


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint's folder is one of these."""
    return (folder / _DESCRIPTION).is_dir()


class ShardedWriter:
    """Writes checkpoints in the background, one at a time. All processes have to call each method together."""

    def __init__(self):
        import orbax.checkpoint as ocp

        handlers: Any = {
            _ARRAYS: ocp.StandardCheckpointHandler(),
            _DESCRIPTION: ocp.JsonCheckpointHandler(filename=_FILE),
        }
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers))
        self._place: Path | None = None
        self._after: Callable[[], None] | None = None

    def write(
        self,
        place: Path,
        arrays: Mapping[str, Shaped[jax.Array | np.ndarray, "..."]],
        description: Mapping[str, Any],
        *,
        after: Callable[[], None],
    ) -> None:
        """Start to write, when the one before is done; the arrays may be donated as soon as this returns.

        Args:
            place: the folder, which gets its name when all is there.
            arrays: by name; of any layout over the processes.
            description: plain JSON, the first process's.
            after: called by `wait` when all is there.

        Raises:
            CheckpointError: one could not be written, this or the one before.
        """
        import orbax.checkpoint as ocp

        self.wait()
        shapes = {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}
        filled = {name: array for name, array in arrays.items() if array.size}  # Orbax takes no others
        if jax.default_backend() == "cpu":
            # Orbax would read the very memory that a donated step reuses.
            device = copy_arrays({name: array for name, array in filled.items() if isinstance(array, jax.Array)})
            filled = {name: device[name] if name in device else np.copy(array) for name, array in filled.items()}
        items = ocp.args.Composite(**{
            _ARRAYS: ocp.args.StandardSave(filled),
            _DESCRIPTION: ocp.args.JsonSave({**description, "arrays": shapes}),
        })  # fmt: skip
        self._place, self._after = place, after
        with self._explained():
            # Where no folder can be made Orbax says so after minutes, and until then no process can end.
            place.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(dir=place.parent, prefix=".step_", suffix=".tmp").cleanup()
            self._checkpointer.save(place.absolute(), args=items)

    def wait(self) -> None:
        """Until what was started is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._place is None:
            return
        with self._explained():
            self._checkpointer.wait_until_finished()
        after, self._place, self._after = self._after, None, None
        if after is not None:
            after()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            place, self._place, self._after = self._place, None, None
            reason = f"{_first_line(error)}; older checkpoints are as they were"
            raise CheckpointError(f"{place} could not be written: {reason}") from error


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was written beside the arrays, and the arrays' shapes by name.

    Raises:
        CheckpointError: it can't be read.
    """
    path = folder / _DESCRIPTION / _FILE
    try:
        description = parse_json(path, path.read_bytes())
        arrays = description.pop("arrays")
        shapes = {name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (dtype, shape) in arrays.items()}
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not the description of a checkpoint") from None
    return description, shapes


def read_arrays(folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """The arrays of a checkpoint, each where the sharding of its shape puts it; without one, NumPy's.

    Raises:
        CheckpointError: one can't be read.
    """
    import orbax.checkpoint as ocp

    host: dict[str, Any] = {n: np.zeros(s.shape, s.dtype) for n, s in shapes.items() if not (s.sharding and s.size)}
    arrays = {name: array for name, array in host.items() if not array.size}
    wanted = {name: host.get(name, shape) for name, shape in shapes.items() if shape.size}
    with _read(folder), ocp.StandardCheckpointer() as checkpointer:
        return arrays | checkpointer.restore((folder / _ARRAYS).absolute(), wanted)


@contextlib.contextmanager
def _read(folder: Path) -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of each item that one did not ask for
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} can't be read: {_first_line(error)}") from error
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
