"""What was lost on each text: perplexity, divergence, agreement; what both models write; what they take to run."""

from __future__ import annotations

from layerlens.artifacts.compression_evaluation import Change, CompressionEvaluation, Generated, Memory, TextQuality
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import count, memory, nats, percent
from layerlens.reporting.section import Cell, Column, Section, figure, table


def texts_section(folder: CompressedFolder) -> Section | None:
    """The table of texts, generations, speed and memory; None without an evaluation."""
    evaluation = folder.evaluation
    if evaluation is None or not (evaluation.texts or evaluation.generated):
        return None
    parts: list[Markup | None] = []
    if evaluation.texts:
        parts.append(figure(_table(evaluation.texts), _caption(evaluation), title="Each text through both models"))
    parts.append(_running(evaluation))
    if evaluation.generated:
        rows = [_generation(pair) for pair in evaluation.generated]
        caption = (
            "Greedy, from the same prompt. What the compressed model writes differently is marked from its first character on."
        )
        parts.append(figure(join(rows), caption, title="What both write"))
    return Section("texts", "What was lost", join(parts))


def _table(texts: list[TextQuality]) -> Markup:
    """Only the columns that some text has."""
    shown: list[tuple[Column, list[Cell | str]]] = [
        (Column("Text"), [Cell(text.name) for text in texts]),
        (Column("Kind"), ["calibration's kind" if text.is_calibration else "other" for text in texts]),
    ]
    number = [
        ("Perplexity before", [_figure(text.perplexity.before if text.perplexity else None) for text in texts]),
        ("after", [_figure(text.perplexity.after if text.perplexity else None) for text in texts]),
        *_metrics(texts),
        ("KL mean, nats", [_nats(text.kl.mean if text.kl else None) for text in texts]),
        ("median", [_nats(text.kl.median if text.kl else None) for text in texts]),
        ("99 %", [_nats(text.kl.p99 if text.kl else None) for text in texts]),
        ("maximum", [_nats(text.kl.max if text.kl else None) for text in texts]),
        ("Same top token", [_share(text.same_top_token) for text in texts]),
        ("Cosine of logits", [_cosine(text.logits_cosine) for text in texts]),
        (
            "Embeddings, 1 − cosine: mean",
            [_nats(text.embedding_distance.mean if text.embedding_distance else None) for text in texts],
        ),
        ("Embeddings: maximum", [_nats(text.embedding_distance.max if text.embedding_distance else None) for text in texts]),
        ("Predictions", [count(text.num_positions) for text in texts]),
    ]
    shown += [(Column(head, is_number=True), list(cells)) for head, cells in number if any(cell != "–" for cell in cells)]
    rows = [[cells[at] for _, cells in shown] for at in range(len(texts))]
    return table("Texts", [column for column, _ in shown], rows)


def _metrics(texts: list[TextQuality]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(text.metric.name for text in texts if text.metric is not None)
    found = []
    for name in names:
        words = name.replace("_", " ")
        changes = [text.metric if text.metric is not None and text.metric.name == name else None for text in texts]
        found.append(
            (f"{words[:1].upper()}{words[1:]} before", [_cosine(change.before if change else None) for change in changes])
        )
        found.append(("after", [_cosine(change.after if change else None) for change in changes]))
    return found


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"


def _nats(value: float | None) -> str:
    return "–" if value is None else nats(value)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value) if value < 0.9 else f"{100 * value:.2f}\u00a0%"


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _caption(evaluation: CompressionEvaluation) -> str:
    has = {"kl": "KL(original ‖ compressed) per prediction", "embedding_distance": "1 − cosine of each sample's two embeddings"}
    compared = [words for name, words in has.items() if any(getattr(entry, name) is not None for entry in evaluation.texts)]
    text = f"{'; '.join(compared)}. The original is {evaluation.against}." if compared else ""
    cuts = [(entry.name, entry.windows) for entry in evaluation.texts if entry.windows is not None]
    for windows in dict.fromkeys(windows for _, windows in cuts):
        names = ", ".join(name for name, other in cuts if other == windows)
        start = "each begun by a begin-of-text token" if windows.has_bos else "without a begin-of-text token"
        text += f" Windows of {windows.window} tokens, stride {windows.stride}, {start} ({names})."
    if not any(not entry.is_calibration for entry in evaluation.texts):
        text += " Every text here is of the calibration's kind: nothing says how the model fares elsewhere."
    return text


def _running(evaluation: CompressionEvaluation) -> Markup | None:
    facts: list[tuple[str, str]] = [
        ("Size on disk, all tensors", f"{memory(evaluation.size_bytes.before)} → {memory(evaluation.size_bytes.after)}")
    ]
    if (held := evaluation.memory) is not None:
        facts.append(("Weights in memory", f"{memory(held.before.weight_bytes)} → {memory(held.after.weight_bytes)}"))
        before, after = _growth(held.before), _growth(held.after)
        if before is not None and after is not None:
            facts.append(("Resident memory of loading and a first run", f"{memory(sum(before))} → {memory(sum(after))}"))
            facts.append(("Pages of mapped files in that", f"{memory(before[1])} → {memory(after[1])}"))
    if (speed := evaluation.speed) is not None:
        facts.append(
            ("Generation at batch 1", f"{_change(speed.tokens_per_second)} tokens per second ({', '.join(speed.types)})")
        )
    listed = element("dl", join(join([element("dt", name), element("dd", value)]) for name, value in facts), class_="facts")
    return join([element("h3", "What it takes to run"), listed])


def _growth(held: Memory) -> tuple[int, int] | None:
    """What a model added to the process's own memory and to its pages of mapped files; None where it was not read after a run."""
    if held.file_before_bytes is None or held.file_after_bytes is None:
        return None
    of_files = held.file_after_bytes - held.file_before_bytes
    return max(0, held.resident_after_bytes - held.resident_before_bytes - of_files), max(0, of_files)


def _change(change: Change) -> str:
    ratio = f", {change.after / change.before:.2f} ×" if change.before > 0 else ""
    return f"{change.before:.1f} → {change.after:.1f}{ratio}"


def _generation(pair: Generated) -> Markup:
    same = _common(pair.before, pair.after)
    rest = element("mark", pair.after[same:]) if pair.after[same:] else None
    told = "the same throughout" if pair.num_same >= pair.num_tokens else f"{pair.num_same} of {pair.num_tokens} tokens the same"
    sides = [
        element("div", element("p", "Original", class_="what"), element("pre", pair.before)),
        element("div", element("p", f"Compressed, {told}", class_="what"), element("pre", join([pair.after[:same], rest]))),
    ]
    prompt = element("pre", pair.prompt, class_="prompt")
    return element(
        "div", element("p", "Prompt", class_="what"), prompt, element("div", join(sides), class_="pair"), class_="written"
    )


def _common(first: str, second: str) -> int:
    """Characters that two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
