"""Every option of every command, once: the same frozen models feed the command line, a YAML file and Python.

A field's description becomes its `--help`. Field names with underscores become flags with dashes.
"""

from layerlens.config.bench import BenchConfig, BenchSuite
from layerlens.config.compression import CompressConfig
from layerlens.config.data import DataConfig
from layerlens.config.evaluation import EvaluateConfig
from layerlens.config.planning import (
    OBJECTIVE_TERMS,
    PREDECESSOR_WEIGHTS,
    WEIGHT_PRESETS,
    OptimizationConfig,
    default_max_rank,
)
from layerlens.config.profiling import FisherLabels, ProfilingConfig
from layerlens.config.spellings import output_path, path_beside
from layerlens.config.training import BaseFormat, Precision, RaceConfig, TrainingConfig, TuneConfig

__all__ = [
    "OBJECTIVE_TERMS",
    "PREDECESSOR_WEIGHTS",
    "WEIGHT_PRESETS",
    "BaseFormat",
    "BenchConfig",
    "BenchSuite",
    "CompressConfig",
    "DataConfig",
    "EvaluateConfig",
    "FisherLabels",
    "OptimizationConfig",
    "Precision",
    "ProfilingConfig",
    "RaceConfig",
    "TrainingConfig",
    "TuneConfig",
    "default_max_rank",
    "output_path",
    "path_beside",
]
