"""The command line: it translates options into one call of `layerlens.workflow`, and nothing else.

Every option is a field of a config in `layerlens.config`, so that the command line, a YAML file
(`--config`) and Python take the same names. Only the parser of the command that was typed is built, and torch
is imported by the command that needs it, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import ValidationError

from layerlens import __version__
from layerlens.commands import COMMANDS, Command, Option
from layerlens.errors import ConfigError, LayerLensError
from layerlens.models.foreign import model_fault
from layerlens.models.lean_import import import_lean_for
from layerlens.option_help import described_argument, described_field, shown_value
from layerlens.words import Frozen

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

# Threads that wait for each other spin by default, which on a busy machine takes the processor from the very thread they wait
# for: a training step then runs several times longer. Where they never spin, each of LAPACK's many short sections waits to be
# woken, and an eigendecomposition takes three times as long. So they spin for about a tenth of a millisecond. Must be set
# before torch loads its thread pool.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

#: What pydantic takes for true or false.
_TRUTHS = {"true", "false", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0"}
EXIT_DONE, EXIT_CHECK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows `layerlens`; the process's own arguments if not given.

    Returns:
        0 done, 1 a check failed, 2 bad input (one line on stderr), 130 interrupted.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal or pipe of few signs gets `?` for what it lacks, where Python would stop with a traceback.
        sys.stdout.reconfigure(errors="replace")
    typed = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in typed
    typed = [argument for argument in typed if argument != "--debug"]
    if not typed or typed[0] in ("-h", "--help", "help"):
        print(_overview())
        return EXIT_DONE
    if typed[0] == "--version":
        print(f"layerlens {__version__}")
        return EXIT_DONE
    _quieten(is_debug=is_debug)
    try:
        return _run(typed[0], typed[1:], is_own_process=arguments is None)
    except KeyboardInterrupt:
        print("layerlens: interrupted; type the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        told = str(error) if isinstance(error, LayerLensError) else model_fault(error)
        if told is None:
            raise
        if is_debug:
            traceback.print_exception(error)
        print(f"layerlens: {' '.join(told.split())}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _run(name: str, typed: Sequence[str], *, is_own_process: bool) -> int:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if any(argument in ("-h", "--help") for argument in typed):
        _parser(name, command).print_help()
        return EXIT_DONE
    values = _parse(_parser(name, command), _spelt_out(command, _respelt(command, typed)))
    call: dict[str, Any] = {_key(option): values.pop(_key(option)) for option in command.options}
    if missing := [option.name for option in command.options if option.is_required and call[_key(option)] is None]:
        raise ConfigError(f"{name}: missing {', '.join(missing)}; see `layerlens {name} --help`")
    if command.config is not None:
        call["config"] = _config(command.config, {key: value for key, value in values.items() if value is not None})
    if is_own_process:
        import_lean_for(call.get("config"))
    from layerlens.terminal import TerminalProgress

    call["command"] = shlex.join(["layerlens", name, *typed])
    run: Callable[..., Any] = getattr(import_module(f"layerlens.workflow.{name}"), name)
    show: Callable[[Any], bool] = getattr(import_module("layerlens.tables"), f"show_{name}")
    with TerminalProgress() as progress:
        result = run(**call, progress=progress)
    return EXIT_DONE if show(result) else EXIT_CHECK_FAILED


def _config(model: type[Frozen], given: dict[str, Any]) -> Frozen:
    """Build a config from what was typed; every fault names its flag."""
    from layerlens.artifacts.store import plain_faults

    try:
        return model(**given)
    except ValidationError as error:
        flags = {field: _flag(field) for field in model.model_fields}
        named = []
        for fault in plain_faults(error):
            where, colon, rest = fault.partition(": ")
            named.append(f"{flags.get(where.partition('.')[0], where)}{colon}{rest}")
        raise ConfigError.of(named) from error


def _parser(name: str, command: Command) -> ArgumentParser:
    from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]

    class ConfigFile(ActionConfigFile):
        """Names the file whose keys or form are wrong."""

        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            known = set(vars(namespace))
            try:
                super().__call__(parser, namespace, values, option_string)
            except (ArgumentError, TypeError, ValueError) as error:
                fault = str(error).removeprefix(f'Parser key "{self.dest}": ')
                raise ConfigError(f"--config {values}: {fault}; see `{parser.prog} --help`") from error
            if unknown := sorted(set(vars(namespace)) - known):
                raise ConfigError(f"--config {values}: unknown key {', '.join(unknown)}; see `{parser.prog} --help`")

    class Formatter(DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            return str(action.help)  # `option_help` names the defaults

    positional = " ".join(_key(option).upper() for option in command.options if not option.name.startswith("--"))
    parser = ArgumentParser(
        prog=f"layerlens {name}",
        usage=" ".join(f"layerlens {name} {positional} [options]".split()),
        description=command.help,
        exit_on_error=False,
        default_env=False,
        formatter_class=Formatter,
        print_config=None,
    )
    for option in command.options:
        told = described_argument(option)
        if option.is_switch:
            parser.add_argument(option.name, action="store_true", help=told)
        elif option.name.startswith("--"):
            parser.add_argument(option.name, default=option.default, help=told, metavar=_key(option).upper())
        else:
            parser.add_argument(option.name, nargs="?", help=told, metavar=_key(option).upper())
    if command.config is None:
        return parser
    spellings: dict[str, list[str]] = {}
    for alias, flag in command.aliases:
        spellings.setdefault(flag, []).append(alias)
    parser.add_argument("--config", action=ConfigFile, help="YAML file with any of the options below")
    for field, info in command.config.model_fields.items():
        flag = _flag(field)
        form: dict[str, Any] = {"metavar": shown_value(field, info.annotation)}
        if info.annotation is bool:
            form |= {"nargs": "?", "const": "true"}
        elif _takes_several(info.annotation):
            form |= {"action": _Together}
        # The config checks and converts every value, so that one place says what is wrong with it.
        parser.add_argument(flag, *spellings.get(flag, []), type=_as_given, default=None, help=described_field(info), **form)
    return parser


class _Typed(str):
    """Values that were typed: what is typed after them adds to them, where it takes the place of what a file says."""


class _Together(argparse.Action):
    """A list or a mapping that may be typed in parts: `--keep a --keep b` means `--keep a,b`."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, _Typed(f"{before},{values}" if isinstance(before, _Typed) else values))


