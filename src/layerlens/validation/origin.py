"""Was the plan made from this profile, of this model?"""

from __future__ import annotations

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import Profile
from layerlens.artifacts.validation import Check
from layerlens.validation.judging import holds, not_applicable
from layerlens.words import Site

ROUNDING = 1e-9


def check_origin(plan: Plan, profile: Profile | None) -> list[Check]:
    """Compare model, identity, layers, shapes and utilities of plan and profile."""
    name, target = "profile_match", "same model, profile, layers and utilities"
    meaning = "The plan comes from this profile and was not edited since; not that the model on disk is still the one profiled."
    if profile is None:
        return [not_applicable(name, target, value="the profile is not at hand", meaning=meaning)]
    faults = differences(plan, profile)
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    return [holds(name, not faults, value=shown or "all match", target=target, meaning=meaning)]


def differences(plan: Plan, profile: Profile) -> list[str]:
    """Say where a plan is not of a profile; an empty list means that it is."""
    faults = []
    if plan.model.hash != profile.model.hash:
        faults.append(
            f"the plan is of model {plan.model.id} ({plan.model.hash[:12]}), "
            f"the profile of {profile.model.id} ({profile.model.hash[:12]})"
        )
    if plan.metadata.profile_identity != profile.identity:
        faults.append(f"plan was made from profile {plan.metadata.profile_identity[:12]}, this one is {profile.identity[:12]}")
    measured = {layer.layer: layer for layer in profile.layers}
    entries = {entry.layer: entry for entry in plan.layers if entry.site is Site.LINEAR}
    faults += [f"{layer}: planned but never profiled" for layer in entries if layer not in measured]
    faults += [
        f"{name}: profiled but not in the plan" for name, layer in measured.items() if name not in entries and not layer.is_idle
    ]
    for name, entry in entries.items():
        if (layer := measured.get(name)) is None:
            continue
        if (entry.in_features, entry.out_features) != (layer.in_features, layer.out_features):
            faults.append(
                f"{name}: {entry.out_features} × {entry.in_features} in the plan, "
                f"{layer.out_features} × {layer.in_features} in the profile"
            )
        if abs(entry.utility - layer.utility) > ROUNDING:
            faults.append(f"{name}: utility {entry.utility:g} in the plan, {layer.utility:g} in the profile")
    return faults
