"""What every example's command line has, and how it ends: one line and an exit code."""

import contextlib
import dataclasses
import inspect
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, get_type_hints

import jax

from training.devices.execution import Execution
from training.devices.precision import Precision
from training.devices.processes import initialize_distributed
from training.devices.sharding import Sharding
from training.launch.command_line import read_options
from training.launch.stop_signals import Terminated, check_terminated, handle_sigterm, raise_on_sigterm
from training.optimisers import Schedule
from training.reporting.run import Run
from training.reporting.run_folder import check_out
from training.saving.checkpointer import Checkpoints

_MOST = 2**31 - 1  # of what is counted: JAX counts steps and rows in 32 bits
_WITHOUT_EFFECT = {
    "out", "resume", "overwrite", "save_every", "sharded_saving", "debug", "data_dir", "offline", "devices", "fsdp",
    "coordinator", "processes", "process_id",
}  # fmt: skip
_PROCESSES = ("coordinator", "processes", "process_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options that all examples share; an example adds its own by inheriting from this class."""

    OPTION_GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "run": ("seed", "out", "resume", "smoke", "devices", "precision"),
        "advanced": ("overwrite", "save_every", "sharded_saving", "debug", "fsdp", "accumulate", *_PROCESSES),
    }
    FREE_TO_CHANGE: ClassVar = {*_WITHOUT_EFFECT, "steps", "epochs"}
    NOT_KEPT: ClassVar = {"out", "resume", "overwrite", "debug", *_PROCESSES}

    seed: int = 0
    """Seed of everything random."""
    out: Path | None = None
    """Folder of the run; else the next runs/NAME/NUMBER."""
    resume: Path | None = None
    """Go on with the run in this folder, as it was started."""
    overwrite: bool = False
    """Delete the run that is in the folder of --out, and begin another one there."""
    save_every: int | None = None
    """Steps between checkpoints; by default a tenth of the run or a minute, and never more than 2 % of the time."""
    sharded_saving: bool = False
    """Each process writes its own part of a checkpoint, in the background; needs orbax-checkpoint."""
    smoke: bool = False
    """Run for seconds, to see that everything works."""
    debug: bool = False
    """Show where an error came from."""
    devices: int = 1
    """Devices that share each batch."""
    fsdp: bool = False
    """Split weights and optimiser state over the devices, too, instead of keeping all of them on each."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches per step, for less memory; the gradient is that of the whole batch."""
    precision: Precision | None = None
    """Of the products; all else stays float32, the default."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that train together, the same for all."""
    processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this is, from 0. The first one speaks and writes."""

    def __post_init__(self):
        check_numbers(self, 0, 2**32 - 1, "seed")
        check_numbers(self, 1, math.inf, "save_every", "devices", "accumulate", "processes")
        together = [self.coordinator, self.processes, self.process_id]
        if any(value is not None for value in together) and None in together:
            raise ValueError("several processes need all of --coordinator, --processes and --process-id")
        check_numbers(self, 0, (self.processes or 1) - 1, "process_id")
        if self.resume is not None and self.out is not None:
            raise ValueError("give either --out or --resume: a run is resumed in its own folder")
        if self.overwrite and self.out is None:
            raise ValueError("--overwrite needs --out, the folder whose run it deletes")

    def check_rows(self, batch_size: int, evaluated: int | None = None, *, ensemble_size: int | None = None) -> None:
        """Refuse micro-batches and devices that would not have equally many rows, before anything is done.

        Args:
            batch_size: rows of a training step, for all processes together.
            evaluated: rows of an evaluation's batches; None if they suit any number of devices.
            ensemble_size: models that are trained at once; None for one.

        Raises:
            ValueError: `--accumulate`, or `--devices` times `--processes`, does not divide the rows, or an ensemble
                is to train on several devices.
        """
        if batch_size % self.accumulate:
            raise ValueError(f"--accumulate must divide the {batch_size} rows of a batch; got {self.accumulate}")
        devices = self.devices * (self.processes or 1)
        flags = "--devices" if self.processes is None else "--devices times --processes"
        for rows, of in ((batch_size, "a batch"), (evaluated or devices, "a batch of the evaluation")):
            if rows % devices:
                raise ValueError(f"{flags} must divide the {rows} rows of {of}; got {devices}")
        if ensemble_size is not None and devices > 1:
            raise ValueError(f"several models at once train on one device: {flags} must be 1; got {devices}")

    def check_out(self, name: str) -> None:
        """Refuse an `--out` that a run of this example can't have, before anything is loaded; see `Run`."""
        if self.out is not None and not self.process_id:
            check_out(self.out, name, overwrite=self.overwrite)

    def make_sharding(self) -> Sharding:
        """Meet the other processes, if there are any, and choose the devices to train on.

        To be called once, before anything is computed: the number of devices that a CPU plays can't be set later.

        Raises:
            ValueError: there are not so many devices.
            ProcessLostError: the other processes don't come.
        """
        if self.devices == 1 and self.coordinator is None:
            return Sharding.single()
        with contextlib.suppress(RuntimeError):  # JAX is in use already, as in a notebook: it has what it has
            jax.config.update("jax_num_cpu_devices", self.devices)
        if self.coordinator is not None and self.processes is not None and self.process_id is not None:
            initialize_distributed(self.coordinator, self.processes, self.process_id)
        here = jax.local_devices()
        if self.devices > len(here):
            raise ValueError(
                f"--devices is {self.devices}, and there are only {len(here)} {here[0].platform} devices"
            )
        of_process = [
            [device for device in jax.devices() if device.process_index == process][: self.devices]
            for process in range(jax.process_count())
        ]
        return Sharding.over([device for devices in of_process for device in devices], fsdp=self.fsdp)

    def make_run(self, name: str) -> Run:
        """The folder of a run of the example of this name: a new one, or by `--out` or `--resume`."""
        return Run(name, self.out, arguments=self, resume=self.resume, overwrite=self.overwrite)

    def fit_options(
        self,
        run: Run,
        sharding: Sharding,
        *,
        precision: Precision | None = None,
        schedule: Schedule = "cosine",
        **facts: Any,
    ) -> dict[str, Any]:
        """What every example gives to `fit` by these options: `run`, `checkpoints` and `execution`.

        A run is resumed only with the same options, except those that can't change its outcome.

        Args:
            run: of `make_run`; checkpoints go into its folder.
            sharding: of `make_sharding`.
            precision: what the model computes in where no option says it; None for its own types.
            schedule: of the learning rate; a run with a constant one can be resumed for more steps than planned.
            facts: what else has to be the same, such as the number of training examples; plain JSON.
        """
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        kept = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
        checkpoints = Checkpoints(
            folder=run.checkpoints,
            every=self.save_every,
            resume=self.resume is not None,
            overwrite=self.overwrite,
            sharded=self.sharded_saving,
            configuration={**kept, **facts},
            extensible=schedule == "constant",
        )
        return {
            "run": run,
            "checkpoints": checkpoints,
            "execution": Execution(self.accumulate, self.precision or precision, sharding),
        }


