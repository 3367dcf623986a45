"""What every tool asks of a plan: targets, ranks and alphas, in PEFT's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.peft_lora import alpha_of_rank, pattern_key
from layerlens.artifacts.plan import Plan
from layerlens.errors import ConfigError
from layerlens.words import Method, TaskKind

#: Architectures whose linear layers store the transpose (`Conv1D`), by the `model_type` of their config.
TRANSPOSED_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
#: A hub id, and its owner apart: a few old models have none, and then nothing tells the id from a folder's name.
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


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
        ConfigError: it holds bottleneck adapters or prefixes, or adapts nothing, or its model is neither a folder nor a hub id.
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
    return LoraSettings(plan, _model_of(plan), ranks, alphas)


def _model_of(plan: Plan) -> str:
    """The plan's model by a name that holds wherever the export is used: the whole path of a folder, or a hub id."""
    model = plan.model.id
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    found = _HUB_ID.fullmatch(model)
    if found is None or not (found[1] or _is_in_hub_cache(model)):
        raise ConfigError(
            f"the plan's model {model} is no folder here, and no hub id such as owner/name; export from where it was profiled"
        )
    return model


def _is_in_hub_cache(model: str) -> bool:
    """Whether a model of this name was fetched from the hub on this machine."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "config.json"), str)


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
