"""What a person should know about a plan: how its costs are meant, and where it deserves doubt."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from layerlens.artifacts.plan import Budget, PlanLayer, Solver
from layerlens.artifacts.profile import Profile
from layerlens.budget.costs import CostModel
from layerlens.budget.prices import PriceList
from layerlens.budget.values import cost_rates, measured_shares, share_of_lora
from layerlens.config import BaseFormat, OptimizationConfig, default_max_rank
from layerlens.words import BudgetName, Method

LOW_SPREAD, LOW_UTILISATION, SMALL_LEAD, LIGHT_WEIGHT = 0.2, 0.7, 0.02, 0.01


def assumptions_of(profile: Profile, costs: CostModel, config: OptimizationConfig) -> list[str]:
    """How the costs and the values in this plan are meant."""
    measured = measured_shares(profile)
    others = [method for method in config.candidate_methods if method not in (Method.LORA, Method.NONE)]
    return [
        f"training memory and FLOPs at batch {costs.batch_size}, {costs.length} tokens per sample, in float32 without gradient "
        f"checkpointing, {costs.optimizer_bytes} bytes of optimiser state per trainable parameter",
        _memory_counted(profile),
        *_base_held(config),
        "FLOPs are those of the planned layers and of attention: embeddings and head, a language model's product with its "
        "vocabulary among it, are the same in every plan and left out",
        "latency is added per token at batch 1 while the LoRA is unmerged; merged into the weights it adds none",
        "time and memory count a backward pass only down to the lowest adapted block",
        f"time is that of {costs.epochs:g} passes over the data: blocks below the lowest adapted one run in the first alone, and "
        f"what they give, {costs.kept_bytes_per_sample / 1024:,.0f} KiB a sample, is kept beside the priced memory, or in a file",
        f"LoRA scaling alpha / r is {config.alpha_over_rank:g} in every layer",
        *(
            f"{method} is valued at {share_of_lora(profile, method):.2g} of a LoRA of as many parameters, "
            + (
                "as the profile measured at a few sites"
                if method in measured
                else "a cautious guess: the profile did not measure it"
            )
            for method in others
        ),
    ]


def _base_held(config: OptimizationConfig) -> list[str]:
    """What a base in few bits changes, and what of it is not priced."""
    if config.base_format is BaseFormat.AS_IS:
        return []
    return [
        f"memory is that over a base whose planned layers are held as {config.base_format}, with the matrices that a product "
        f"decodes for a moment: train with --base-format {config.base_format}; time, FLOPs and latency are those over the base "
        "in its own numbers"
    ]


def _memory_counted(profile: Profile) -> str:
    """What the priced memory holds beside weights, adapters and optimiser."""
    if profile.step_memory is None:
        return (
            "the profile is of an earlier version, and memory is priced too low: without head and loss, a language model's "
            "logits among them, and without gradients of activations; profile again"
        )
    return (
        "memory is that of a step's tensors in float32, with torch's fused attention where it has one and without the model's "
        "own dropout (profiles of earlier versions count that): what blocks, head and loss keep, and the most that gradients of "
        "the outputs, or the passes of one block, take beside; the libraries' own comes on top, and with --dropout true what "
        "that keeps"
    )


def notes_of(
    profile: Profile,
    config: OptimizationConfig,
    name: str,
    layers: Sequence[PlanLayer],
    budgets: Mapping[BudgetName, Budget],
    solver: Solver,
    longest_curve: int,
    stopped: Sequence[BudgetName],
) -> list[str]:
    """Guessed roles, flat utilities, unspent budgets, and a uniform plan that would do as well.

    Args:
        profile: What was planned from.
        config: Budgets and preferences.
        name: Of the candidate.
        layers: What it gives each site.
        budgets: What it spends.
        solver: The optimum beside it.
        longest_curve: The largest rank that a gain was measured at.
        stopped: The budgets that what would gain more is too dear for.
    """
    notes = []
    if profile.is_roles_guessed:
        notes.append(f"the architecture {profile.model.family} is not known: roles are guessed from the module tree")
    utilities = [layer.utility for layer in profile.layers]
    mean = statistics.fmean(utilities)
    spread = statistics.pstdev(utilities) / mean if mean > 0 else 0.0
    if spread < LOW_SPREAD:
        notes.append(f"the utilities hardly tell layers apart (coefficient of variation {spread:.2f}, under {LOW_SPREAD})")
    if solver.value <= 0 and config.is_weighted:
        notes.append("under these objective weights every plan costs more than it gains: the plan is uniform")
    elif solver.value <= 0:
        notes.append(
            f"no layer shows a gain beyond noise on {profile.data.num_samples} samples: the plan is uniform; profile more samples"
        )
    if (config.max_rank or 0) > longest_curve:
        notes.append(
            f"the gain curves end at rank {longest_curve}: no gain is predicted beyond; "
            f"profile again with a max_rank of {config.max_rank} to know"
        )
    notes += _utilisation(profile, config, layers, budgets, stopped)
    uniform = solver.uniform_value
    if name.startswith("optimum") and uniform is not None and solver.value > 0 and uniform >= (1 - SMALL_LEAD) * solver.value:
        notes.append(f"uniform would have done about as well: predicted {uniform:.4g} against {solver.value:.4g}")
    return notes


def _utilisation(
    profile: Profile,
    config: OptimizationConfig,
    layers: Sequence[PlanLayer],
    budgets: Mapping[BudgetName, Budget],
    stopped: Sequence[BudgetName],
) -> list[str]:
    """One sentence per budget that is little spent: what stopped it."""
    used = {key: budget.spent / (budget.limit * config.max_utilisation) for key, budget in budgets.items() if budget.limit}
    if not used:
        return []
    tightest = max(used, key=lambda key: used[key])
    if used[tightest] >= LOW_UTILISATION:
        why = f"{tightest.value} is {used[tightest]:.0%} spent and stopped it"
    elif stopped:
        why = f"what would gain more takes more of {' or '.join(stopped)} than is left"
    else:
        why = _no_budget_stopped(profile, config, layers)
    return [f"only {share:.0%} of {key.value} is spent: {why}" for key, share in used.items() if share < LOW_UTILISATION]


def light_latency(config: OptimizationConfig, costs: CostModel, prices: PriceList) -> list[str]:
    """One sentence where latency has a weight that decides nothing, for want of a budget that it would be a share of."""
    rate = cost_rates(config, costs).get(BudgetName.LATENCY_MS, 0.0)
    if not rate or config.latency_target_ms is not None:
        return []
    slowest = int(prices.options[prices.names.index(BudgetName.LATENCY_MS)].max(axis=1).sum())
    if rate * slowest >= LIGHT_WEIGHT * config.objective_weights["utility"]:
        return []
    share = rate * slowest / config.objective_weights["latency"]
    return [
        "the weight of latency hardly counts: without a target, what is added per token counts as a share of the model's forward "
        f"pass over a batch, {100 * share:.2g}% at most; give --latency-target-ms for it to count as a share of that target"
    ]


def _no_budget_stopped(profile: Profile, config: OptimizationConfig, layers: Sequence[PlanLayer]) -> str:
    largest = config.max_rank or default_max_rank(profile.model.hidden_size)
    adapted = [layer for layer in layers if layer.method is Method.LORA]
    capped = sum(layer.size >= min(largest, layer.in_features, layer.out_features) for layer in adapted)
    if adapted and capped == len(adapted):
        return f"every adapted layer has the largest rank allowed, {largest}; a larger --max-rank would spend more"
    if capped:
        return f"{capped} layers have the largest rank allowed, {largest}, and the others would gain nothing by more"
    return "more would cost more than it gains" if config.is_weighted else "more would gain nothing beyond noise"
