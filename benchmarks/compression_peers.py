"""LayerLens beside a peer's package at equal bytes: auto-round 0.16.1 on `stdlib-llama`.

    python benchmarks/compression_peers.py --peer-python PATH [--bits 8,4,3,2] [--average-bits 4.25,3.25] [--iters 200]
                                           [--out runs/benchmarks/compression_peers.json]
    python benchmarks/compression_peers.py --show        (prints the table of what is measured)

The peer stays out of the project's environment. It wants one of its own that sees the project's packages, so that both run on the
same torch and transformers: make a virtual environment (`python -m venv PEER`), write the path of the project's site-packages
into a file `project.pth` in PEER's site-packages, and `PEER/bin/pip install auto-round==0.16.1 --constraint constraints.txt`.
PATH is then PEER/bin/python.

The peer calibrates on the very windows that LayerLens does, and rounds the blocks' layers: weights only, symmetric, groups of 64,
its own defaults otherwise (200 steps of signed gradient descent for each block). Its matrices are dequantised and measured like
ours, on the same final test, in the same pass over the blocks. Bytes are counted by LayerLens's rule for codes with one 16-bit
scale for each group, which is at most what the peer's own files take; it leaves the embedding as it is, in 16 bits, and so is it
counted. `--average-bits` lets the peer allocate 2, 3, 4 and 8 bits to layers by itself.

Beside it LayerLens with at most those bytes for all tensors: once with the embedding kept in 16 bits as well (like for like), and
once free to spend the bytes as it likes. Its choice is what won its race on other samples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compression_models import SUBJECTS
from compression_points import FOLDER, Lab, Ratio, curves_hash, open_lab, ratio_of

from layerlens.artifacts.formats import codes_bytes
from layerlens.compressing.held_out import measured_of
from layerlens.compressing.outside_blocks import starting_block
from layerlens.compressing.variant_pass import measure_variants
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.variants import Variant
from layerlens.errors import InfeasibleBudgetError
from layerlens.models.threads import threads

HERE = Path(__file__).resolve().parent
MODEL = "stdlib-llama"
GROUP_SIZE = 64
#: How LayerLens may spend the same bytes.
POLICIES: dict[str, dict[str, Any]] = {"embedding kept": {"keep": ["embedding"]}, "free": {}}


def peer_weights(lab: Lab, label: str, arguments: list[str], options: argparse.Namespace) -> Path:
    """Run the peer in a process of its own, or find what it wrote before."""
    folder = FOLDER / MODEL / "peers"
    out, windows = folder / f"{label}-{options.iters}.safetensors", folder / "windows.safetensors"
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    examples = lab.opened.data.take(list(lab.opened.part.train[: lab.config.num_samples]))
    ids = [example["input_ids"] for example in examples if len(example["input_ids"]) == lab.config.max_length]
    save_file({"input_ids": torch.tensor(ids, dtype=torch.int32)}, windows)
    command = [options.peer_python, str(HERE / "auto_round_peer.py"), str(lab.opened.checkpoint.folder), str(windows), str(out)]
    command += [*arguments, "--group-size", str(GROUP_SIZE), "--iters", str(options.iters)]
    with (folder / f"{label}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return out


def peer_bytes(lab: Lab, bits: dict[str, int]) -> int:
    """Bytes of all tensors by our rule: codes with scales for the layers with bits, everything else as the checkpoint has it."""
    total = lab.curves.model.other_bytes
    for matrix in lab.curves.matrices:
        if matrix.layer in bits:
            total += codes_bytes(matrix.out_features, matrix.in_features, bits[matrix.layer], GROUP_SIZE)
        else:
            total += matrix.out_features * matrix.in_features * matrix.kept_element_bytes
    return total


def measure(lab: Lab, label: str, arguments: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The peer's model and ours at its bytes, on the final test."""
    start = time.perf_counter()
    file = peer_weights(lab, label, arguments, options)
    with safe_open(file, "pt") as content:
        facts = json.loads(content.metadata()["facts"])
    told = {name: entry for name, entry in facts["bits"].items() if entry["bits"] is not None and entry["bits"] < 16}
    if wrong := [name for name, entry in told.items() if entry["group_size"] != GROUP_SIZE or not entry["sym"]]:
        raise SystemExit(f"the peer gave {wrong[0]} another form than was asked for: {told[wrong[0]]}")
    bits = {name: int(entry["bits"]) for name, entry in told.items()}
    weights = {name: values for name, values in load_file(file).items() if name in bits}
    if weights.keys() != bits.keys():
        raise SystemExit(f"the peer rounded {len(bits)} layers, {len(weights)} of them in blocks")
    size = peer_bytes(lab, bits)
    with threads(lab.config.threads):
        variant = Variant("peer", weights, starting_block(lab.opened.model, weights))
        peer = measure_variants(lab.opened.model, lab.test.samples, [variant], work=lab.test.work)["peer"]
        ours = {name: _ours(lab, size, policy, peer) for name, policy in POLICIES.items()}
    return {
        "size_bytes": size,
        "bits_per_weight": 8 * size / lab.curves.model.num_parameters,
        "widths": sorted(set(bits.values())),
        "kl": peer.mean,
        "same_top": peer.same_top_rate,
        "peer_seconds": facts["seconds"],
        "seconds": time.perf_counter() - start,
        "ours": ours,
        "iters": options.iters,
        "curves": curves_hash(MODEL),
    }


