"""What came out of compression, in plain words: the headline, the few numbers under it, and the statements."""

from __future__ import annotations

from collections import Counter

from layerlens.artifacts.compression_evaluation import CompressionEvaluation, TextQuality, Verdict
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.compression.formats import format_counts
from layerlens.reporting.compression.predictions import probe_spearman, probes
from layerlens.reporting.quantities import NO_BREAK, count, memory, nats, percent
from layerlens.reporting.summary import Tile
from layerlens.reporting.verdict import Statement, Tone
from layerlens.words import BudgetName

#: From here on the predictions rank matrices as the project asks of them.
SPEARMAN_REACH = 0.9


def headline(folder: CompressedFolder) -> str:
    """The one sentence that a reader takes away."""
    plan, held, rival = folder.plan, folder.winner, folder.best_baseline
    size = f"{memory(plan.size_bytes)} instead of {memory(plan.model.size_bytes)}, {plan.bits_per_weight:.2f} bits per weight"
    if held is None:
        return f"{size}; what that costs was not measured."
    loss = f"{size}, at a measured loss of {folder.loss(held.kl_nats)}"
    if held.is_baseline:
        return f"{loss}; a baseline, {held.name}, beat every plan of LayerLens's own."
    if rival is None:
        return f"{loss}; no baseline was measured."
    if held.kl_nats < rival.kl_nats:
        return f"{loss}, {percent(1 - held.kl_nats / rival.kl_nats)} below the best baseline."
    who = "a baseline that may not be written" if rival.name in folder.only_measured else "the best baseline"
    return f"{loss}; {who} does {'as well' if held.kl_nats == rival.kl_nats else 'better'}."


def tiles(folder: CompressedFolder) -> list[Tile]:
    """Size, bits, divergence, and the first text's perplexity where there is one."""
    plan, held = folder.plan, folder.winner
    before = 8 * plan.model.size_bytes / plan.model.num_parameters
    found = [
        Tile(
            "Size of all tensors",
            memory(plan.size_bytes),
            f"{percent(plan.size_bytes / plan.model.size_bytes)} of {memory(plan.model.size_bytes)}",
        ),
        Tile(
            "Bits per weight",
            f"{plan.bits_per_weight:.2f}",
            f"{before:.2f} before; over {count(plan.model.num_parameters)} parameters",
        ),
    ]
    if held is not None:
        found.append(
            Tile(
                f"Measured {folder.measure}",
                nats(held.kl_nats),
                f"{folder.whole_unit}, held-out samples; predicted {nats(folder.predicted_loss)}",
            )
        )
    else:
        found.append(Tile("Predicted loss", nats(folder.predicted_loss), f"{folder.whole_unit}, not measured"))
    texts = folder.evaluation.texts if folder.evaluation else []
    told = next((text for text in texts if text.perplexity is not None), None)
    if told is not None and told.perplexity is not None:
        found.append(Tile("Perplexity", f"{told.perplexity.after:.3f}", f"{told.perplexity.before:.3f} before, on {told.name}"))
    return found


def statements(folder: CompressedFolder) -> list[Statement]:
    """Everything else worth knowing, most important first."""
    evaluation = folder.evaluation
    found = [*_mismatch(folder), _race(folder)]
    if evaluation is not None:
        found += _texts(evaluation)
    found += [_size(folder), _plan(folder), *_prediction(folder)]
    if evaluation is not None:
        found += _layers(evaluation)
    found += _pillars(folder)
    if evaluation is not None:
        found += _travel(evaluation)
    found.append(_solver(folder))
    notes = folder.plan.metadata.get("notes")
    told = [str(note) for note in notes] if isinstance(notes, list) else []
    told += evaluation.notes if evaluation else []
    return [*found, *(Statement("Note", _sentence(note), Tone.CAUTION) for note in told)]


def _race(folder: CompressedFolder) -> Statement:
    held, rival, own = folder.winner, folder.best_baseline, folder.best_candidate
    number = len(folder.plan.measured)
    if held is None:
        text = f"{folder.plan.chosen.name} was not measured beside baselines, so nothing here says that planning was worth it."
        return Statement("Against baselines", text, Tone.CAUTION)
    if rival is None:
        text = f"{held.name} is the best of {number} measured, none of them a baseline: nothing says that planning was worth it."
        return Statement("Against baselines", text, Tone.CAUTION)
    theirs = f"{rival.name} ({nats(rival.kl_nats)} at {memory(rival.size_bytes)})"
    if held.is_baseline and held.kl_nats <= rival.kl_nats:
        text = f"The baseline {held.name} measured best of {number} and is what was written."
        if own is not None:
            text += f" The best plan of LayerLens's own, {own.name}, reaches {nats(own.kl_nats)} at {memory(own.size_bytes)}."
        return Statement("Against baselines", text, Tone.CAUTION)
    if held.kl_nats < rival.kl_nats:
        more = f", loses {percent(rival.kl_nats / held.kl_nats - 1)} more" if held.kl_nats > 0 else " loses more"
        text = (
            f"The best of {number} measured is {held.name}: {folder.loss(held.kl_nats)} at {memory(held.size_bytes)}. "
            f"The best baseline, {theirs}{more}."
        )
        return Statement("Against baselines", text, Tone.GOOD)
    verb = "measured the same" if held.kl_nats == rival.kl_nats else "measured better"
    text = f"{held.name} was written at {folder.loss(held.kl_nats)}, but the baseline {theirs} {verb}."
    barred = folder.only_measured.get(rival.name)
    if barred is not None:
        text += f" It may not be written: {barred}."
    is_fair = held.kl_nats == rival.kl_nats or barred is not None
    return Statement("Against baselines", text, Tone.CAUTION if is_fair else Tone.BAD)


