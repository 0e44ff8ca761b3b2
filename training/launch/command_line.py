"""From a dataclass of options to a command line: grouped help, one sentence for what is wrong, and runs that are
resumed by naming their folder alone.

    words of the command line -> with `--resume RUN` laid over those that the run began with -> the dataclass
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import inspect
import itertools
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from training.reporting.run_folder import arguments_of, folder_to_resume

Dataclass = TypeVar("Dataclass")

ADVANCED = "advanced"  # the group that `--help-all` alone shows


def read_options(cls: type[Dataclass], description: str, words: Sequence[str]) -> Dataclass:
    """The options that the words of a command line say.

    Args:
        cls: a dataclass of numbers, strings, paths, choices (`Literal`), flags and tuples of such, each perhaps None;
            the text below a field is its help, and one without a default is given without a flag. Four class
            attributes, each optional, say more: `OPTION_GROUPS`, the names of fields by the title of their group in
            the help (fields in none come first, "advanced" is shown by `--help-all` alone); `FREE_TO_CHANGE`, what
            may differ when a run is resumed; `NOT_KEPT`, what a resumed run does not take over; `HELP_NOTES`, lists
            by title that `--help-all` ends with.
        description: of the program, for its help.
        words: what stands behind the program's name.

    Raises:
        SystemExit: help was asked for, and printed.
        ValueError: the words are wrong, or say what a run to resume was not started with.
        CheckpointError: the folder to resume is not that of a run.
    """
    show_all = "--help-all" in words
    parser = _parser(cls, description, show_all=show_all)
    if show_all or "--help" in words or "-h" in words:
        parser.print_help()
        if show_all:
            _print_lists(getattr(cls, "HELP_NOTES", {}))
        sys.exit()
    given = _given(parser, words)
    if not isinstance(given.get("resume"), Path):
        return cls(**given)
    folder = folder_to_resume(given["resume"])
    words = words_of(cls, arguments_of(folder))
    try:
        began_with = _given(parser, words)
    except ValueError as error:
        raise ValueError(f"{folder} is a run of options that this program lacks: {error}") from None
    before = cls(**began_with)
    resumed = cls(**{**began_with, **given})
    for name in set(given) - set(getattr(cls, "FREE_TO_CHANGE", ())):
        was, now = getattr(before, name), getattr(resumed, name)
        if was != now:
            raise ValueError(
                f"the run in {folder} has {_said(name, was)} and can't be resumed with {_said(name, now)}"
            )
    return resumed


def _print_lists(lists: Mapping[str, Sequence[str]]) -> None:
    width = shutil.get_terminal_size().columns - 2
    for title, lines in lists.items():
        print(f"\n{title}:")
        for line in lines:
            print(textwrap.fill(line, width, initial_indent="  - ", subsequent_indent="    "))


def words_of(cls: type, arguments: Mapping[str, Any]) -> list[str]:
    """The command line that says a run's arguments, as its file has them in JSON; what is by default is left out.

    Example:
        >>> @dataclasses.dataclass
        ... class Sizes:
        ...     rows: int = 8
        ...     small: bool = False
        >>> words_of(Sizes, {"rows": 16, "small": True})
        ['--rows', '16', '--small']
    """
    words = []
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name, value in arguments.items():
        default = defaults.get(name)
        if name in getattr(cls, "NOT_KEPT", ()) or value is None:
            continue
        if value == (list(default) if isinstance(default, tuple) else default):
            continue
        if isinstance(value, bool):
            words.append(_flag(name) if value else _flag(f"no_{name}"))
        elif isinstance(value, list):
            words += [_flag(name), *map(str, value)]
        else:
            words += [f"{_flag(name)}={value}"] if str(value).startswith("-") else [_flag(name), str(value)]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _said(name: str, value: Any) -> str:
    """An option as people would write it."""
    if value is None or value is False or value == ():
        return f"no {_flag(name)}"
    if value is True:
        return _flag(name)
    return f"{_flag(name)} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


class _Parser(argparse.ArgumentParser):
    """Whose errors are one sentence, for `cli` to print."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+?)(/\S+)?: ", r"\1 ", message)
        raise ValueError(message.replace("ignored explicit argument", "takes no value; got"))


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=24)


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """What the words say, by name, without what they leave to its default."""
    given, unknown = parser.parse_known_args(list(words))
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        raise ValueError(
            f"there is no option {unknown[0]}" + (f"; perhaps {near[0]}" if near else "; --help lists all")
        )
    return vars(given)


