"""Where a model's blocks and its head are, read from the module tree alone.

BertForSequenceClassification
├── bert                      the base model
│   ├── encoder.layer.0 … 5   blocks: the outermost list of modules of one class that hold linear layers
│   └── pooler                head: pretrained, yet trained with the task
└── classifier                head: whatever stands beside the base model
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from statistics import median_low

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from layerlens.models.weights import is_adaptable_module, layer_features

POOLER = "pooler"
#: Heads of models that are no Hugging Face task models, by the name of the module.
HEAD_NAMES = frozenset({"classifier", "classification_head", "head", "heads", "score", "qa_outputs", "lm_head"})


def find_head(model: nn.Module) -> list[str]:
    """Return the full paths of the modules that are trained beside any plan: the pooler and the task head.

    A language model's own output embedding is pretrained and stays frozen, so it is not among them.
    """
    if not isinstance(model, PreTrainedModel):
        return [name for name, child in model.named_children() if name in HEAD_NAMES and _has_parameters(child)]
    base_path = base_model_path(model)
    base = model.get_submodule(base_path)
    pooler = getattr(base, POOLER, None)
    head = [_join(base_path, POOLER)] if isinstance(pooler, nn.Module) and _has_parameters(pooler) else []
    if base_path and model.get_output_embeddings() is None:
        head += [name for name, child in model.named_children() if name != base_path and _has_parameters(child)]
    return head


def base_model_path(model: PreTrainedModel) -> str:
    """Return the path of the base model in a task model; empty where the model is its own base."""
    return model.base_model_prefix if isinstance(getattr(model, model.base_model_prefix, None), nn.Module) else ""


def find_blocks(model: nn.Module, head: list[str]) -> list[tuple[str, nn.Module]]:
    """Return the paths and modules of the transformer blocks, in the order of the tree.

    Blocks are the members of every outermost `ModuleList` or `Sequential` whose members are of one class and all hold
    linear layers; an encoder and a decoder give one list each. Where no list is so uniform (a hybrid of two kinds of
    block), a `ModuleList` of mixed classes counts.
    """
    for is_uniform in (True, False):
        blocks: list[tuple[str, nn.Module]] = []
        for path, module in model.named_modules():
            # Names come parent first, so a list inside a block (experts, sublayers) is met after the block itself.
            if not is_under(path, [*head, *(block for block, _ in blocks)]) and _is_block_list(module, is_uniform):
                blocks += [(_join(path, name), child) for name, child in module.named_children()]
        if blocks:
            return blocks
    return []


def planned_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path within `module` and the module of each linear layer, in the order of the tree."""
    return ((path, child) for path, child in module.named_modules() if is_adaptable_module(child))


def fused_weights(module: nn.Module) -> list[str]:
    """Return the paths within `module` of stacks of matrices (fused experts), which no linear layer computes.

    A stack has three axes, or two with the matrices one below the other. Of parameters with two axes those count that are as
    large as the middle one of the planned matrices: tables of positions, state matrices and routers are smaller.
    """
    sizes = [prod(layer_features(child)) for _, child in planned_modules(module)]
    middle = median_low(sizes) if sizes else 0
    return [
        f"{path}.{name}".lstrip(".")
        for path, owner in module.named_modules()
        for name, weight in owner.named_parameters(recurse=False)
        if _is_stack(owner, weight, middle)
    ]


def is_under(path: str, parents: list[str]) -> bool:
    """Whether a module path is one of `parents` or lies below one."""
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)


def _is_stack(owner: nn.Module, weight: Tensor, middle: int) -> bool:
    if weight.ndim == 3:
        return min(weight.shape) > 1 and not isinstance(owner, _ConvNd)
    # torch's own modules hold no experts, also where they are not planned, as `nn.MultiheadAttention` is not.
    is_known = type(owner).__module__.startswith("torch.") or isinstance(owner, nn.Embedding) or is_adaptable_module(owner)
    return weight.ndim == 2 and min(weight.shape) > 1 and weight.numel() >= middle and not is_known


def _is_block_list(module: nn.Module, is_uniform: bool) -> bool:
    kinds = (nn.ModuleList, nn.Sequential) if is_uniform else (nn.ModuleList,)
    children = list(module.children())
    if not isinstance(module, kinds) or not children or (is_uniform and len({type(child) for child in children}) > 1):
        return False
    return all(not is_adaptable_module(child) and any(True for _ in planned_modules(child)) for child in children)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
