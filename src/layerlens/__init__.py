"""LayerLens: look at every layer of a pretrained transformer and spend a budget where it counts.

Every command has its twin here under the same name, with the same config: `layerlens.profile`, `plan`, `race`,
`tune`, `compress`, `evaluate`, `export`, `validate`, `report`, `bench`, `demo`. Names are imported when they are first used, so
that planning never imports torch. `load_adapted` loads what `tune` trained, `merge` adds its LoRA into the base model's weights.

After the import transformers knows compressed folders too: `AutoModel….from_pretrained(folder)` loads them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from layerlens.registration import register_quantiser

__version__ = "0.1.0"

_HOMES = {
    "BenchConfig": "layerlens.config",
    "BenchSuite": "layerlens.config",
    "CompressConfig": "layerlens.config",
    "CompressionPlan": "layerlens.artifacts.compression",
    "EvaluateConfig": "layerlens.config",
    "FisherInformationAnalyzer": "layerlens.profiling.analyzers",
    "GradientEnergyAnalyzer": "layerlens.profiling.analyzers",
    "LayerLensError": "layerlens.errors",
    "LayerSpec": "layerlens.artifacts.layers",
    "OptimizationConfig": "layerlens.config",
    "Plan": "layerlens.artifacts.plan",
    "Profile": "layerlens.artifacts.profile",
    "ProfilingConfig": "layerlens.config",
    "ProxyAnalyzer": "layerlens.profiling.analyzers",
    "RaceConfig": "layerlens.config",
    "TrainingConfig": "layerlens.config",
    "TuneConfig": "layerlens.config",
    "bench": "layerlens.workflow.bench",
    "compress": "layerlens.workflow.compress",
    "demo": "layerlens.workflow.demo",
    "evaluate": "layerlens.workflow.evaluate",
    "export": "layerlens.workflow.export",
    "load_adapted": "layerlens.adapting.load",
    "load_compression_plan": "layerlens.artifacts.compression",
    "load_plan": "layerlens.artifacts.plan",
    "load_profile": "layerlens.artifacts.profile",
    "merge": "layerlens.workflow.merge",
    "plan": "layerlens.workflow.plan",
    "profile": "layerlens.workflow.profile",
    "race": "layerlens.workflow.race",
    "report": "layerlens.workflow.report",
    "tune": "layerlens.workflow.tune",
    "validate": "layerlens.workflow.validate",
}

__all__ = sorted(_HOMES)

register_quantiser()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'layerlens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
