"""Loading what turns raw inputs into tensors: a checkpoint's tokenizer, or its image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.foreign import one_line, quiet
from layerlens.words import TaskKind

#: Classes that are nothing but what `tokenizer.json` says.
PLAIN_TOKENIZERS = {"TokenizersBackend", "PreTrainedTokenizerFast"}


def load_processor(checkpoint: Checkpoint, kind: TaskKind) -> Any:
    """Load what turns a task's raw inputs into tensors: the tokenizer, or the image processor (Pillow's, no torchvision).

    A tokenizer without a pad token pads with its end-of-text token.

    Raises:
        CheckpointError: the folder has no tokenizer or image processor that can be read, or nothing to pad with.
    """
    is_image = kind is TaskKind.IMAGE_CLASSIFICATION
    what = "image processor" if is_image else "tokenizer"
    options = {"backend": "pil"} if is_image else {}
    try:
        loader = transformers.AutoImageProcessor if is_image else _tokenizer_class(checkpoint.folder)
        with quiet():
            processor = loader.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        raise CheckpointError(
            f"cannot read the {what} of {checkpoint.folder} ({one_line(error)}); add the {what} files of the model"
        ) from error
    if not is_image and processor.pad_token is None:
        filler = processor.eos_token or processor.unk_token
        if filler is None:
            raise CheckpointError(f"the tokenizer of {checkpoint.folder} has neither a pad nor an end-of-text token; add one")
        processor.pad_token = filler
    return processor


def _tokenizer_class(folder: Path) -> Any:
    """Return the class that reads a folder's tokenizer as the folder itself declares it.

    For some families `AutoTokenizer` puts the family's own class over a plain `tokenizer.json`, whose words it then
    does not know: a Qwen2 with a tokenizer of its own would turn every text into nothing.
    """
    config = folder / "tokenizer_config.json"
    declared = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.exists() else None
    is_plain = declared in PLAIN_TOKENIZERS and (folder / "tokenizer.json").exists()
    return transformers.PreTrainedTokenizerFast if is_plain else transformers.AutoTokenizer
