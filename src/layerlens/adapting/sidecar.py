"""What an adapter folder holds beside PEFT's files where a plan mixes methods: its bottlenecks and prefixes.

    adapter/
    ├── adapter_config.json            LoRA and head, as PEFT writes them; `peft_type` is a sentence, so PEFT stops
    ├── adapter_model.safetensors      their weights
    ├── layerlens_sites.json           base, task, and every bottleneck and prefix
    └── layerlens_sites.safetensors    their weights, by layer, method and parameter

Plain PEFT reads the first two alone and would go on without the others in silence. It looks the class of a config up by
`peft_type`, and an unknown one is a KeyError that shows the name: so the name says what the folder holds and what to call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from peft import PeftModel
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from layerlens.adapting.site_modules import SiteModule, attach_sites_, site_modules, site_parameters
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import read_json, write_bytes, write_json
from layerlens.errors import ConfigError, ManifestError
from layerlens.nn.bottleneck import Bottleneck
from layerlens.nn.prefix import Prefix
from layerlens.words import SCHEMA_VERSION, Frozen, Method

SITES_FILE, TENSORS_FILE = "layerlens_sites.json", "layerlens_sites.safetensors"


class Sidecar(Frozen):
    """The content of `layerlens_sites.json`."""

    schema_version: int = SCHEMA_VERSION
    base_model: str = Field(description="folder or hub id of the base model")
    base_hash: str = Field(description="hash of the base model: no other takes these parts")
    task: TaskInfo = Field(description="the task whose head the base model gets")
    sites: list[SiteModule] = Field(min_length=1)

    @property
    def shown(self) -> str:
        """`4 bottleneck adapters and 2 prefixes`."""
        return shown_sites(self.sites)


def shown_sites(sites: Sequence[SiteModule]) -> str:
    """Count sites by method, in words."""
    counts = Counter(site.method for site in sites)
    names = {Method.ADAPTER: ("bottleneck adapter", "s"), Method.PREFIX: ("prefix", "es")}
    return " and ".join(
        f"{counts[method]} {name}{ending if counts[method] > 1 else ''}"
        for method, (name, ending) in names.items()
        if counts[method]
    )


def stopping_peft_type(sites: Sequence[SiteModule]) -> str:
    """What stands in `adapter_config.json` in place of the method, so that plain PEFT stops and says what to do."""
    return f"LORA with {shown_sites(sites)} that plain PEFT would drop: load this folder with layerlens.load_adapted(folder)"


def write_sidecar(folder: Path, model: nn.Module, plan: Plan, base_model: str) -> None:
    """Write the bottlenecks and prefixes of a base model on which a plan is attached; the description comes last."""
    sites = site_modules(plan)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in site_parameters(model, sites).items()}
    write_bytes(folder / TENSORS_FILE, save(tensors, metadata={"format": "pt"}))
    write_json(folder / SITES_FILE, Sidecar(base_model=base_model, base_hash=plan.model.hash, task=plan.task, sites=sites))


def read_sidecar(folder: Path) -> Sidecar | None:
    """Read what a folder says of its bottlenecks and prefixes; none where it has none.

    Raises:
        ManifestError: half of it is missing, or it is damaged or of another version.
    """
    present = [name for name in (SITES_FILE, TENSORS_FILE) if (folder / name).is_file()]
    if not present:
        return None
    if len(present) == 1:
        missing = TENSORS_FILE if present == [SITES_FILE] else SITES_FILE
        raise ManifestError(f"{folder} holds {present[0]} without {missing}; copy the whole folder that `layerlens tune` wrote")
    sidecar = read_json(folder / SITES_FILE, Sidecar)
    if sidecar.schema_version != SCHEMA_VERSION:
        raise ManifestError(
            f"{folder / SITES_FILE} has version {sidecar.schema_version}, this LayerLens reads {SCHEMA_VERSION}; tune again"
        )
    return sidecar


def disable_together_(adapted: PeftModel) -> None:
    """Let `disable_adapter` of a PEFT model switch bottlenecks and prefixes off with the rest: the base runs alone then."""
    adapted.disable_adapter = partial(_disabled, adapted)


@contextmanager
def _disabled(adapted: PeftModel) -> Iterator[None]:
    sites = [module for module in adapted.modules() if isinstance(module, Bottleneck | Prefix)]
    before = [site.is_on for site in sites]
    with PeftModel.disable_adapter(adapted):
        try:
            for site in sites:
                site.is_on = False
            yield
        finally:
            for site, was_on in zip(sites, before, strict=True):
                site.is_on = was_on


def refuse_to_lose_(adapted: nn.Module, sidecar: Sidecar) -> None:
    """Make the methods of a PEFT model that would drop bottlenecks or prefixes in silence raise instead."""
    for name in ("save_pretrained", "merge_and_unload", "unload"):
        setattr(adapted, name, partial(_refuse, name, sidecar.shown))


def _refuse(name: str, shown: str, *_: object, **__: object) -> NoReturn:
    raise ConfigError(
        f"{name}: PEFT knows LoRA alone and would drop {shown}; copy the folder it was loaded from, or use it as it is"
    )


def load_sites_(folder: Path, sidecar: Sidecar, model: nn.Module) -> None:
    """Put the bottlenecks and prefixes of a folder on its base model, for good; none is put on where something is wrong.

    Args:
        folder: The folder.
        sidecar: What it says; checked against the base before PEFT wrapped any of its layers.
        model: The base model.

    Raises:
        ManifestError: the weights are damaged, or are not those that the description names.
    """
    try:
        tensors = load_file(folder / TENSORS_FILE)
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"cannot read {folder / TENSORS_FILE}: {error}; copy the folder again") from error
    take_off = attach_sites_(model, sidecar.sites, seed=0)
    parameters = site_parameters(model, sidecar.sites)
    needed = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if needed != found:
        take_off()
        differing = sorted(name for name in needed.keys() | found.keys() if needed.get(name) != found.get(name))
        raise ManifestError(
            f"{folder / TENSORS_FILE} does not hold what {SITES_FILE} names: {', '.join(differing[:3])}; copy the folder again"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            parameter.requires_grad_(False)
