"""Whether a compression plan, or the curves behind it, add up: sizes, sums, bits per weight, budgets, ties."""

from __future__ import annotations

import math
from pathlib import Path

from layerlens.artifacts.compression import CompressionPlan, Curves, PlanMatrix, load_compression_plan
from layerlens.artifacts.formats import Format, size_bytes
from layerlens.errors import ManifestError
from layerlens.words import BudgetName

#: Bytes that a number in a checkpoint may have.
ELEMENT_BYTES = (1, 2, 4, 8)
#: Faults that an error names.
NAMED = 5


def inconsistencies(plan: CompressionPlan) -> list[str]:
    """Say where a compression plan does not add up; an empty list means that it does."""
    faults = _repeated([(entry.layer, entry.tied) for entry in plan.layers])
    for entry in plan.layers:
        faults += _matrix_faults(entry)
    size = plan.model.other_bytes + sum(entry.size_bytes for entry in plan.layers)
    if plan.size_bytes != size:
        faults.append(f"size_bytes says {plan.size_bytes:,}, other_bytes and the layers add up to {size:,}")
    numbers = sum(entry.out_features * entry.in_features for entry in plan.layers)
    if numbers > plan.model.num_parameters:
        faults.append(
            f"the layers hold {numbers:,} numbers, the model only {plan.model.num_parameters:,}; is a tied one counted twice?"
        )
    bits = 8 * plan.size_bytes / plan.model.num_parameters
    if not math.isclose(plan.bits_per_weight, bits, rel_tol=1e-9):
        faults.append(f"bits_per_weight says {plan.bits_per_weight:g}, {plan.size_bytes:,} bytes are {bits:g}")
    budget = plan.budgets.get(BudgetName.SIZE_BYTES)
    if budget is None:
        faults.append("budgets has no size_bytes")
    else:
        if budget.spent != plan.size_bytes:
            faults.append(f"budgets.size_bytes.spent says {budget.spent:,.0f}, the plan takes {plan.size_bytes:,}")
        if budget.limit is not None and plan.size_bytes > budget.limit:
            faults.append(f"budgets.size_bytes: {plan.size_bytes:,} bytes are over the limit {budget.limit:,.0f}")
    loss = math.fsum(entry.predicted_loss for entry in plan.layers)
    if not math.isclose(plan.chosen.value, -loss, rel_tol=1e-6, abs_tol=1e-12):
        faults.append(f"chosen.value says {plan.chosen.value:g}, minus the layers' predicted losses is {-loss:g}")
    if plan.solver.bound < plan.solver.value - 1e-9 * abs(plan.solver.value):
        faults.append(f"solver.bound {plan.solver.bound:g} is below its value {plan.solver.value:g}")
    return faults


def curve_inconsistencies(curves: Curves) -> list[str]:
    """Say where curves do not add up: bytes of options, matrices that stand twice, more bytes than the checkpoint has."""
    faults = _repeated([(matrix.layer, matrix.tied) for matrix in curves.matrices])
    kept = curves.model.other_bytes
    for matrix in curves.matrices:
        kept += matrix.out_features * matrix.in_features * matrix.kept_element_bytes
        for option in matrix.options:
            needed = size_bytes(option.scheme, matrix.out_features, matrix.in_features, matrix.kept_element_bytes)
            if option.size_bytes != needed:
                faults.append(f"{matrix.layer}: {option.scheme.name} says {option.size_bytes:,} bytes, it takes {needed:,}")
    if kept > curves.model.size_bytes:
        faults.append(
            f"model.size_bytes says {curves.model.size_bytes:,}, other_bytes and the matrices as kept are more: {kept:,}"
        )
    return faults


def load_checked_plan(folder: Path) -> CompressionPlan:
    """Read `plan.json` of a compressed folder and refuse one that does not add up.

    Raises:
        ManifestError: it is missing, damaged, of another schema, or does not add up.
    """
    plan = load_compression_plan(folder)
    if faults := inconsistencies(plan):
        raise ManifestError(f"{folder}: plan.json does not add up: {'; '.join(faults[:NAMED])}; compress again")
    return plan


def _repeated(layers: list[tuple[str, list[str]]]) -> list[str]:
    """Names that stand for two matrices: as a layer of their own, or as one tied to another."""
    seen: set[str] = set()
    faults = []
    for layer, tied in layers:
        for name in (layer, *tied):
            if name in seen:
                faults.append(f"{name}: stands twice, on its own or tied")
            seen.add(name)
    return faults


def _matrix_faults(entry: PlanMatrix) -> list[str]:
    scheme, where = entry.scheme, entry.layer
    faults = []
    if (entry.format, entry.rank, entry.bits) != (scheme.name, scheme.rank, scheme.bits):
        faults.append(f"{where}: says {entry.format}, rank {entry.rank}, {entry.bits} bits; its scheme is {scheme.name}")
    if scheme.rank > min(entry.out_features, entry.in_features):
        faults.append(f"{where}: rank {scheme.rank} is above the matrix, {entry.out_features} x {entry.in_features}")
    if scheme.format is Format.KEEP:
        numbers = entry.out_features * entry.in_features
        if entry.size_bytes not in {numbers * each for each in ELEMENT_BYTES}:
            faults.append(f"{where}: {entry.size_bytes:,} bytes are no whole bytes for each of {numbers:,} numbers")
        return faults
    needed = size_bytes(scheme, entry.out_features, entry.in_features, 0)
    if entry.size_bytes != needed:
        faults.append(f"{where}: size_bytes says {entry.size_bytes:,}, {scheme.name} takes {needed:,}")
    return faults