def _takes_several(annotation: Any) -> bool:
    """Whether a field is a list or a mapping, optional or not."""
    if get_origin(annotation) is Annotated:
        return _takes_several(get_args(annotation)[0])
    return get_origin(annotation) in (list, dict) or (
        NoneType in get_args(annotation) and any(map(_takes_several, get_args(annotation)))
    )


def _parse(parser: ArgumentParser, typed: Sequence[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentError

    try:
        parsed: Namespace = parser.parse_args(list(typed))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"{' '.join(str(error).split())}; see `{parser.prog} --help`") from error
    values = {key.replace("-", "_"): value for key, value in vars(parsed).items() if key != "config"}
    return {key: value for key, value in values.items() if not key.startswith("__")}


def _respelt(command: Command, typed: Sequence[str]) -> list[str]:
    """What was typed, with older spellings as they are now; arguments come first."""
    new = dict(command.spellings)
    arguments: list[str] = []
    flags: list[str] = []
    rest = iter(typed)
    for word in rest:
        flag, equals, value = word.partition("=")
        target = new.get(flag)
        if target is None:
            flags.append(word)
        elif target.startswith("--"):
            flags.append(target + equals + value)
        else:
            arguments.append(value if equals else next(rest, ""))
    return [*arguments, *flags]


def _spelt_out(command: Command, typed: Sequence[str]) -> list[str]:
    """What was typed, in one way where there are several: `--keep a b` as `--keep a --keep b`, `--leave-one-out` as `=true`.

    Words behind a list are its own only where the command's argument stands first, and a word behind a switch is the argument
    only where it does not.
    """
    if command.config is None or not typed:
        return list(typed)
    fields = command.config.model_fields.items()
    if typed[0].startswith("-"):
        switches = {_flag(name) for name, info in fields if info.annotation is bool}
        following = [*typed[1:], ""]
        return [
            f"{word}=true" if word in switches and after.lower() not in _TRUTHS else word
            for word, after in zip(typed, following, strict=True)
        ]
    several = {_flag(name) for name, info in fields if _takes_several(info.annotation)}
    several |= {alias for alias, flag in command.aliases if flag in several}
    words: list[str] = []
    flag, is_first = None, True
    for word in typed:
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            flag, is_first = name if name in several else None, not equals
        elif flag is not None:
            words += [] if is_first else [flag]
            is_first = False
        words.append(word)
    return words


def _as_given(value: Any) -> Any:
    return value


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _key(option: Option) -> str:
    return option.name.removeprefix("--").replace("-", "_")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: layerlens COMMAND ...",
            "",
            "Looks at every layer of a pretrained transformer and spends a budget where it counts.",
            "",
            *lines,
            "",
            "`layerlens COMMAND --help` lists a command's options; --debug shows tracebacks and every layer's numbers;",
            "--version prints the version. Exit code 0 done, 1 a check failed, 2 bad input.",
        ]
    )


def _quieten(*, is_debug: bool) -> None:
    """Other libraries' bars and banners would bury the one line that matters; with --debug they may speak."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("layerlens").setLevel(logging.DEBUG if is_debug else logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not is_debug:
        for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