def _ours(lab: Lab, size: int, policy: dict[str, Any], peer: VariantResult) -> dict[str, Any]:
    try:
        plans, lab = lab.planned(lab.at(size=size, **policy))
    except InfeasibleBudgetError as error:
        return {"infeasible": str(error)}
    everyone = {**plans.candidates, **plans.baselines}
    winner = measured_of(everyone, lab.race.race(everyone), list(plans.baselines))[0].name
    found = lab.test.race({winner: everyone[winner]})[winner]
    ratio: Ratio = ratio_of(found, peer)
    return {
        "choice": winner,
        "size_bytes": everyone[winner].size_bytes,
        "bits_per_weight": everyone[winner].bits_per_weight,
        "kl": found.mean,
        "same_top": found.same_top_rate,
        "ratio": asdict(ratio),
    }


def _is_missing(row: dict[str, Any] | None, options: argparse.Namespace) -> bool:
    """Whether a row is to be measured: it is not there, or was with other curves or other steps."""
    return row is None or row.get("curves") != curves_hash(MODEL) or row["iters"] != options.iters


def show(results: dict[str, Any]) -> None:
    """One row for each width of the peer."""
    table = Table(title=f"{MODEL}: KL in nats on the final test at the peer's bytes; ratio ours ÷ peer's, 95 % interval")
    for column in ("auto-round", "bits/weight", "bytes", "KL", "seconds"):
        table.add_column(column, justify="right")
    for policy in POLICIES:
        for column in (f"LayerLens, {policy}", "bytes", "KL", "ratio"):
            table.add_column(column, justify="right")
    for label, row in sorted(results.items(), key=lambda item: -item[1]["bits_per_weight"]):
        cells = [
            label,
            f"{row['bits_per_weight']:.3f}",
            f"{row['size_bytes']:,}",
            f"{row['kl']:.3g}",
            f"{row['peer_seconds']:.0f}",
        ]
        for policy in POLICIES:
            ours = row["ours"][policy]
            if "infeasible" in ours:
                cells += ["does not fit", "", "", ""]
                continue
            ratio = ours["ratio"]
            cells += [ours["choice"], f"{ours['size_bytes']:,}", f"{ours['kl']:.3g}"]
            cells.append(f"{ratio['value']:.2f} \\[{ratio['low']:.2f}, {ratio['high']:.2f}]")
        table.add_row(*cells)
    Console(width=190).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of the environment that has the peer")
    parser.add_argument("--bits", default="8,4,3,2")
    parser.add_argument("--average-bits", default="", help="average widths that the peer allocates by itself")
    parser.add_argument("--iters", type=int, default=200, help="the peer's steps for each block")
    parser.add_argument("--samples", type=int, default=128, help="calibration samples of both")
    parser.add_argument("--show", action="store_true", help="only print what is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compression_peers.json"))
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    wanted = {f"int{bits}": ["--bits", bits] for bits in options.bits.split(",") if bits}
    wanted |= {f"mixed {bits}": ["--average-bits", bits] for bits in options.average_bits.split(",") if bits}
    missing = {label: given for label, given in wanted.items() if _is_missing(results.get(label), options)}
    if missing and not options.show:
        if not options.peer_python:
            raise SystemExit("give --peer-python, the Python that has auto-round; --help says how to make one")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        settings = {"num_samples": options.samples, "held_out_samples": 32, "max_length": 128, "seed": 0}
        lab = open_lab(SUBJECTS[MODEL], FOLDER / MODEL, settings)
        for label, given in missing.items():
            results[label] = measure(lab, label.replace(" ", "-"), given, options)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            print(f"{label}: {results[label]['seconds']:.0f} s", file=sys.stderr)
    show(results)


if __name__ == "__main__":
    main()