def _parser(cls: type, description: str, *, show_all: bool) -> argparse.ArgumentParser:
    hints, texts, fields = get_type_hints(cls), _texts(cls), {f.name: f for f in dataclasses.fields(cls)}
    groups = _groups(cls)
    more = "" if show_all or ADVANCED not in groups else " --help-all shows the options that few need, too."
    needed = "".join(f" {name.upper()}" for name, field in fields.items() if field.default is dataclasses.MISSING)
    parser = _Parser(
        description=description + more,
        usage=f"%(prog)s{needed} [options]",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # to know what was given
        formatter_class=_Formatter,
    )
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            text, default = texts.get(name, ""), fields[name].default
            if not isinstance(default, bool) and default not in (
                None,
                (),
                dataclasses.MISSING,
            ):  # the text says what these mean
                text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
            hidden = title == ADVANCED and not show_all
            help_text = argparse.SUPPRESS if hidden else text.replace("%", "%%").strip()
            _add(group, name, hints[name], default, help_text)
    return parser


def _groups(cls: type) -> dict[str, list[str]]:
    """Names of fields by group: those of the class itself before those of its bases, the advanced ones last."""
    groups: dict[str, list[str]] = {"task": []}
    for base in cls.__mro__:
        for title, names in vars(base).get("OPTION_GROUPS", {}).items():
            groups.setdefault(title, []).extend(names)
    grouped = set(itertools.chain(*groups.values()))
    groups["task"][:0] = [field.name for field in dataclasses.fields(cls) if field.name not in grouped]
    advanced = {ADVANCED: groups.pop(ADVANCED)} if ADVANCED in groups else {}
    return {title: names for title, names in (groups | advanced).items() if names}


def _texts(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass and its bases, which no object keeps: it is read from the source."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        with contextlib.suppress(OSError, TypeError):  # a class without source, as one of an interactive session
            definition: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            for field, below in itertools.pairwise(definition.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                        texts[name] = " ".join(text.split())
    return texts


def _add(group: Any, name: str, hint: Any, default: Any, text: str) -> None:
    """An option for a field of this type."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) in (Union, types.UnionType) and len(kinds) == 1:  # X | None
        (hint,) = kinds
    if hint is bool:
        flag = _flag(f"no_{name}") if default is True else _flag(name)
        group.add_argument(flag, dest=name, action="store_false" if default is True else "store_true", help=text)
        return
    options: dict[str, Any] = {"help": text, "dest": name}
    if get_origin(hint) is tuple:
        hint, *others = get_args(hint)
        options |= {"nargs": "*" if Ellipsis in others else 1 + len(others), "action": _AsTuple}
    if get_origin(hint) is Literal:
        options |= {"type": _choice(get_args(hint)), "metavar": "{" + ",".join(map(str, get_args(hint))) + "}"}
    else:
        metavar, read = _KINDS[hint]
        options |= {"type": read, "metavar": metavar}
    if default is dataclasses.MISSING:
        group.add_argument(options.pop("dest"), **options | {"metavar": name.upper()})
    else:
        group.add_argument(_flag(name), **options)


class _AsTuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _number(kind: type, what: str) -> Any:
    def read(word: str) -> Any:
        try:
            return kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}; got {word!r}") from None

    return read


def _choice(choices: tuple[Any, ...]) -> Any:
    def read(word: str) -> Any:
        for choice in choices:
            if word == str(choice):
                return choice
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(map(str, choices))}; got {word!r}")

    return read


_KINDS = {
    int: ("N", _number(int, "a whole number")),
    float: ("X", _number(float, "a number")),
    str: ("TEXT", str),
    Path: ("PATH", Path),
}
