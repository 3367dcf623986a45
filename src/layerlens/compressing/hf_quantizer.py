"""LayerLens as one of transformers' quantisers: how `from_pretrained` loads a compressed folder.

    get_hf_quantizer     config.json ──► LayerLensQuantizationConfig ──► LayerLensQuantizer; the hint is taken out of the config
    before loading       modules of compressed matrices are replaced by ones that hold them in stored form; the folder must have
                         every stored tensor
    loading              transformers itself: renaming, prefixes, shards, devices
    after loading        tensors get their stored types, and memory of their own; `save_pretrained` puts the hint back

Importing this module registers both classes. `registration` imports it when transformers' own table is imported, so at module
level only what is loaded by then may be imported.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from layerlens.compressing.folder_config import (
    QUANT_METHOD,
    VERSION,
    WEIGHTS_KEY,
    is_compressed_folder,
    read_matrices,
    restore_hint,
)
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import CONFIG_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@register_quantization_config(QUANT_METHOD)
class LayerLensQuantizationConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a compressed folder.

    Args:
        matrices: Dumped `StoredMatrix` by module path.
        version: Of the format.
    """

    def __init__(self, matrices: dict[str, Any] | None = None, version: int = VERSION, **_: Any) -> None:
        self.quant_method = QUANT_METHOD
        self.version = version
        self.matrices = matrices or {}


@register_quantizer(QUANT_METHOD)
class LayerLensQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads what `layerlens compress` wrote; it quantises nothing itself."""

    requires_calibration = True
    quantization_config: LayerLensQuantizationConfig

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Take the hint out of the config, so that transformers looks for weight files under their usual names."""
        if getattr(config, WEIGHTS_KEY, None) is not None:
            delattr(config, WEIGHTS_KEY)
        return config

    # Under transformers 5.0 … 5.10 this is the method that sees the config.
    update_tp_plan = update_attn_implementation

    def is_serializable(self) -> bool:
        """Whether `save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether transformers' trainer may train adapters over the model; its own matrices take no gradient."""
        return True

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        from layerlens.compressing.loaded_tensors import check_folder, headers_of
        from layerlens.compressing.module_replacement import replace_modules

        config = self.quantization_config
        self._dtype = model.dtype
        self._places = replace_modules(model, read_matrices(config.version, config.matrices))
        self._headers = headers_of(checkpoint_files or [])
        if checkpoint_files:
            check_folder(model, self._headers)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        from layerlens.compressing.loaded_tensors import check_marks, leave_files_, mark_types_, restore_types_

        if not self._headers:
            check_marks(model)
        restore_types_(model)
        leave_files_(model, self._headers)
        mark_types_(model, self._dtype)
        self._headers = {}
        matrices = self.quantization_config.matrices
        # Of the model alone, and by its own names: what it is saved as need not be what it was loaded from.
        model.config.quantization_config = LayerLensQuantizationConfig(
            {place: matrices[path] for path, place in self._places.items()}
        )
        model.save_pretrained = partial(_save, model)
        return model


def _save(model: PreTrainedModel, save_directory: str | Path, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
    """`save_pretrained`, and the hint put back: without it, code that does not know LayerLens would load random weights.

    Raises:
        ConfigError: the folder is to be uploaded in the same call.
    """
    from layerlens.compressing.loaded_tensors import hold_stored_forms_, saved_paths

    if kwargs.get("push_to_hub"):
        raise ConfigError("a compressed model is saved first and uploaded then; call its push_to_hub method")
    hold_stored_forms_(model)
    type(model).save_pretrained(model, save_directory, is_main_process, *args, **kwargs)
    # What transformers itself asks, where it asks more than the caller was told.
    is_main = getattr(model, "should_save_on_this_rank", bool)(is_main_process)
    folder = Path(save_directory)
    if is_main and is_compressed_folder(folder):
        restore_hint(folder / CONFIG_FILE, saved_paths(model, folder.glob("model*.safetensors")))
