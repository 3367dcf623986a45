"""The bottlenecks and prefixes of a plan on a model in memory: our own modules, beside PEFT's LoRA.

A bottleneck stands behind whatever is at its layer's path, the LoRA around that layer included; a prefix is a child of its
attention, whose query, key and value layers may carry LoRA. So every part sees the others and takes gradients.
Each starts from a generator of its own, seeded by seed, place and method; a smaller size's start is part of a larger one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from pydantic import Field
from torch import nn

from layerlens.artifacts.plan import Plan
from layerlens.errors import ManifestError, UnsupportedModelError
from layerlens.models.weights import is_adaptable_module, layer_features
from layerlens.nn.bottleneck import BOTTLENECK, Bottleneck
from layerlens.nn.prefix import PREFIX, Prefix
from layerlens.nn.prefix_attention import attend_prefixes_, prefix_fault
from layerlens.words import Frozen, Method

#: The names that our modules bear as children of the layers and attentions they belong to.
CHILD_NAMES = {Method.ADAPTER: BOTTLENECK, Method.PREFIX: PREFIX}


class SiteModule(Frozen):
    """One bottleneck or prefix: where it is, what it is, how large."""

    layer: str = Field(description="full module path in the base model: of the layer, or of the attention for a prefix")
    method: Method
    size: int = Field(gt=0, description="width of a bottleneck, tokens of a prefix")
    features: int = Field(gt=0, description="output width of the layer; key/value heads × head size for a prefix")

    @property
    def path(self) -> str:
        """Where the module stands in the base model's tree."""
        return f"{self.layer}.{CHILD_NAMES[self.method]}"


def site_modules(plan: Plan) -> list[SiteModule]:
    """The bottlenecks and prefixes of a plan, in its order."""
    return [
        SiteModule(
            layer=entry.layer,
            method=entry.method,
            size=entry.size,
            features=entry.kv_features if entry.method is Method.PREFIX else entry.out_features,
        )
        for entry in plan.adapted
        if entry.method in CHILD_NAMES
    ]


def trained_identity(plan: Plan) -> dict[str, object]:
    """What a plan trains: all that tells its runs from those of another plan of the same model."""
    sites: dict[str, dict[str, int]] = {}
    for site in site_modules(plan):
        sites.setdefault(site.method.value, {})[site.layer] = site.size
    return {"ranks": plan.ranks, "alpha_over_rank": plan.alpha_over_rank, "head": plan.head, **sites}


def check_sites(sites: Sequence[SiteModule], model: nn.Module) -> None:
    """Check that a model has every site, before it is changed.

    Raises:
        ManifestError: sites are missing or of another shape; several are named.
        UnsupportedModelError: an attention cannot have a prefix.
    """
    modules = dict(model.named_modules())
    faults = [fault for site in sites if (fault := _fault(site, modules.get(site.layer))) is not None]
    if faults:
        raise ManifestError(f"the plan does not fit the model: {'; '.join(faults[:5])}; profile and plan this model")
    for site in sites:
        if site.method is Method.PREFIX and (reason := prefix_fault(modules[site.layer])) is not None:
            raise UnsupportedModelError(f"{site.layer} cannot have a prefix: {reason}; plan again without prefix in --methods")


@contextmanager
def sites_attached(model: nn.Module, sites: Sequence[SiteModule], *, seed: int) -> Iterator[None]:
    """Put bottlenecks and prefixes on inside the context; afterwards the model is what it was."""
    with ExitStack() as stack:
        stack.callback(attach_sites_(model, sites, seed=seed))
        yield


def attach_sites_(model: nn.Module, sites: Sequence[SiteModule], *, seed: int) -> Callable[[], None]:
    """Put bottlenecks and prefixes on a base model, whose linear layers PEFT may have wrapped before.

    Args:
        model: The base model.
        sites: Checked by `check_sites`.
        seed: Of their start.

    Returns:
        What takes them off again; where one cannot be put on, the others are off again too.
    """
    with ExitStack() as undo:
        for site in sites:
            module = model.get_submodule(site.layer)
            generator, device = _generator(site, seed), _device_of(module)
            if site.method is Method.ADAPTER:
                undo.callback(Bottleneck(site.features, site.size, generator=generator, device=device).place_after_(module))
            else:
                undo.callback(attend_prefixes_(module))
                undo.callback(Prefix(site.features, site.size, generator=generator, device=device).place_before_(module))
        return undo.pop_all().close


def realised_sites(model: nn.Module) -> dict[str, int]:
    """Size of every bottleneck and prefix of a base model, by its path."""
    sizes = {}
    for path, module in model.named_modules():
        if isinstance(module, Bottleneck):
            sizes[path] = len(module.down)
        elif isinstance(module, Prefix):
            sizes[path] = module.num_tokens
    return sizes


def site_parameters(model: nn.Module, sites: Sequence[SiteModule]) -> Mapping[str, nn.Parameter]:
    """The parameters of some attached sites, by layer, method and parameter: `encoder.layer.0.output.dense.adapter.down`."""
    return {
        f"{site.layer}.{site.method}.{name}": parameter
        for site in sites
        for name, parameter in model.get_submodule(site.path).named_parameters()
    }


def _fault(site: SiteModule, module: nn.Module | None) -> str | None:
    if CHILD_NAMES[site.method] in getattr(module, "_modules", {}):
        return f"{site.layer}: the model already carries {site.method}; load it anew"
    if site.method is Method.PREFIX:
        return f"{site.layer}: the model has no such attention" if module is None else None
    if module is None or not is_adaptable_module(module):
        return f"{site.layer}: the model has no such layer"
    width, _ = layer_features(module)
    return (
        None if width == site.features else f"{site.layer}: the model gives out {width} features, the plan says {site.features}"
    )


def _generator(site: SiteModule, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{site.layer}:{site.method}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _device_of(module: nn.Module) -> torch.device | None:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else None
