"""What a compressed model is compared on: samples of the data, and a second text. All is settled before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from layerlens.adapting.samples import choose
from layerlens.adapting.tune import EVAL_SEED
from layerlens.artifacts.compression import CompressionPlan
from layerlens.config import EvaluateConfig
from layerlens.config.evaluation import DEFAULT_WINDOW
from layerlens.data.dataset import LoadedData
from layerlens.data.encoders.prepared import LENGTH_KEYS
from layerlens.data.example import Example
from layerlens.data.partition import in_split, partition
from layerlens.data.sources.decoding import read_text
from layerlens.errors import ConfigError
from layerlens.evaluation.perplexity import TokenWindows, cut_text
from layerlens.evaluation.second_text import second_text
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.processor import load_processor
from layerlens.words import TaskKind
from layerlens.workflow.calibration_data import CalibrationData
from layerlens.workflow.open import check_windows, open_data

_PARAGRAPH = re.compile(r"\n\s*\n")
#: Options that only some tasks have a use for.
_USED_BY = {
    "second_text": (TaskKind.CAUSAL_LM, TaskKind.EMBEDDING),
    "window": (TaskKind.CAUSAL_LM,),
    "stride": (TaskKind.CAUSAL_LM,),
}


@dataclass(frozen=True)
class ComparedText:
    """Samples of the data, or of the second text.

    Attributes:
        name: What they are told as.
        loaded: The data, whose task makes batches of the samples.
        examples: The samples; of data that are the calibration's those that nothing has seen; of a language model's second text
            none.
        is_calibration: Whether they are.
        windows: What a language model is compared on, one after the other; none for other tasks.
    """

    name: str
    loaded: LoadedData
    examples: Sequence[Example]
    is_calibration: bool
    windows: TokenWindows | None = None


class ComparedTexts:
    """Chooses both.

    Args:
        folder: The compressed folder.
        plan: Its plan.
        original: What it is compared with.
        config: Windows, limits, the second text.

    Raises:
        ConfigError: an option that the plan's task has no use for, or a second text that is not there.
    """

    def __init__(self, folder: Path, plan: CompressionPlan, original: Checkpoint, config: EvaluateConfig) -> None:
        self._plan, self._original, self._config = plan, original, config
        self._kind = plan.task.kind
        self._calibration = CalibrationData(folder, plan, original)
        #: What options do not hold for, and what a figure flatters.
        self.notes: list[str] = []
        for name, kinds in _USED_BY.items():
            if getattr(config, name) is not None and self._kind not in kinds:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for {' and '.join(kinds)}; {folder} was compressed for {self._kind}, so "
                    "leave it out"
                )
        if config.second_text is not None and not Path(config.second_text).expanduser().is_file():
            raise ConfigError(f"--second-text {config.second_text} is no file; give a text file")

    def of_data(self, data: str) -> ComparedText:
        """Samples of the data: of the calibration's those that nothing has seen, of others with splits those of the test.

        Raises:
            ConfigError: the data have changed since calibration, or they shall be cut otherwise than they can be.
            DataError: they cannot be read, or do not fit the plan's task.
        """
        config, is_text = self._config, self._kind is TaskKind.CAUSAL_LM
        is_same = self._calibration.is_same(data)
        loaded = self._opened(data, is_same=is_same)
        if is_same:
            check_windows(self._plan.task, loaded, config.max_length)
        chosen = self._chosen(loaded, is_same=is_same)
        limit = config.max_eval_samples
        if not is_text:
            drawn = chosen if limit is None else sorted(choose(chosen, limit, seed=EVAL_SEED))
            return ComparedText(loaded.id, loaded, loaded.take(drawn), is_same)
        length = loaded.task.info.max_length or self._window
        chosen = chosen[: max(1, config.max_tokens // length)][:limit]
        examples = loaded.take(chosen)
        stride = self._stride_of(data, chosen, length, is_same=is_same)
        return ComparedText(loaded.id, loaded, examples, is_same, _in_windows(examples, stride))

    def second(self, first: ComparedText) -> ComparedText | None:
        """The second text; none for tasks whose samples are no text alone.

        Raises:
            DataError: it predicts nothing, or this Python brings none.
        """
        if self._kind not in _USED_BY["second_text"]:
            return None
        name, text, is_calibration = self._second_text(first.name)
        tokenizer = load_processor(self._original, self._kind)
        limit = self._config.max_tokens
        if self._kind is TaskKind.EMBEDDING:
            length = first.loaded.task.info.max_length or self._window
            return ComparedText(name, first.loaded, _paragraphs(tokenizer, text, length, limit), is_calibration)
        stride = None if self._config.stride is None else min(self._config.stride, self._window)
        windows = cut_text(tokenizer, text, window=self._window, stride=stride)
        whole = TokenWindows(windows.tokens[:limit], windows.window, windows.stride, windows.bos)
        return ComparedText(name, first.loaded, (), is_calibration, whole)

    def _opened(self, data: str, *, is_same: bool) -> LoadedData:
        """The data, read as calibration read them where they are its own and nothing else is asked for."""
        config = self._config
        if is_same and (loaded := self._calibration.as_asked(config)) is not None:
            return loaded
        update = {"split": config.split or (self._calibration.config.get("split") if is_same else None)}
        if self._kind is TaskKind.CAUSAL_LM and not is_same:
            if config.max_length is not None:
                raise ConfigError(
                    f"--max-length {config.max_length}: text that did not calibrate the model is cut by --window; give that"
                )
            update["max_length"] = self._window
        return open_data(self._original, data, config.model_copy(update=update), self._plan.task)

    def _second_text(self, first: str) -> tuple[str, str, bool]:
        asked = self._config.second_text
        if asked is None:
            return *second_text(*(name for name in (self._calibration.name, first) if name is not None)), False
        is_calibration = self._calibration.is_kind(asked)
        if is_calibration:
            self.notes.append(f"--second-text {asked} is what calibrated the model, samples that calibration saw included")
        return asked, read_text(Path(asked).expanduser()), is_calibration

    @property
    def _window(self) -> int:
        """Tokens of a window: those asked for, or as many as the model has positions."""
        limits = [self._original.config.get(key) for key in LENGTH_KEYS]
        return min([self._config.window or DEFAULT_WINDOW, *(limit for limit in limits if isinstance(limit, int))])

    def _chosen(self, loaded: LoadedData, *, is_same: bool) -> Sequence[int]:
        if is_same:
            return self._calibration.unseen(loaded)
        if loaded.splits is None:
            return range(len(loaded.examples))
        if tests := in_split(loaded.splits, "test"):
            return tests
        return partition(len(loaded.examples), loaded.splits, seed=self._config.seed, has_eval_data=False).test

    def _stride_of(self, data: str, chosen: Sequence[int], length: int, *, is_same: bool) -> int:
        """Tokens between windows of the data: those asked for where the windows are one running text and cut for this."""
        asked = {"--window": self._config.window if is_same else None, "--stride": self._config.stride}
        is_running = not is_same and all(after == before + 1 for before, after in pairwise(chosen))
        if is_running:
            return min(self._config.stride or length, length)
        if idle := [flag for flag, value in asked.items() if value is not None]:
            self.notes.append(
                f"{data} is compared in the windows of {length} tokens that it is shared out in; {' and '.join(idle)} "
                f"{'hold' if len(idle) > 1 else 'holds'} for the second text alone"
            )
        return length


def _in_windows(examples: Sequence[Example], stride: int) -> TokenWindows:
    """Windows of a language model as they were cut; the last one of a text, which is shorter, is left out."""
    length = max(len(example["input_ids"]) for example in examples)
    tokens = [token for example in examples if len(example["input_ids"]) == length for token in example["input_ids"]]
    return TokenWindows(tokens, length, min(stride, length))


def _paragraphs(tokenizer: Any, text: str, length: int, max_tokens: int) -> list[Example]:
    """Paragraphs of a text up to `max_tokens`, each a sample."""
    pieces = [piece for piece in _PARAGRAPH.split(text) if piece.strip()]
    tokens: list[list[int]] = tokenizer(pieces, truncation=True, max_length=length)["input_ids"]
    ends = accumulate(map(len, tokens))
    kept = [ids for ids, end in zip(tokens, ends, strict=True) if end <= max_tokens] or tokens[:1]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in kept]
