"""What every tool asks of a plan: targets, ranks and alphas, in PEFT's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.peft_lora import alpha_of_rank, pattern_key
from layerlens.artifacts.plan import Plan
from layerlens.errors import ConfigError
from layerlens.words import Method, TaskKind

#: Architectures whose linear layers store the transpose (`Conv1D`), by the `model_type` of their config.
TRANSPOSED_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


@dataclass(frozen=True)
class LoraSettings:
    """A plan of LoRA alone.

    Attributes:
        plan: The plan.
        model: Hub id, or whole path of a local folder.
        ranks: Rank of each adapted layer, by full module path, in alphabetical order.
        alphas: Its alpha; alpha / rank is the same everywhere.
    """

    plan: Plan
    model: str
    ranks: dict[str, int]
    alphas: dict[str, float]

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(self.ranks.values())

    @property
    def alpha(self) -> float:
        """The alpha that belongs to the largest rank."""
        return max(self.alphas.values())

    @property
    def has_one_rank(self) -> bool:
        """Whether every adapted layer has the same rank, so that no pattern is needed."""
        return len(set(self.ranks.values())) == 1

    @property
    def is_transposed(self) -> bool:
        """Whether the layers store the transpose of their weight."""
        return self.plan.model.family in TRANSPOSED_FAMILIES

    @property
    def rank_pattern(self) -> dict[str, int]:
        """Ranks by a pattern that fits one full path and no other."""
        return {pattern_key(layer): rank for layer, rank in self.ranks.items()}

    @property
    def alpha_pattern(self) -> dict[str, float]:
        """Alphas by the same patterns."""
        return {pattern_key(layer): alpha for layer, alpha in self.alphas.items()}

    @property
    def params_of_one_rank(self) -> int:
        """Adapter parameters if every adapted layer had the largest rank."""
        shapes = [(entry.in_features, entry.out_features) for entry in self.plan.adapted]
        return sum(trainable_params(Method.LORA, self.rank, in_features=wide, out_features=high) for wide, high in shapes)


def lora_settings(plan: Plan) -> LoraSettings:
    """Read a plan as PEFT's LoRA.

    Raises:
        ConfigError: it holds bottleneck adapters or prefixes, or adapts nothing.
    """
    others = [entry for entry in plan.adapted if entry.method is not Method.LORA]
    if others:
        named = ", ".join(f"{entry.layer} ({entry.method})" for entry in others[:3])
        raise ConfigError(
            f"the plan holds {len(others)} sites that no other tool knows: {named}{', …' if len(others) > 3 else ''}; "
            "plan again with --methods lora,none, or train it with `layerlens tune`"
        )
    ranks = {layer: plan.ranks[layer] for layer in sorted(plan.ranks)}
    if not ranks:
        raise ConfigError("the plan adapts no layer, so there is nothing to export; plan again with a larger budget")
    alphas = {layer: alpha_of_rank(plan.alpha_over_rank, rank) for layer, rank in ranks.items()}
    folder = Path(plan.model.id).expanduser()
    return LoraSettings(plan, str(folder.resolve()) if folder.is_dir() else plan.model.id, ranks, alphas)


def check_language_model(settings: LoraSettings, tool: str) -> None:
    """Refuse a plan of a task that a tool for language models cannot train, or whose alphas it cannot read.

    Raises:
        ConfigError: the plan's task is another, or an alpha is no whole number.
    """
    plan = settings.plan
    if plan.task.kind is not TaskKind.CAUSAL_LM:
        raise ConfigError(
            f"{tool} trains language models, the plan is of {plan.task.kind}; export it with --to peft, or train it with "
            "`layerlens tune`"
        )
    broken = [f"{layer} has {alpha:g}" for layer, alpha in settings.alphas.items() if alpha != int(alpha)]
    if broken:
        raise ConfigError(
            f"{tool} takes whole alphas alone, and with alpha / rank {plan.alpha_over_rank:g} {broken[0]}; "
            "plan again with a whole --alpha-over-rank, or export with --to peft"
        )
