"""What other libraries do on the batches that a profile sees, one library in one process; `memory.py` starts it.

    python benchmarks/peers.py KIND MODEL DATA [--num-samples N --max-length T --batch-size B --batches K --threads T]

Prints one line of JSON: seconds of the work alone (imports and loading apart) and the samples it was done for. `--batches` does
only the first K batches. Every kind works in float32 in memory; nothing is fitted first, for no cost here depends on the weights.

plain                forward and backward, every weight trainable, gradients dropped before each batch: the yardstick
plain-onednn         the same with float32 products by oneDNN
plain-bf16           the same under autocast in bfloat16
opacus-ghost         opacus, norms of per-sample gradients of every planned weight without the gradients
                     (GradSampleModuleFastGradientClipping, ghost clipping)
opacus-grad-sample   opacus, the per-sample gradients themselves (GradSampleModule), their norms taken
curvlinops           K-FAC factors of every planned weight, empirical Fisher, expand (KFACLinearOperator)
eva                  PEFT's EVA initialisation, rank 16 on every planned layer (initialize_lora_eva_weights): forward passes and
                     incremental SVDs of inputs, over the batches again and again until all components have converged
uni-layer            GradientNorm and FisherInformation of the package uni-layer (0.7.0): per block, not per layer; each metric
                     of each block runs forward and backward over all batches, so its cost grows with the blocks squared. It
                     squares the gradient of a batch, not of a sample, and trains with dropout. It is the package the
                     issue means ("A Universal Framework for Layer Contribution Analysis"), pure Python on torch, numpy and tqdm,
                     so it can stand beside this project's versions: `pip install --no-deps uni-layer==0.7.0`.

opacus and curvlinops are of the `dev` extra and the Makefile's; none is needed to run LayerLens. GPT-2's transposed `Conv1D` is
unknown to opacus (it falls back to functorch) and to curvlinops (it refuses).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layerlens.config import ProfilingConfig
from layerlens.data.example import Batch
from layerlens.linalg.fast_products import fast_products, is_thrown
from layerlens.profiling.calibration import calibration_batches, choose_samples
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.words import TaskKind
from layerlens.workflow.open import Opened, open_model

EVA_RANK = 16
#: Where opacus leaves what it found, on the weight itself.
_NORMS, _GRADIENTS = "_norm_sample", "grad_sample"


class Case:
    """A model in memory with its collated batches."""

    def __init__(self, opened: Opened, config: ProfilingConfig, num_batches: int | None) -> None:
        self.model, self.task, self.layers = opened.task_model.model, opened.data.task, opened.layout.layers
        examples = opened.data.take(choose_samples(opened.part.train, config.num_samples, config.seed))
        lengths = sample_lengths(self.model, self.layers, self.task, examples)
        batches = calibration_batches(lengths, batch_size=config.batch_size, gram_tokens=0, seed=config.seed)[:num_batches]
        self.samples = sum(len(batch.samples) for batch in batches)
        self.values = [self.task.collate([examples[sample] for sample in batch.samples]) for batch in batches]
        self.is_causal = self.task.info.kind is TaskKind.CAUSAL_LM

    def loss(self, model: nn.Module, values: Batch) -> Tensor:
        """Sum over samples of a batch's losses."""
        return self.task.per_sample_loss(model(**self.task.model_inputs(values)), values).sum()

    def train_planned_alone(self) -> list[nn.Parameter]:
        """Freeze all but the planned weights, and return these."""
        self.model.requires_grad_(False)
        weights = [self.model.get_submodule(spec.layer).weight for spec in self.layers]
        for weight in weights:
            weight.requires_grad_(True)
        return weights


def plain(case: Case) -> None:
    case.model.requires_grad_(True)
    for values in case.values:
        case.model.zero_grad()
        case.loss(case.model, values).backward()


def plain_onednn(case: Case) -> None:
    with fast_products():
        if not is_thrown():
            raise SystemExit("this processor keeps its float32 products: plain-onednn would be plain")
        plain(case)


def plain_bf16(case: Case) -> None:
    case.model.requires_grad_(True)
    for values in case.values:
        case.model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = case.loss(case.model, values)
        loss.backward()


def opacus_ghost(case: Case) -> None:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    weights = case.train_planned_alone()
    wrapped = GradSampleModuleFastGradientClipping(case.model, loss_reduction="sum", strict=False, use_ghost_clipping=True)
    _hooked(case)
    for values in case.values:
        case.model.zero_grad()
        case.loss(wrapped, values).backward()
        norms = torch.stack([getattr(weight, _NORMS) for weight in weights])
        assert torch.isfinite(norms).all()


