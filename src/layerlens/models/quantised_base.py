"""A frozen base in 8 or 4 bits while adapters train over it: who holds it, how it is asked for, and what is put right after.

int8-torchao   one scale for each row; decoded to multiply
int8-bnb       the same, and inputs are rounded to 8 bits as well, but for columns with outliers
int4-bnb       NormalFloat of 4 bits, blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314)

Only planned layers are quantised: a head is trained, and everything else is small or looked up.

torchao has 4 bits too, but on a processor only in bytes of 8, and PEFT 0.21 puts no LoRA on its packed form.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.config import BaseFormat
from layerlens.errors import ConfigError, UnsupportedModelError
from layerlens.models.weights import StoredLinear, is_planned_module
from layerlens.nn.recomputed_linear import RecomputedLinear
from layerlens.nn.tied_modules import TiedLinear

LIBRARIES = {BaseFormat.INT8_TORCHAO: "torchao", BaseFormat.INT8_BNB: "bitsandbytes", BaseFormat.INT4_BNB: "bitsandbytes"}
#: Class of an int8 layer of bitsandbytes, and of PEFT's layer around one.
INT8_BNB_LAYER = "Linear8bitLt"
_BNB_LAYERS = {BaseFormat.INT8_BNB: INT8_BNB_LAYER, BaseFormat.INT4_BNB: "Linear4bit"}


def check_library(base_format: BaseFormat) -> None:
    """See that the library of a format is installed.

    Raises:
        ConfigError: it is not.
    """
    library = LIBRARIES.get(base_format)
    if library is not None and find_spec(library) is None:
        raise ConfigError(
            f"base_format {base_format} needs {library}, which is not installed; run `pip install {library}`, or train over a "
            "folder of `layerlens compress` (--base), which needs nothing"
        )


def quantization_config(base_format: BaseFormat, *, kept: list[str]) -> Any:
    """What `from_pretrained` is asked with.

    Args:
        base_format: One that a library holds.
        kept: Module paths that stay as they are.
    """
    if base_format is BaseFormat.INT8_TORCHAO:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)
    from transformers import BitsAndBytesConfig

    if base_format is BaseFormat.INT8_BNB:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=kept
    )


def not_planned(model: nn.Module, planned: Collection[str]) -> list[str]:
    """Paths of the linear layers that no plan adapts: they keep their numbers."""
    return [path for path, module in model.named_modules() if is_planned_module(module) and path not in planned]


def settle_(model: nn.Module, base_format: BaseFormat, planned: Collection[str]) -> None:
    """Check what a library has made of a model, and put right what would spoil training over it.

    Args:
        model: As `from_pretrained` gave it.
        base_format: What was asked for.
        planned: Paths of the layers that should be quantised.

    Raises:
        UnsupportedModelError: some of them are not.
    """
    modules = {path: model.get_submodule(path) for path in planned}
    left = [path for path, module in modules.items() if not _is_quantised(module, base_format)]
    if left:
        kind = type(modules[left[0]]).__name__
        raise UnsupportedModelError(
            f"base_format {base_format} leaves {len(left)} of {len(modules)} layers as they are ({left[0]}, a {kind}); "
            "use another format, or a folder of `layerlens compress` as --base"
        )
    for path, module in modules.items():
        if base_format is BaseFormat.INT8_TORCHAO:
            # torchao's product keeps the decoded matrix for its backward pass.
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, RecomputedLinear.around(module))
        elif base_format is BaseFormat.INT8_BNB:
            # Its bias would take on the type of the inputs, and under autocast lose digits for good.
            module.register_forward_pre_hook(_in_float32)
        else:
            # In evaluation it would repack its codes for a kernel without a backward pass, and no gradient would ever come again.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if base_format is not BaseFormat.INT8_TORCHAO:
        # It says at every product that inputs are cast.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    _leave_files_(model)


def held_format(model: nn.Module) -> BaseFormat:
    """How a library holds the linear layers of a model that somebody else has loaded."""
    formats = [base_format for base_format in LIBRARIES if any(_is_quantised(each, base_format) for each in model.modules())]
    return formats[0] if formats else BaseFormat.AS_IS


def densify_(model: nn.Module, heads: Collection[str]) -> None:
    """Replace every stored matrix of a head by an ordinary layer with what it decodes to, for a head is trained as a whole."""
    for head in heads:
        for path, module in list(model.get_submodule(head).named_modules(prefix=head)):
            if isinstance(module, StoredLinear | TiedLinear):
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, _dense(module))


def plain_tensors(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, and in place of another library's kinds of tensor what they consist of."""
    for name, tensor in state.items():
        if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
            yield name, tensor
        else:
            parts, _ = tensor.__tensor_flatten__()
            yield from ((f"{name} ({part})", getattr(tensor, part)) for part in parts if getattr(tensor, part) is not None)


def _is_quantised(module: nn.Module, base_format: BaseFormat) -> bool:
    if base_format in _BNB_LAYERS:
        return type(module).__name__ == _BNB_LAYERS[base_format]
    # Another library's kind of tensor: every tensor has `dequantize`, only these consist of others.
    return type(module) is nn.Linear and hasattr(module.weight, "__tensor_flatten__")


def _leave_files_(model: nn.Module) -> None:
    """Copy what still lies in the mapped weight files: while one small tensor does, the pages of all float weights stay."""
    for tensor in {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values():
        if type(tensor) in (Tensor, nn.Parameter):
            tensor.data = tensor.data.clone()


def _in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].float(), *inputs[1:])


def _dense(module: nn.Module) -> nn.Linear:
    out_features, in_features = module.out_features, module.in_features
    linear = nn.Linear(int(in_features), int(out_features), bias=module.bias is not None, device="meta")  # type: ignore[arg-type]
    weight: Tensor = module.weight.float()  # type: ignore[assignment]
    is_turned = getattr(module, "is_transposed", False)
    linear.weight = nn.Parameter((weight.t() if is_turned else weight).contiguous().clone())
    linear.bias = module.bias  # type: ignore[assignment]
    return linear
