"""What can be typed: every command with its config, its arguments and its switches.

Every option of a config is a flag of its own; only what is no config field stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerlens.config import CompressConfig, EvaluateConfig, OptimizationConfig, ProfilingConfig, RaceConfig, TuneConfig
from layerlens.config.bench import BenchConfig
from layerlens.words import Frozen


@dataclass(frozen=True)
class Option:
    """An argument of a command that is no config field: a path, a name, a switch."""

    name: str
    help: str
    default: str | None = None
    is_required: bool = False
    is_switch: bool = False


@dataclass(frozen=True)
class Command:
    """One command: `layerlens.workflow.NAME.NAME` does it, `layerlens.tables.show_NAME` prints what came out."""

    help: str
    config: type[Frozen] | None = None
    options: tuple[Option, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    """Older spellings of whole flags; an argument is meant where the new one has no dashes."""


_DATA = Option("--data", "stdlib-docs, a file, a folder of images or a hub data set", is_required=True)
_DRY_RUN = Option("--dry-run", "print exact costs and touch nothing", is_switch=True)

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "the whole job on a real model and real text, in about five minutes",
        options=(Option("--out", "folder of the run", default="runs/demo"),),
    ),
    "profile": Command(
        "measure every layer of a model on your data",
        ProfilingConfig,
        (
            Option("model", "a folder or a hub id", is_required=True),
            _DATA,
            Option("--out", "folder for the profile", is_required=True),
            _DRY_RUN,
        ),
    ),
    "plan": Command(
        "choose method and size per layer under budgets, exactly",
        OptimizationConfig,
        (
            Option("profile", "folder of a profile", is_required=True),
            Option("--out", "the plan to write", default="plan.json"),
            _DRY_RUN,
        ),
        aliases=(("--methods", "--candidate-methods"),),
    ),
    "race": Command(
        "let the candidates run briefly, and choose by measurement",
        RaceConfig,
        (Option("plan", "a plan.json; rewritten with the winner", is_required=True), _DATA, _DRY_RUN),
    ),
    "tune": Command(
        "fine-tune by the plan and measure what came out",
        TuneConfig,
        (
            Option("plan", "a plan.json", is_required=True),
            _DATA,
            Option("--out", "folder for the adapter and its evaluation", is_required=True),
            Option("--no-race", "train the plan as it is, raced or not", is_switch=True),
            _DRY_RUN,
        ),
        aliases=(("--lr", "--learning-rate"),),
    ),
    "compress": Command(
        "store each matrix so that the model fits the bytes you have, and measure what was lost",
        CompressConfig,
        (
            Option("model", "a folder or a hub id", is_required=True),
            Option("--data", f"calibration data: {_DATA.help}", default="stdlib-docs"),
            Option("--out", "folder for the compressed model; curves and factors lie beside it, in OUT.curves", is_required=True),
            _DRY_RUN,
        ),
        spellings=(
            ("--input_dir", "model"),
            ("--output_dir", "--out"),
            ("--quant_bits", "--quant-bits"),
            ("--min_dim_for_compression", "--min-dim"),
        ),
    ),
    "evaluate": Command(
        "score a fine-tuned model or adapter on data, or a compressed one against its original",
        EvaluateConfig,
        (
            Option(
                "model", "folder of an adapter that LayerLens wrote, or of a fine-tuned or compressed model", is_required=True
            ),
            _DATA,
            Option("--against", "a second adapter or model, scored on the same samples; the original of a compressed one"),
            Option("--out", "the evaluation to write", default="evaluation.json"),
        ),
    ),
    "export": Command(
        "write a plan for another tool to train, or a compressed folder as an ordinary checkpoint or in a standard format",
        options=(
            Option("source", "a plan.json, or a folder that `layerlens compress` wrote", is_required=True),
            Option("--to", "of a plan: the files of peft, axolotl, llama-factory or trl"),
            Option("--dense", "of a folder: decode every matrix", is_switch=True),
            Option("--compressed-tensors", "of a folder: that library's standard format, for int8 and int4", is_switch=True),
            Option("--out", "the folder to write; beside the source, with the form in its name, if not given"),
            _DRY_RUN,
        ),
    ),
    "merge": Command(
        "add a trained LoRA into its base model's weights: an ordinary checkpoint without any adapter",
        options=(
            Option("folder", "the output folder of `layerlens tune`, or the adapter/ in it", is_required=True),
            Option("--out", "folder for the checkpoint; must not exist, or be empty", is_required=True),
            Option("--model", "the base model's folder or hub id where it is not where it was"),
            Option("--dtype", "type of the written weights: float32, bfloat16 or float16", default="float32"),
            _DRY_RUN,
        ),
    ),
    "validate": Command(
        "check a plan: sums, budgets, ranges, correlations",
        options=(
            Option("plan", "a plan.json", is_required=True),
            Option("--out", "where to write the checks; validation.json beside the plan if not given"),
            Option("--dry-run", "check and touch nothing", is_switch=True),
        ),
    ),
    "report": Command(
        "one self-contained page about a run",
        options=(
            Option("folder", "folder of a run", is_required=True),
            Option("--out", "the page to write; report.html in the folder if not given"),
            Option("--dry-run", "make the page and touch nothing", is_switch=True),
        ),
    ),
    "bench": Command(
        "run a suite of models, tasks, arms and seeds, and compare the arms fairly",
        BenchConfig,
        (
            Option("suite", "the name of a suite in the package, or a suite file", is_required=True),
            Option("--out", "folder for the results; runs/bench/NAME if not given"),
            Option("--dry-run", "list the runs with their steps and touch nothing", is_switch=True),
        ),
    ),
}
