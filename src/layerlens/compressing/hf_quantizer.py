"""LayerLens as one of transformers' quantisers: how `from_pretrained` loads a compressed folder.

    get_hf_quantizer     config.json ──► LayerLensQuantizationConfig ──► LayerLensQuantizer; the hint is taken out of the config
    before loading       modules of compressed matrices are replaced by ones that hold them in stored form
    loading              transformers itself: renaming, prefixes, shards, devices
    after loading        every stored tensor must have come; `save_pretrained` puts the hint back

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

from layerlens.compressing.folder_config import QUANT_METHOD, VERSION, WEIGHTS_KEY, read_matrices, restore_hint
from layerlens.errors import ConfigError

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

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        from layerlens.compressing.module_replacement import replace_modules

        replace_modules(model, read_matrices(self.quantization_config.version, self.quantization_config.matrices))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        from layerlens.compressing.module_replacement import check_loaded

        check_loaded(model)
        model.save_pretrained = partial(_save, model)
        return model


def _save(model: PreTrainedModel, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
    """`save_pretrained`, and the hint put back: without it, code that does not know LayerLens would load random weights.

    Raises:
        ConfigError: the folder is to be uploaded in the same call.
    """
    if kwargs.get("push_to_hub"):
        raise ConfigError("a compressed model is saved first and uploaded then; call its push_to_hub method")
    type(model).save_pretrained(model, save_directory, *args, **kwargs)
    restore_hint(Path(save_directory) / "config.json")
