"""From the name or path of a suite to a checked suite, its places filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from layerlens.artifacts.store import plain_faults
from layerlens.config.bench import BenchConfig, BenchModel, BenchSuite, BenchTask
from layerlens.config.spellings import output_path
from layerlens.data.sources.stdlib_docs import NAME as STDLIB_DOCS
from layerlens.errors import ConfigError

_PLACE = re.compile(r"\$\{(\w+)\}")
DATA, MODELS = "DATA", "MODELS"
#: As a model's id, the demo's model.
DEMO_MODEL = "demo"
#: Names that LayerLens has itself; a folder beside the suite that is called so is not meant.
_OWN_NAMES = frozenset({DEMO_MODEL, STDLIB_DOCS})
#: Environment variables that fill a place where no option does.
VARIABLES = {DATA: "LAYERLENS_DATA", MODELS: "LAYERLENS_MODELS"}
FLAGS = {DATA: "--data-root", MODELS: "--model-root"}


def known_suites() -> list[str]:
    """Names of the suites that the package holds."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def read_suite(name: str) -> tuple[BenchSuite, Path | None]:
    """Read a suite of the package by its name, or any by its path.

    Returns:
        The suite as written, and the folder of its file; none for one of the package.

    Raises:
        ConfigError: there is no such suite, or it does not fit the schema; every fault is named.
    """
    path = Path(name).expanduser()
    if path.is_file():
        # However the file was reached, its data are the same and bear the same names.
        return _parsed(_text(path), str(path)), path.parent.resolve()
    if name in known_suites():
        return _parsed((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"suite {name}"), None
    raise ConfigError(f"no suite {name!r}: it is no file, and the package holds {', '.join(known_suites())}")


def selected(suite: BenchSuite, config: BenchConfig) -> BenchSuite:
    """The part of a suite that the options ask for.

    Raises:
        ConfigError: the suite has no such model or task.
    """
    changes: dict[str, Any] = {}
    for part in ("models", "tasks"):
        wanted, there = getattr(config, part), getattr(suite, part)
        if wanted is None:
            continue
        if unknown := [name for name in wanted if name not in there]:
            raise ConfigError(f"--{part}: the suite {suite.name} has no {', '.join(unknown)}; it has {', '.join(there)}")
        changes[part] = {name: there[name] for name in there if name in wanted}
    for part in ("arms", "seeds"):
        if getattr(config, part) is not None:
            changes[part] = getattr(config, part)
    if "tasks" in changes:
        models = changes.get("models", suite.models)
        changes["models"] = {name: _meeting(model, changes["tasks"]) for name, model in models.items()}
    try:
        return BenchSuite.model_validate(suite.model_dump(exclude_unset=True) | _dumped(changes))
    except ValidationError as error:
        raise ConfigError.of([_of_a_suite(fault) for fault in plain_faults(error)]) from error


def placed(suite: BenchSuite, folder: Path | None, config: BenchConfig, environment: Mapping[str, str]) -> BenchSuite:
    """Fill in `${DATA}` and `${MODELS}`, and read other relative paths from the suite's folder.

    Args:
        suite: As written.
        folder: Of its file; none for one of the package.
        config: `data_root` and `model_root`.
        environment: Variables, for roots that no option gives.

    Raises:
        ConfigError: a place that nothing fills.
    """
    data = config.data_root or environment.get(VARIABLES[DATA])
    models = (
        config.model_root or environment.get(VARIABLES[MODELS]) or (str(output_path(data).parent / "models") if data else None)
    )
    roots = {DATA: data, MODELS: models}
    faults: list[str] = []
    unfilled: dict[str, list[str]] = {}

    def filled(text: str) -> str:
        for place in _PLACE.findall(text):
            root = roots.get(place)
            if root is None:
                unfilled.setdefault(place, []).append(text)
                return text
            # Whole, so that a suite resumes from whatever folder its roots are named.
            text = text.replace(f"${{{place}}}", str(output_path(root).absolute()))
            if not Path(text).exists():
                faults.append(f"suite {suite.name}: {text} does not exist; see {FLAGS[place]}")
                return text
        beside = folder / text if folder is not None and text not in _OWN_NAMES else None
        return str(beside) if beside is not None and beside.exists() else text

    models_ = {name: model.model_copy(update={"id": filled(model.id)}) for name, model in suite.models.items()}
    tasks = {
        name: task.model_copy(
            update={"data": filled(task.data), "eval_data": None if task.eval_data is None else filled(task.eval_data)}
        )
        for name, task in suite.tasks.items()
    }
    faults += [_unfilled(suite.name, place, texts) for place, texts in unfilled.items()]
    if faults:
        raise ConfigError.of(list(dict.fromkeys(faults)))
    return suite.model_copy(update={"models": models_, "tasks": tasks})


def _unfilled(suite: str, place: str, texts: list[str]) -> str:
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    if place not in FLAGS:
        return f"suite {suite} names {texts[0]}{more}; only ${{DATA}} and ${{MODELS}} can be filled in"
    return f"suite {suite} needs {texts[0]}{more}; say where that is with {FLAGS[place]} or the variable {VARIABLES[place]}"


def _meeting(model: BenchModel, tasks: Mapping[str, BenchTask]) -> BenchModel:
    return model if model.tasks is None else model.model_copy(update={"tasks": [name for name in model.tasks if name in tasks]})


def _dumped(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        part: {name: entry.model_dump(exclude_unset=True) for name, entry in value.items()} if isinstance(value, dict) else value
        for part, value in changes.items()
    }


def _parsed(text: str, where: str) -> BenchSuite:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a date that no calendar has, an integer of thousands of digits
        raise ConfigError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where} holds no mapping; a suite has at least name, models, tasks, arms, seeds and budget")
    try:
        return BenchSuite.model_validate(content)
    except ValidationError as error:
        raise ConfigError.of([f"{where}: {_of_a_suite(fault)}" for fault in plain_faults(error)]) from error


def _of_a_suite(fault: str) -> str:
    return fault.replace("extra inputs are not permitted", "unknown key").replace("field required", "is missing")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _folder() -> Any:
    return files("layerlens") / "suites"
