"""auto-round on the windows that LayerLens calibrates on; `compression_peers.py` starts it with the peer's own Python.

    PEER_PYTHON benchmarks/auto_round_peer.py MODEL WINDOWS OUT --bits 4 [--average-bits 4.25] [--group-size 64] [--iters 200]

WINDOWS is a safetensors file with `input_ids` [windows tokens]. OUT gets the dequantised matrices of the blocks in float32, by
module path, and `facts` in its metadata: the bits of each, and seconds. Weights only, symmetric, everything else at its defaults;
the model is float32, so that nothing but its rounding changes a weight. With `--average-bits` auto-round itself allocates widths
of 2, 3, 4 and 8 bits to the layers (its AutoScheme). That takes texts of a file and no tokens: it gets the windows as text, each
with the next one behind it, of which it takes the first tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from auto_round import AutoRound, AutoScheme
from safetensors.torch import load_file, save_file

SCHEMES = "W2A16G64,W3A16G64,W4A16G64,W8A16G64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("windows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--average-bits", type=float, default=None)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    windows = load_file(options.windows)["input_ids"].long()
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    before = {name: module.weight.detach().clone() for name, module in model.named_modules() if is_layer(name, module)}
    start = time.perf_counter()
    dataset: object = list(windows.split(options.batch_size))
    given: dict[str, object] = {"bits": options.bits, "group_size": options.group_size, "sym": True}
    if options.average_bits is not None:
        given = {"scheme": AutoScheme(avg_bits=options.average_bits, options=SCHEMES)}
        dataset = str(texts_of(windows, tokenizer, options.out.with_suffix(".json")))
    rounding = AutoRound(
        model,
        tokenizer,
        iters=options.iters,
        dataset=dataset,
        seqlen=windows.shape[1],
        nsamples=len(windows),
        batch_size=options.batch_size,
        device_map="cpu",
        enable_torch_compile=False,
        **given,
    )
    quantised, config = rounding.quantize()
    seconds = time.perf_counter() - start
    modules = dict(quantised.named_modules())
    weights = {name: modules[name].weight.detach().float().contiguous() for name in before}
    changed = [name for name in before if not torch.equal(weights[name], before[name])]
    told = {name: {key: entry.get(key) for key in ("bits", "group_size", "sym")} for name, entry in config.items()}
    facts = {"bits": told, "seconds": seconds, "changed": len(changed), "layers": len(before)}
    save_file(weights, options.out, metadata={"facts": json.dumps(facts)})
    print(json.dumps({"seconds": seconds, "changed": len(changed), "layers": len(before)}))


def texts_of(windows: torch.Tensor, tokenizer: transformers.PreTrainedTokenizerBase, path: Path) -> Path:
    """The windows as a file of texts, none of which is shorter than a window."""
    texts = tokenizer.batch_decode(windows, skip_special_tokens=True)
    path.write_text(json.dumps([text + "\n" + after for text, after in zip(texts, [*texts[1:], texts[0]], strict=True)]))
    return path


def is_layer(name: str, module: torch.nn.Module) -> bool:
    """Whether a module is a linear layer of a block."""
    return isinstance(module, torch.nn.Linear) and ".layers." in name


if __name__ == "__main__":
    main()
