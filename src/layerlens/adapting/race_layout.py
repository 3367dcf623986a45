"""A race before it runs: who may be in it, who of them can be afforded, for how long, and on which samples."""

from __future__ import annotations

from dataclasses import dataclass

from layerlens.adapting.halving import Rung, lay_out, total_cost
from layerlens.adapting.num_steps import num_tuning_steps
from layerlens.adapting.prior import field_order
from layerlens.adapting.samples import Samples, choose
from layerlens.artifacts.plan import UNIFORM, Plan, foreign_candidates
from layerlens.config import RaceConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError, DataError, ManifestError

#: Fewer held-out samples cannot be split into two halves that mean anything.
FEWEST_HELD_OUT = 8


@dataclass(frozen=True)
class Layout:
    """What is settled before a step is trained.

    Args:
        runnable: Every candidate that may be chosen, by name in order.
        field: Who races, those first that race when not all can.
        unraced: Who is left out for want of steps.
        rungs: The rounds; none where there is nobody to race against.
        training: Samples that are trained on.
        held_out: Samples that decide.
        tuning_steps: Steps of the tuning run that the race's share refers to.
    """

    runnable: dict[str, Plan]
    field: list[str]
    unraced: list[str]
    rungs: tuple[Rung, ...]
    training: Samples
    held_out: Samples
    tuning_steps: int

    @property
    def share(self) -> float:
        """Steps of the whole race over those of the tuning run."""
        return total_cost(self.rungs) / self.tuning_steps


def race_layout(plan: Plan, candidates: dict[str, Plan], data: LoadedData, part: Partition, config: RaceConfig) -> Layout:
    """Settle who races, how long and on what.

    Args:
        plan: The plan that the candidates belong to.
        candidates: Every candidate as a plan of its own, by name.
        data: Samples of the plan's task.
        part: Trains on `train`, scores on `race`.
        config: How to race.

    Raises:
        ConfigError: `only` names an unknown candidate.
        ManifestError: a candidate that was not made with the plan.
        DataError: too few training or held-out samples.
    """
    runnable = _runnable(plan, candidates, config)
    training = Samples(data, choose(part.train, config.max_train_samples, seed=config.seed))
    held_out = Samples(data, choose(part.race, config.held_out_samples, seed=config.seed))
    if not training.indices or len(held_out) < FEWEST_HELD_OUT:
        raise DataError(
            f"a race needs training samples and at least {FEWEST_HELD_OUT} held-out ones, got {len(training)} and "
            f"{len(held_out)} of {data.id}; give more data, or tune with --no-race"
        )
    order = field_order(runnable)
    tuning_steps = config.tuning_steps or num_tuning_steps(len(training), batch_size=config.batch_size, epochs=config.epochs)
    if len(order) == 1:
        return Layout(runnable, order, [], (), training, held_out, tuning_steps)
    rungs = lay_out(
        len(order),
        budget_steps=config.share * tuning_steps,
        longest=tuning_steps,
        min_steps=config.min_steps,
        num_seeds=config.num_seeds,
    )
    runners = rungs[0].num_candidates
    return Layout(runnable, order[:runners], order[runners:], rungs, training, held_out, tuning_steps)


def _runnable(plan: Plan, candidates: dict[str, Plan], config: RaceConfig) -> dict[str, Plan]:
    """The candidates that shall run, by name in order."""
    known = candidates or {plan.chosen.name: plan}
    if config.only is not None:
        if unknown := sorted(set(config.only) - set(known)):
            raise ConfigError(f"only: no candidate named {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        known = {name: entry for name, entry in known.items() if name in {*config.only, UNIFORM}}
    if foreign := foreign_candidates(plan, known):
        raise ManifestError(f"{foreign}; plan again")
    return {name: known[name] for name in sorted(known) if name == UNIFORM or not _is_uniform(known[name], known.get(UNIFORM))}


def _is_uniform(plan: Plan, uniform: Plan | None) -> bool:
    """Whether an optimum or another plan is uniform under another name: racing it would compare a plan with itself."""
    return uniform is not None and [(e.layer, e.site, e.method, e.size) for e in plan.layers] == [
        (e.layer, e.site, e.method, e.size) for e in uniform.layers
    ]
