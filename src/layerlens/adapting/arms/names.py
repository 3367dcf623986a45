"""What a plan is compared with: every arm trains through the same Trainer, from the same head, on the same batches.

full             every parameter of the model
head             the head alone
query+value      PEFT's customary LoRA: rank 8 on query and value (on the fused layer where there is one)
uniform          one rank for every layer
uniform-rslora   the same ranks, scaled by alpha / √rank
mlp              one rank for every layer of the MLPs
random           ranks in proportion to random scores
shuffled         the plan's own sizes, dealt out anew among sites that cost the same
top-gradient     ranks in proportion to the gradient's norm
gradient-init    uniform, started from the whitened gradient's leading directions
adalora          PEFT's AdaLoRA
eva              PEFT's EVA
search           the best of an Optuna search over role sets, depth cuts and ranks that cost as much as the race
search-10x       the same with ten times the cost
no-race          the optimum as planned
layerlens        the plan

All but full, head, query+value and no-race train as many adapter parameters as the plan, to the unit where their layers' widths
can make up that number, else as many as come closest from below; AdaLoRA ends there and starts with half as many ranks more.
"""

from __future__ import annotations

from enum import StrEnum


class ArmName(StrEnum):
    """The arms that can be run."""

    FULL = "full"
    HEAD = "head"
    QUERY_VALUE = "query+value"
    UNIFORM = "uniform"
    UNIFORM_RSLORA = "uniform-rslora"
    MLP = "mlp"
    RANDOM = "random"
    SHUFFLED = "shuffled"
    TOP_GRADIENT = "top-gradient"
    GRADIENT_INIT = "gradient-init"
    ADALORA = "adalora"
    EVA = "eva"
    SEARCH = "search"
    SEARCH_10X = "search-10x"
    NO_RACE = "no-race"
    LAYERLENS = "layerlens"
