"""Where everything on the page comes from: checkpoint, texts, solver, versions, commands."""

from __future__ import annotations

import json
from typing import Any

from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import count, memory, nats
from layerlens.reporting.section import Section
from layerlens.reporting.sections.provenance import commands, fact_list, options, version_facts


def provenance_section(folder: CompressedFolder) -> Section:
    """Facts, commands, and the options in full."""
    plan, curves, evaluation = folder.plan, folder.curves, folder.evaluation
    made = {
        "Plan": _text(plan.metadata.get("command")),
        "Evaluation": evaluation.command if evaluation else None,
    }
    rest = {name: value for name, value in plan.metadata.items() if name not in _SHOWN}
    parts = [
        fact_list(_facts(folder)),
        commands(made),
        options("Options of the plan", _mapping(plan.metadata.get("config"))),
        options("Options of the curves", curves.config if curves else {}),
        options("More of the plan", rest),
    ]
    return Section("provenance", "Provenance", join(parts))


_SHOWN = {"command", "config", "versions", "seed", "notes", "left_out", "only_measured"}


def _facts(folder: CompressedFolder) -> list[tuple[str, Markup | str]]:
    plan, curves, evaluation = folder.plan, folder.curves, folder.evaluation
    model, solver = plan.model, plan.solver
    facts: list[tuple[str, Markup | str]] = [
        ("Model", model.id),
        ("Hash of the model", element("code", model.hash)),
        ("Architecture", f"{model.architecture}, {count(model.num_parameters)} parameters, {memory(model.size_bytes)}"),
        ("Task", plan.task.kind.value),
        (
            "Solver",
            f"{solver.status}: predicted loss {nats(-solver.value)}, bound {nats(-solver.bound)}, gap {max(solver.gap, 0.0):.1g}",
        ),
    ]
    if solver.uniform_value is not None:
        facts.append(("Predicted loss of uniform", folder.loss(-solver.uniform_value)))
    if curves is not None:
        facts += [(f"Text: {name.replace('_', ' ')}", _shown(value)) for name, value in curves.data.items()]
    if evaluation is not None:
        facts.append(("Evaluated", f"{evaluation.model} against {evaluation.against}, {evaluation.task}"))
        facts += [("Machine", evaluation.machine)] if evaluation.machine else []
    seeds = [f"plan {plan.metadata['seed']}"] if "seed" in plan.metadata else []
    seeds += [f"curves {curves.seed}"] if curves else []
    facts += [("Seeds", "; ".join(seeds))] if seeds else []
    versions: dict[str, str] = {**(curves.versions if curves else {})}
    versions |= {str(name): str(version) for name, version in _mapping(plan.metadata.get("versions")).items()}
    versions |= evaluation.versions if evaluation else {}
    return [*facts, *version_facts(versions)]


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: object) -> str:
    """What a metadata entry says, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return count(value) if isinstance(value, int) else str(value)