def _texts(evaluation: CompressionEvaluation) -> list[Statement]:
    found = [Statement(f"On {text.name}", f"{_lost(text)}.") for text in evaluation.texts if _lost(text)]
    if evaluation.texts and all(text.is_calibration for text in evaluation.texts):
        note = "Only text of the calibration's own kind was evaluated; what is lost on other text is not known."
        found.append(Statement("Second text", note, Tone.CAUTION))
    return found


def _lost(text: TextQuality) -> str:
    parts = []
    if text.perplexity is not None:
        parts.append(f"perplexity {text.perplexity.before:.3f} → {text.perplexity.after:.3f}")
    if text.metric is not None:
        parts.append(f"{text.metric.name.replace('_', ' ')} {text.metric.before:.4f} → {text.metric.after:.4f}")
    if text.kl is not None:
        parts.append(f"KL {nats(text.kl.mean)} nats in the mean, {nats(text.kl.p99)} at the 99{NO_BREAK}% point")
    if text.embedding_distance is not None:
        parts.append(f"1 − cosine of embeddings {nats(text.embedding_distance.mean)} in the mean")
    if text.same_top_token is not None:
        parts.append(f"the same first choice in {100 * text.same_top_token:.1f}{NO_BREAK}%")
    return _upper("; ".join(parts))


def _size(folder: CompressedFolder) -> Statement:
    plan, budget = folder.plan, folder.plan.budgets.get(BudgetName.SIZE_BYTES)
    text = f"{count(plan.size_bytes)} bytes in all tensors, of {count(plan.model.size_bytes)} before"
    if budget is None or budget.limit is None:
        return Statement("Size", f"{text}; no limit was set.")
    left = f"{count(budget.limit - plan.size_bytes)} bytes under the limit of {memory(budget.limit)}"
    return Statement("Size", f"{text}; {left}, {percent(plan.size_bytes / budget.limit)} of it spent.")


def _plan(folder: CompressedFolder) -> Statement:
    return Statement("The plan", f"{folder.plan.chosen.name}: {format_counts(folder.plan.layers)}.")


def _prediction(folder: CompressedFolder) -> list[Statement]:
    found, value = probes(folder), probe_spearman(folder)
    parts, tone = [], Tone.PLAIN
    if (held := folder.winner) is not None:
        parts.append(f"Predicted {nats(folder.predicted_loss)}, measured {folder.loss(held.kl_nats)}.")
    if value is not None:
        parts.append(
            f"Over {len(found)} matrices measured alone, predicted and measured loss rank alike by Spearman {value:.3f}."
        )
        tone = Tone.GOOD if value >= SPEARMAN_REACH else Tone.CAUTION
    return [Statement("Prediction", " ".join(parts), tone)] if parts else []


def _layers(evaluation: CompressionEvaluation) -> list[Statement]:
    if not evaluation.layers:
        return []
    counts = Counter(layer.verdict for layer in evaluation.layers)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    worst = max(evaluation.layers, key=lambda layer: layer.output_error or 0.0)
    text = f"{told}; the largest output error is {percent(worst.output_error or 0.0)}, of {worst.layer}."
    bad = counts[Verdict.CRITICAL]
    return [Statement("Layers", text, Tone.BAD if bad else Tone.CAUTION if counts[Verdict.POOR] else Tone.GOOD)]


def _pillars(folder: CompressedFolder) -> list[Statement]:
    trial = folder.leave_one_out
    if trial is None or not trial.layers:
        return []
    if not trial.pillars:
        return [Statement("Pillars", f"None of {len(trial.layers)} layers stands out when it is left as it was.")]
    named = trial.pillars[0]
    first = next(entry for entry in trial.layers if entry.layer == named)
    others = f"; also {', '.join(trial.pillars[1:])}" if trial.pillars[1:] else ""
    text = f"Leaving {named} as it was gives back {percent(first.share)} of the loss, {folder.loss(first.gain_nats)}{others}."
    return [Statement("Pillars", text)]


def _travel(evaluation: CompressionEvaluation) -> list[Statement]:
    fit = evaluation.travel.together if evaluation.travel else None
    if fit is None or evaluation.travel is None:
        return []
    ratio, claimed = fit.end_over_start, fit.claimed_end_over_start
    told = "errors grow, they do not average out" if ratio >= 1 else "errors shrink" if ratio <= claimed else "less than claimed"
    text = (
        f"With all compressed the error after the last block is {ratio:.2f} times that after the first; averaging out as ε/√N "
        f"would leave {claimed:.2f}: {told}."
    )
    return [Statement("How errors travel", text)]


def _solver(folder: CompressedFolder) -> Statement:
    solver = folder.plan.solver
    text = f"The optimum is predicted to lose {folder.loss(-solver.value)} (relative gap {max(solver.gap, 0.0):.1g})"
    if solver.uniform_value is not None:
        text += f", uniform widths {nats(-solver.uniform_value)}"
    return Statement("On paper", f"{text}, what the folder holds {nats(folder.predicted_loss)}.")


def _mismatch(folder: CompressedFolder) -> list[Statement]:
    """Say so where what was evaluated is not this folder."""
    plan, evaluation = folder.plan, folder.evaluation
    if evaluation is None or evaluation.size_bytes.after == plan.size_bytes:
        return []
    weighed = count(evaluation.size_bytes.after)
    text = f"The evaluation weighed {weighed} bytes, the plan says {count(plan.size_bytes)}: it may be of another folder."
    return [Statement("Mismatch", text, Tone.BAD)]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    text = _upper(text)
    return text if text.endswith((".", "!")) else f"{text}."