def check_numbers(options: Any, least: float | int, most: float | int, *names: str) -> None:
    """Refuse numbers of a command line that are out of their range, before anything is done with them.

    Args:
        options: has them as attributes, each a number, a tuple of numbers, or None for one that was not given.
        least, most: what is allowed, both included; `math.ulp(0.0)` for more than 0, and `math.inf` where any finite
            number is small enough, or any whole number below 2**31.
        names: of the attributes; the error says `--max-new-tokens` for `max_new_tokens`.

    Raises:
        ValueError: one is out of its range, or not finite.
    """
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            limit = _MOST if most == math.inf and isinstance(number, int) else most
            if not (least <= number <= limit and number < math.inf):  # false for NaN, too
                above = "more than 0" if least == math.ulp(0.0) else f"at least {least}"
                above = f"at most {limit}" if limit < number < math.inf else above
                allowed = above if most == math.inf else f"in {least}..{most}"
                finite = "finite and " if isinstance(number, float) and not math.isfinite(number) else ""
                raise ValueError(f"--{name.replace('_', '-')} must be {finite}{allowed}; got {number}")


def check_needed(options: Any, needed: Sequence[str], *names: str) -> None:
    """Refuse options that would be passed over, as none of those that they go with is given.

    Raises:
        ValueError: one of `names` differs from its default, and none of `needed` does.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    given = [name for name, default in defaults.items() if getattr(options, name) != default]
    if not set(needed) & set(given):
        for name in set(names) & set(given):
            flags = " or ".join(f"--{flag.replace('_', '-')}" for flag in needed)
            raise ValueError(f"--{name.replace('_', '-')} needs {flags}")


def cli(main: Callable[..., Any]) -> NoReturn:
    """Run `main` with arguments from the command line, and exit.

    Args:
        main: takes a dataclass such as `Options`, whose fields become options (see `read_options`), or nothing; its
            docstring is the help.

    Exit codes:
        0 ok; 1 an error nobody foresaw, or not enough memory; 2 usage or input (ValueError); 3 a number that is
        not finite (ArithmeticError); 4 data or network (OSError); 5 a checkpoint; 130 Ctrl-C; 143 SIGTERM; 141 nobody
        reads the output any more; an error with an `exit_code` chooses its own. An error is one line,
        `error: ...`; with `--debug` its traceback comes first.
    """
    if getattr(sys.stdout, "errors", None) in ("strict", "surrogateescape") and hasattr(sys.stdout, "reconfigure"):
        # A console that lacks a character shows another one; nobody's run ends for that.
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        try:
            raise_on_sigterm()
            _call(main, sys.argv[1:])
            check_terminated()
            sys.stdout.flush()
        finally:
            handle_sigterm()  # all is done that will be: nothing is raised into the lines below
        code = 0
    except BrokenPipeError:
        # The reader went away, as in `... | head`; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt as stop:
        code = _fail("interrupted" + _how_to_go_on(stop), 130)
    except Terminated as stop:
        code = _fail("terminated" + _how_to_go_on(stop), 143)
    except ValueError as error:
        code = _fail(error, getattr(error, "exit_code", 2))
    except ArithmeticError as error:
        code = _fail(error, getattr(error, "exit_code", 3))
    except OSError as error:
        words = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else None
        code = _fail(error, getattr(error, "exit_code", 4), words)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        code = _fail(error, 1, f"not enough memory: {error}")
    if code:
        _leave(code)
    sys.exit(code)


def _call(main: Callable[..., Any], words: Sequence[str]) -> None:
    """`main` with the options that the words say, if it takes any."""
    description = " ".join((inspect.getdoc(main) or "").split())
    options = [hint for name, hint in get_type_hints(main).items() if name != "return"]
    main(*[read_options(cls, description, words) for cls in options])


def _how_to_go_on(stop: BaseException) -> str:
    """The command that resumes what was stopped, if `fit` has noted its folder."""
    folders = [note for note in getattr(stop, "__notes__", ()) if note.startswith("--resume ")]
    return f"; go on with: python {shlex.quote(sys.argv[0])} {folders[-1]}" if folders else ""


def _leave(code: int) -> None:
    """Where processes train together, the end of one must not wait for the others."""
    if "training.devices.processes" in sys.modules:
        sys.modules["training.devices.processes"].leave(code)


def _fail(error: BaseException | str, code: int, text: str | None = None) -> int:
    if "--debug" in sys.argv and not isinstance(error, str):
        import traceback

        traceback.print_exception(error)
    text = " ".join((text or str(error)).split()) or type(error).__name__
    print("error:", "".join(c if c.isprintable() else "?" for c in text), file=sys.stderr)
    return code
