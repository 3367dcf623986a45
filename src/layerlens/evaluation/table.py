"""The terminal's table of what a compressed model lost, text by text."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from layerlens.artifacts.compression_evaluation import CompressionEvaluation, TextQuality


def texts_table(result: CompressionEvaluation) -> Table:
    """A column for each text, a row for each measure that some text has."""
    table = Table(title=f"{result.model} against {result.against}")
    table.add_column("", no_wrap=True)
    for text in result.texts:
        table.add_column(text.name + (" (as calibrated on)" if text.is_calibration else ""), justify="right")
    for name, cell in _MEASURES.items():
        cells = [cell(text) for text in result.texts]
        if any(cells):
            table.add_row(name, *(each or "–" for each in cells))
    return table


def _changed(text: TextQuality) -> str:
    change = text.perplexity or text.metric
    return "" if change is None else f"{change.before:.4g} → {change.after:.4g}"


def _spread(text: TextQuality, name: str) -> str:
    found = text.kl or text.embedding_distance
    return "" if found is None else f"{getattr(found, name):.3g}"


#: What is printed of each text; a row that no text has is left out.
_MEASURES: dict[str, Callable[[TextQuality], str]] = {
    "positions": lambda text: f"{text.num_positions:,}",
    "windows": lambda text: f"{text.windows.window:,} tokens, {text.windows.stride:,} apart" if text.windows else "",
    "begin with BOS": lambda text: "" if text.windows is None else "yes" if text.windows.has_bos else "no",
    "perplexity": lambda text: _changed(text) if text.perplexity else "",
    "metric": lambda text: f"{text.metric.name} {_changed(text)}" if text.metric else "",
    "compared": lambda text: "KL, nats" if text.kl else "1 − cosine of embeddings",
    "mean": lambda text: _spread(text, "mean"),
    "median": lambda text: _spread(text, "median"),
    "99 %": lambda text: _spread(text, "p99"),
    "max": lambda text: _spread(text, "max"),
    "same top token": lambda text: "" if text.same_top_token is None else f"{text.same_top_token:.2%}",
    "cosine": lambda text: "" if text.logits_cosine is None else f"{text.logits_cosine:.4f}",
}
