"""Where everything on the page comes from: model, data, seeds, versions, machine, seconds, commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from layerlens.artifacts.layers import ModelInfo
from layerlens.artifacts.profile import Timing
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import count, counted, duration
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Column, Section, table


def provenance_section(run: RunFolder) -> Section:
    """Facts, commands, seconds of each stage, and the options in full."""
    parts = [
        fact_list(_facts(run)),
        commands(
            {
                "Profile": run.profile.command if run.profile else None,
                "Plan": run.plan.metadata.command if run.plan else None,
                "Evaluation": run.evaluation.command if run.evaluation else None,
            }
        ),
        _stages(run.timing) if run.timing and run.timing.stages else None,
        options("Options of the plan", run.plan.metadata.optimization if run.plan else {}),
        options("Options of the profile", run.profile.config if run.profile else {}),
        options("Details of the race", run.plan.race.details if run.plan and run.plan.race else {}),
        options("Details of the evaluation", run.evaluation.details if run.evaluation else {}),
    ]
    return Section("provenance", "Provenance", join(parts))


def _facts(run: RunFolder) -> list[tuple[str, Markup | str]]:
    facts: list[tuple[str, Markup | str]] = []
    model = run.plan.model if run.plan else run.profile.model if run.profile else None
    if model is not None:
        facts += _model(model)
    elif run.evaluation is not None:
        facts.append(("Model", run.evaluation.model))
    if run.profile is not None:
        profile = run.profile
        data = profile.data
        columns = ", ".join(f"{name}: {column}" for name, column in data.columns.items())
        facts += [
            ("Calibration data", f"{data.id}{f' ({columns})' if columns else ''}"),
            ("Hash of the calibration samples", element("code", data.hash)),
            (
                "Calibrated on",
                f"{count(data.num_samples)} samples, {count(data.num_tokens)} tokens; Grams on {count(data.gram_tokens)} tokens",
            ),
            ("Labels of the Fisher", profile.fisher_labels),
            ("Loss before any training", f"{profile.base_loss:.4f} nats"),
        ]
        if (fit := profile.head_fit) is not None:
            spent = f"{count(fit.steps)} steps on {count(fit.num_samples)} samples"
            text = f"{fit.loss_before:.3f} → {fit.loss_after:.3f} nats in {spent}"
            facts.append(("Task head, fitted first", f"{text}; held out {fit.held_out_loss:.3f}"))
        if (proxy := profile.proxy) is not None:
            which = (
                "every layer"
                if proxy.is_complete
                else f"{proxy.num_measured} of {len(profile.layers)} layers, the rest interpolated"
            )
            facts.append(("Proxies", f"measured on {which}: {proxy.steps} steps at rank {proxy.rank}"))
        if profile.is_roles_guessed:
            facts.append(("Roles", "guessed from the module tree: this architecture is not known"))
    elif run.plan is not None:
        facts.append(("Profile", run.plan.metadata.profile))
    if run.plan is not None:
        facts.append(("Identity of the profile", element("code", run.plan.metadata.profile_identity)))
        weights = ", ".join(f"{name} {weight:g}" for name, weight in run.plan.metadata.metric_weights.items())
        facts += [("Weights of the utility", weights)] if weights else []
    facts += _seeds_and_machine(run)
    return facts


def _model(model: ModelInfo) -> list[tuple[str, Markup | str]]:
    return [
        ("Model", model.id),
        ("Hash of the model", element("code", model.hash)),
        (
            "Architecture",
            f"{model.architecture} ({model.family}), {count(model.num_parameters)} parameters, {model.weight_dtype}",
        ),
    ]


def _seeds_and_machine(run: RunFolder) -> list[tuple[str, Markup | str]]:
    facts: list[tuple[str, Markup | str]] = []
    seeds = [f"profile {run.profile.seed}"] if run.profile else []
    seeds += [f"plan {run.plan.metadata.seed}"] if run.plan else []
    if run.evaluation is not None:
        facts.append(("Evaluation", f"{run.evaluation.task}, {count(run.evaluation.eval_samples)} samples"))
        seeds.append("arms " + ", ".join(str(seed) for seed in sorted({arm.seed for arm in run.evaluation.arms})))
        facts += [("Machine", run.evaluation.machine)] if run.evaluation.machine else []
    if run.timing is not None:
        facts.append(("Profile was timed on", f"{run.timing.device}, {counted(run.timing.threads, 'thread')}"))
    facts += [("Seeds", "; ".join(seeds))] if seeds else []
    versions: dict[str, str] = {}
    for source in (run.profile, run.plan.metadata if run.plan else None, run.evaluation):
        versions |= source.versions if source else {}
    return [*facts, *version_facts(versions)]


def fact_list(facts: Sequence[tuple[str, Markup | str]]) -> Markup:
    """Names and what they stand for."""
    return element("dl", join(join([element("dt", name), element("dd", value)]) for name, value in facts), class_="facts")


def version_facts(versions: Mapping[str, str]) -> list[tuple[str, Markup | str]]:
    """The packages that a run was made with, as one fact; none where none are known."""
    return [("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))] if versions else []


def commands(made: Mapping[str, str | None]) -> Markup | None:
    """The commands by what they made; a command that made several things stands once."""
    by_command: dict[str, list[str]] = {}
    for what, command in made.items():
        if command:
            by_command.setdefault(command, []).append(what)
    if not by_command:
        return None
    items = [
        join([element("p", " and ".join(what), class_="what"), element("pre", element("code", command))])
        for command, what in by_command.items()
    ]
    return join([element("h3", "Made by"), *items])


def _stages(timing: Timing) -> Markup:
    total = sum(timing.stages.values())
    rows = [
        [stage, duration(seconds), f"{100 * seconds / total:.0f} %" if total else "–"] for stage, seconds in timing.stages.items()
    ]
    rows.append(["total", duration(total), ""])
    columns = [Column("Stage"), Column("Seconds", is_number=True), Column("Share", is_number=True)]
    return element(
        "div",
        element("h3", "Seconds of the profile"),
        table("Seconds of each stage of the profile", columns, rows),
        class_="small",
    )


def options(title: str, content: Mapping[str, Any]) -> Markup | None:
    """Settings in full, folded away."""
    if not content:
        return None
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return element("details", element("summary", title), element("pre", element("code", text)))
