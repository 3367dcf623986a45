"""Under which names a model has what a folder's files hold: transformers renames tensors, and adds or takes away a prefix."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def loaded_names(model: PreTrainedModel, names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Name in the model by name in the folder, by transformers' own rules.

    Args:
        model: What the folder is loaded as.
        names: Tensors of the folder.
        own: Tensors of the model, among which the names are looked for; other names, and tensors that transformers makes out of
            several, are left out.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    state = dict.fromkeys(own, True)
    found = {}
    for name in names:
        for rules in ((renamings, converters), ([], [])):
            renamed, pattern = rename_source_key(name, *rules, model.base_model_prefix, state)
            if renamed in state and pattern is None:
                found[name] = renamed
                break
    return found


def places_of(model: PreTrainedModel, paths: Iterable[str]) -> dict[str, str]:
    """Module path in the model by module path as a folder's tensors have it, for those that the model has.

    Args:
        model: Without weights, its modules as its class makes them.
        paths: Modules that have a `weight`.
    """
    found = loaded_names(model, (f"{path}.weight" for path in paths), model.state_dict())
    return {name.removesuffix(".weight"): place.removesuffix(".weight") for name, place in found.items()}
