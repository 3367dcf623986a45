"""Rank-stabilised LoRA: the update is scaled by alpha / √rank, so that larger ranks do not learn more slowly.

Source: Kalajdzievski (2023), arXiv 2312.03732. Alpha is what LoRA has at the rank of most layers, as where a person switches
rsLoRA on and changes nothing else; at rank 1 both are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerlens.adapting.arms.job import ArmJob, Prepared, base_config, peft_attached
from layerlens.adapting.arms.ranks import uniform_plan
from layerlens.adapting.attach import start_adapters_
from layerlens.artifacts.evaluation import Arm


def run_uniform_rslora(job: ArmJob) -> Arm:
    """Train the uniform arm's ranks with this scaling."""
    plan = uniform_plan(job.plan, job.candidates)
    (rank, _), *_ = Counter(plan.ranks.values()).most_common(1)
    alpha = plan.alpha_over_rank * rank

    @contextmanager
    def prepared() -> Iterator[Prepared]:
        config = base_config(plan, job.task_model.model)
        config.use_rslora, config.lora_alpha, config.alpha_pattern = True, alpha, {}
        with peft_attached(job, config) as adapted:
            start_adapters_(adapted, seed=job.config.seed)
            yield Prepared(adapted, plan.params)

    trained = {"ranks": plan.ranks, "alpha": alpha, "scaling": "alpha/sqrt(rank)", "head": plan.head}
    return job.run_adapters(trained, plan.params, prepared)
