"""Planning, measuring what the plan chose, and planning again: the rounds between curves and the race.

    plan ──► options far from any probe ──► each measured alone ──► anchors of their families ──► plan ──► … ──► race

Every round is saved with the curves, so a run that was stopped goes on, and another size starts from all that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from layerlens.artifacts.compression import CompressionPlan, Curves, MatrixCurve, Option, Probe
from layerlens.artifacts.store import sha256_of_json
from layerlens.budget.compression import CompressionPlans, plan_compression
from layerlens.budget.compression_candidates import OPTIMUM
from layerlens.compressing.family_anchors import family_anchored, far_from_probes, few_per_family
from layerlens.compressing.held_out import chosen_options
from layerlens.config import CompressConfig
from layerlens.progress import SILENT, Progress

#: Rounds of measuring for one target at most.
MAX_ROUNDS = 2
#: What decides a plan, of all that a config says.
_OF_PLANS = {
    *("size", "bits_per_weight", "cosine", "rank", "quant_bits", "min_dim", "keep", "first_block_rank", "last_block_rank"),
    *("role_ranks", "rank_floor", "widths", "formats", "group_by"),
}


def settled_plans(
    curves: Curves,
    config: CompressConfig,
    probe: Callable[[Sequence[tuple[MatrixCurve, Option]]], Mapping[str, Probe]],
    *,
    probes_all: bool,
    command: str = "",
    save: Callable[[Curves], None] = lambda curves: None,
    progress: Progress = SILENT,
) -> tuple[CompressionPlans, Curves]:
    """Plan, and measure what the optimum picks until every pick has a probe near it.

    Where the optimum misses the cosine that is asked for, the picks are those of the smallest plan that reaches it.

    Args:
        curves: Anchored; with family probes of earlier runs.
        config: The target and the policies; `probes` may forbid all measuring.
        probe: Measures each of some matrices alone, at the option beside it.
        probes_all: Every pick is measured; otherwise a few of each role and family, and the rest read off by depth.
        command: The invocation, for the record.
        save: Keeps the curves of a round.
        progress: Who watches.

    Returns:
        Everything that races, and the curves that it was planned from.

    Raises:
        LayerLensError: as `plan_compression` and `HeldOut.probes`.
    """
    target = sha256_of_json(config.model_dump(mode="json", include=_OF_PLANS))
    plans = plan_compression(curves, config, command=command)
    before, num_measured = _predicted(plans), 0
    while config.probes != "off" and curves.rounds.get(target, 0) < MAX_ROUNDS:
        wanted = far_from_probes(chosen_options(curves, _best_foretold(plans)))
        wanted = wanted if probes_all else few_per_family(wanted, curves)
        if not wanted:
            break
        curves = family_anchored(curves, probe(wanted))
        curves = curves.model_copy(update={"rounds": {**curves.rounds, target: curves.rounds.get(target, 0) + 1}})
        save(curves)
        num_measured += len(wanted)
        plans = plan_compression(curves, config, command=command)
    if num_measured:
        progress.note(
            f"choices of the plan that lay far from any probe, measured alone: {num_measured}; planned again, it is "
            f"predicted to lose {_predicted(plans):.4g} where {before:.4g} was predicted before"
        )
    return plans, curves


def probed_choices(curves: Curves) -> list[str]:
    """One sentence on the choices that were measured alone, for one size or another; none where none were."""
    counts = [len(matrix.family_probes) for matrix in curves.matrices if matrix.family_probes]
    if not counts:
        return []
    return [
        f"options of plans that lay far from what their matrix was probed at, measured alone too: {sum(counts)}; they anchor "
        f"the losses of their family in {len(counts)} of {len(curves.matrices)} matrices"
    ]


def _predicted(plans: CompressionPlans) -> float:
    return sum(layer.predicted_loss for layer in _best_foretold(plans).layers)


def _best_foretold(plans: CompressionPlans) -> CompressionPlan:
    """The optimum; where it misses the cosine asked for, the plan that does not."""
    return plans.candidates.get(OPTIMUM, plans.plan)
