"""Fetching a model from the Hugging Face hub: weights as safetensors, config and tokenizer, nothing that runs."""

from __future__ import annotations

import re
from pathlib import Path

from layerlens.errors import CheckpointError
from layerlens.models.foreign import one_line

#: Pickles, code and other frameworks' weights are never downloaded.
ALLOWED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
#: Copies for other runtimes lie in subfolders; a consolidated file holds the same weights once more. The modules of a sentence
#: encoder behind its transformer lie in subfolders too, `1_Pooling` and `2_Dense`, and belong to the model, as do the templates
#: in `additional_chat_templates`.
IGNORED = ["[!0-9a]*/*", "a[!d]*/*", "ad[!d]*/*", "[0-9][!_]*/*", "*/*/*", "consolidated*.safetensors"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_id(model: str) -> bool:
    """Whether a name can be a hub id (`name` or `owner/name`) and nothing of that name lies on this machine."""
    return HUB_ID.fullmatch(model) is not None and not Path(model).exists()


def fetch_snapshot(model: str) -> Path:
    """Download a model's safetensors, config and tokenizer, or find them in the hub's cache.

    Args:
        model: A hub id, `name` or `owner/name`.

    Returns:
        The folder of the snapshot in the hub's cache.

    Raises:
        CheckpointError: the hub does not know the id, denies it or cannot be reached, and the cache has no copy.
    """
    import huggingface_hub

    failure: Exception = LookupError(model)
    for is_local_only in (False, True):
        try:
            return Path(
                huggingface_hub.snapshot_download(
                    model, allow_patterns=ALLOWED, ignore_patterns=IGNORED, local_files_only=is_local_only
                )
            )
        except Exception as error:
            # Which types arrive depends on the hub client's HTTP library. The first failure says why the hub did not
            # answer; that the cache is empty too adds nothing.
            failure = error if not is_local_only else failure
    raise CheckpointError(
        f"{model} is no folder here, and the hub did not give a model of that name "
        f"({one_line(failure)}); check the spelling and the connection, or give a local folder"
    ) from failure
