"""`layerlens merge`: a trained LoRA added into its base model's weights, as an ordinary checkpoint without any adapter.

    W ← W + (alpha / r) · up · down

A bottleneck is not linear and a prefix belongs to no weight, so a mixed adapter is refused as a whole: a folder that held
only its LoRA would be another model than the one that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from layerlens.adapting.load import adapter_in, base_checkpoint, load_adapted, open_adapter
from layerlens.compressing.tensor_files import check_output, new_folder
from layerlens.compressing.write_folder import copy_other_files
from layerlens.config import BaseFormat, output_path
from layerlens.errors import CheckpointError, ConfigError, ManifestError, few
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.compressed_checkpoint import CompressedCheckpoint
from layerlens.models.foreign import quiet
from layerlens.progress import SILENT, Progress

#: Types that a checkpoint may be written in.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class MergeResult:
    """The checkpoint that was written, or after a dry run would be; the bytes are those of all its tensors."""

    folder: Path
    size_bytes: int
    dtype: str
    is_written: bool = True


def merge(
    folder: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    dtype: str = "float32",
    dry_run: bool = False,
    command: str = "layerlens.merge",
    progress: Progress = SILENT,
) -> MergeResult:
    """Write the base model with an adapter's LoRA in its weights and its trained head in place.

    Args:
        folder: The output folder of `tune`, or the `adapter/` in it.
        out: Folder of the new checkpoint; must not exist, or be empty.
        model: The base model's folder or hub id where it is not where it was.
        dtype: Of the written weights: float32, bfloat16 or float16. In 16 bits a small update may be lost in rounding.
        dry_run: Merge in memory and count the bytes, but write nothing.
        command: The invocation; kept nowhere, since what is written is to be an ordinary checkpoint.
        progress: Who watches.

    Returns:
        What was written; it loads with `from_pretrained` and equals the adapted model within rounding.

    Raises:
        ConfigError: the adapter holds bottlenecks or prefixes, the base is quantised, the type is not known, or `out` cannot be
            written.
        ManifestError: no adapter, a damaged one, or one of another base.
        CheckpointError: the base is not there, or what was written would not load whole.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype: unknown type {dtype}; there are {', '.join(DTYPES)}")
    found, target = adapter_in(Path(folder).expanduser()), output_path(out)
    if found is None:
        raise ManifestError(f"{folder} holds no adapter; give the output folder of `layerlens tune`, or a PEFT folder")
    adapter = open_adapter(found)
    if adapter.sidecar is not None:
        raise ConfigError(
            f"{found} holds {adapter.sidecar.shown}, which no weight of the base can take; use it unmerged with "
            "layerlens.load_adapted, or plan and tune again with --methods lora,none"
        )
    if adapter.base_format is not BaseFormat.AS_IS:
        raise ConfigError(
            f"{found} was trained over its base in {adapter.base_format}, which cannot take a LoRA in without rounding it away; "
            "use it unmerged with layerlens.load_adapted"
        )
    base = base_checkpoint(adapter, model)
    if adapter.base is not None or isinstance(base, CompressedCheckpoint):
        raise ConfigError(
            f"{found} was trained over a base in few bits, which cannot take a LoRA in without rounding it away; use it unmerged "
            "with layerlens.load_adapted"
        )
    # A place that cannot be written to is told before the model is loaded.
    if dry_run:
        check_output(target, base.folder)
        return MergeResult(target, _tensor_bytes(_merged(found, base, model, dtype)), dtype, is_written=False)
    with new_folder(target, base.folder) as staged:
        progress.note(f"writing {target}")
        merged = _merged(found, base, model, dtype)
        merged.save_pretrained(staged)
        _check_whole(merged, staged)
        copy_other_files(base.folder, staged)
    return MergeResult(target, _tensor_bytes(merged), dtype)


def _merged(adapter: Path, base: Checkpoint, model: str | Path | None, dtype: str) -> PreTrainedModel:
    """The model with the adapter in its weights, as it is written."""
    merged: PreTrainedModel = load_adapted(adapter, model).merge_and_unload(safe_merge=True)
    _as_padded_(merged, base)
    return merged.to(DTYPES[dtype])


def _tensor_bytes(model: PreTrainedModel) -> int:
    """Bytes of all tensors that are saved, of tied ones once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values())


def _as_padded_(model: PreTrainedModel, base: Checkpoint) -> None:
    """Give back the base's own pad token, in whose place the tokenizer's was trained with.

    A model that is built anew makes its positions after it (RoBERTa, XGLM). Where a class with a head looks for it in a batch, to
    find a sample's last token, the tokenizer's is the one to look for.
    """
    with quiet():
        before = transformers.AutoConfig.from_pretrained(base.folder, local_files_only=True)
    own, trained = _pad_tokens(before), _pad_tokens(model.config)
    if own == trained or (trained[0] is not None and _looks_for_padding(model, trained[0])):
        return
    _set_pad_tokens_(model, own)


def _looks_for_padding(model: PreTrainedModel, pad_token: int) -> bool:
    """Whether a class finds a sample's last token by the pad token: it then reads another one under another pad token."""
    other = 0 if pad_token else 1
    tokens, trained = torch.tensor([[other, pad_token]]), _pad_tokens(model.config)
    read = []
    for taken in (pad_token, other):
        _set_pad_tokens_(model, (taken, taken))
        with torch.no_grad(), quiet():
            read.append(model(input_ids=tokens)[0])
    _set_pad_tokens_(model, trained)
    return not torch.equal(*read)


def _pad_tokens(config: PreTrainedConfig) -> tuple[int | None, int | None]:
    """Of a config, and of the text model in it."""
    return getattr(config, "pad_token_id", None), getattr(config.get_text_config(), "pad_token_id", None)


def _set_pad_tokens_(model: PreTrainedModel, tokens: tuple[int | None, int | None]) -> None:
    model.config.pad_token_id, model.config.get_text_config().pad_token_id = tokens


def _check_whole(model: PreTrainedModel, folder: Path) -> None:
    """Raise where transformers would fill a part of the model with random numbers when it loads the folder."""
    with quiet():
        # On the meta device names and shapes are matched, and nothing is held.
        _, report = type(model).from_pretrained(folder, device_map="meta", local_files_only=True, output_loading_info=True)
    lost = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if lost:
        raise CheckpointError(
            f"transformers {transformers.__version__} would not find {few(lost)} of the merged {type(model).__name__} again; use "
            "the adapter unmerged with layerlens.load_adapted, and report this"
        )
