"""The options of `layerlens evaluate`."""

from __future__ import annotations

from pydantic import Field, model_validator

from layerlens.config.data import DataConfig
from layerlens.config.spellings import Source

#: Tokens of a window of text, where the user does not say and the model has positions for them.
DEFAULT_WINDOW = 512


class EvaluateConfig(DataConfig):
    """What a model is scored on; the windows and the generated text are for compressed models and language models."""

    batch_size: int = Field(default=16, gt=0, description="samples per batch of a compressed model; of others twice as many")
    threads: int | None = Field(default=None, gt=0, description="processor threads; torch's own choice if not given")
    max_eval_samples: int | None = Field(
        default=None,
        gt=0,
        description="use only so many samples, a seeded choice; a compressed language model's are the first windows",
    )
    second_text: Source | None = Field(
        default=None,
        description="a second text to compare language models or embeddings on; one of the standard library if not given",
    )
    window: int | None = Field(
        default=None,
        gt=1,
        description=f"tokens of a window of text that perplexity is measured in; {DEFAULT_WINDOW}, or as many as the model has "
        "positions, if not given; samples of the data that calibrated the model stay as they were cut",
    )
    stride: int | None = Field(
        default=None, gt=0, description="tokens from one window's start to the next one's; the window if not given"
    )
    max_tokens: int = Field(default=16384, gt=1, description="tokens of each text at most")
    new_tokens: int = Field(default=64, ge=0, description="tokens generated from each prompt; 0 for none")

    @model_validator(mode="after")
    def _strides_within_window(self) -> EvaluateConfig:
        window = self.window or DEFAULT_WINDOW
        if self.stride is not None and self.stride > window:
            raise ValueError(f"stride: {self.stride} is above window {window}, so tokens would be left out")
        return self