def opacus_grad_sample(case: Case) -> None:
    from opacus.grad_sample import GradSampleModule

    weights = case.train_planned_alone()
    wrapped = GradSampleModule(case.model, loss_reduction="sum", strict=False)
    _hooked(case)
    for values in case.values:
        case.model.zero_grad()
        case.loss(wrapped, values).backward()
        norms = torch.stack([getattr(weight, _GRADIENTS).flatten(1).norm(dim=1) for weight in weights])
        assert torch.isfinite(norms).all()
        for weight in weights:
            setattr(weight, _GRADIENTS, None)


def _hooked(case: Case) -> None:
    """opacus looks at modules in training mode alone; dropout stays off, as in a profile."""
    for spec in case.layers:
        case.model.get_submodule(spec.layer).training = True


def curvlinops(case: Case) -> None:
    from curvlinops import KFACLinearOperator

    class Logits(nn.Module):
        """Logits [samples, classes], or [samples, vocabulary, tokens] with the class second, as curvlinops has it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = case.model

        def forward(self, inputs: Batch) -> Tensor:
            logits = self.inner(**inputs).logits
            return logits[:, :-1].transpose(1, 2) if case.is_causal else logits

    weights = case.train_planned_alone()
    pairs = []
    for values in case.values:
        labels = values["labels"][:, 1:] if case.is_causal else values["labels"]
        pairs.append((case.task.model_inputs(values), labels))
    operator = KFACLinearOperator(
        Logits(),
        nn.CrossEntropyLoss(reduction="sum"),
        weights,
        pairs,
        fisher_type="empirical",
        kfac_approx="expand",
        check_deterministic=False,
        batch_size_fn=lambda inputs: len(next(iter(inputs.values()))),
    )
    operator.compute_kronecker_factors()


def eva(case: Case) -> None:
    from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights

    config = LoraConfig(
        r=EVA_RANK,
        target_modules=[spec.layer for spec in case.layers],
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0),
    )
    adapted = get_peft_model(case.model, config, low_cpu_mem_usage=True)
    inputs = [dict(case.task.model_inputs(values)) for values in case.values]
    options: dict[str, Any] = {"show_progress_bar": False}
    if case.task.info.kind is TaskKind.IMAGE_CLASSIFICATION:
        # Its own preparation reads the attention mask of a text.
        options["prepare_model_inputs_fn"] = None
        options["prepare_layer_inputs_fn"] = lambda layer_input, _inputs, _name: layer_input[0].flatten(0, -2)
    initialize_lora_eva_weights(adapted, inputs, **options)


def uni_layer(case: Case) -> None:
    from uni_layer import LayerAnalyzer
    from uni_layer.metrics import FisherInformation, GradientNorm

    case.model.requires_grad_(True)
    key = "pixel_values" if case.task.info.kind is TaskKind.IMAGE_CLASSIFICATION else "input_ids"
    loader = [(values[key], values["labels"]) for values in case.values]

    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        # Its Fisher applies the criterion to a language model's logits as they are.
        shifted, wanted = (logits[:, :-1], targets[:, 1:]) if case.is_causal else (logits, targets)
        return cross_entropy(shifted.flatten(0, -2), wanted.flatten())

    count = len(loader)
    analyzer = LayerAnalyzer(case.model, device="cpu", criterion=criterion)
    found = analyzer.compute_metrics(
        [GradientNorm(num_batches=count), FisherInformation(num_batches=count)], loader, verbose=False, num_batches=count
    )
    # It keeps its errors to itself and leaves None.
    missing = [layer for layer, metrics in found.items() if None in (metrics["gradient_norm"], metrics["fisher_information"])]
    if missing:
        raise RuntimeError(f"uni-layer measured nothing for {', '.join(missing)}")


KINDS: dict[str, Callable[[Case], None]] = {
    "plain": plain,
    "plain-onednn": plain_onednn,
    "plain-bf16": plain_bf16,
    "opacus-ghost": opacus_ghost,
    "opacus-grad-sample": opacus_grad_sample,
    "curvlinops": curvlinops,
    "eva": eva,
    "uni-layer": uni_layer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=None)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = ProfilingConfig(num_samples=options.num_samples, max_length=options.max_length, batch_size=options.batch_size)
    start = time.perf_counter()
    case = Case(open_model(options.model, options.data, config), config, options.batches)
    loaded = time.perf_counter()
    with warnings.catch_warnings():
        # opacus, curvlinops and PEFT warn about their own use of torch.
        warnings.simplefilter("ignore")
        KINDS[options.kind](case)
    seconds = time.perf_counter() - loaded
    print(json.dumps({"seconds": seconds, "load_seconds": loaded - start, "samples": case.samples}))


if __name__ == "__main__":
    main()
