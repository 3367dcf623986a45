"""Numbers as a person reads them: grouped, rounded, and never parted from their unit by a line break."""

from __future__ import annotations

from layerlens.words import BudgetName

NO_BREAK = "\u00a0"


def count(value: float) -> str:
    """`49152` → `49,152`."""
    return f"{value:,.0f}"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def scaled(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: `22716296` → `22.7 M`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)}{NO_BREAK}{prefix}{unit}"
    return f"{_three(value)}{NO_BREAK}{unit}".rstrip()


def memory(num_bytes: float) -> str:
    """Bytes in binary units: `1.62 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(num_bytes) >= 1024**power * 0.9995:
            return f"{_three(num_bytes / 1024**power)}{NO_BREAK}{unit}"
    return f"{num_bytes:.0f}{NO_BREAK}B"


def binary_unit(num_bytes: float) -> tuple[int, str]:
    """The binary unit that suits an amount, as its bytes and its name, for an axis that shows many amounts in one unit."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(num_bytes) >= 1024**power:
            return 1024**power, unit
    return 1, "B"


def nats(value: float) -> str:
    """Three significant digits: `0.0123`, `6.1e-5`."""
    return f"{value:.3g}".replace("e-0", "e-")


def duration(seconds: float) -> str:
    """`0.4 s`, `49 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NO_BREAK}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}{NO_BREAK}s"
    if whole < 7200:
        return f"{whole // 60}{NO_BREAK}min{NO_BREAK}{whole % 60}{NO_BREAK}s"
    return f"{whole // 3600}{NO_BREAK}h{NO_BREAK}{whole % 3600 // 60}{NO_BREAK}min"


def percent(share: float) -> str:
    """`0.0022` → `0.22 %`; more digits the smaller it is, and never a rounded zero."""
    value = 100 * share
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f}{NO_BREAK}%"
    return f"{value:.1f}{NO_BREAK}%" if abs(value) >= 1 else f"{value:.2g}{NO_BREAK}%"


def score(metric: str, value: float) -> str:
    """A metric as people quote it: accuracy in percent, everything else to three decimals."""
    return f"{100 * value:.1f}{NO_BREAK}%" if metric == "accuracy" else f"{value:.3f}"


def difference(metric: str, value: float) -> str:
    """How far two scores lie apart, without a sign: accuracy in points."""
    return f"{abs(100 * value):.1f}{NO_BREAK}points" if metric == "accuracy" else f"{abs(value):.3f}"


def spend(budget: BudgetName, value: float) -> str:
    """A budget's amount in its own unit."""
    match budget:
        case BudgetName.TRAINABLE_PARAMS:
            return f"{count(value)}{NO_BREAK}parameters"
        case BudgetName.FLOPS:
            return f"{scaled(value, 'FLOP')} per token"
        case BudgetName.VRAM_BYTES | BudgetName.SIZE_BYTES:
            return memory(value)
        case BudgetName.LATENCY_MS:
            return f"{_three(value)}{NO_BREAK}ms per token"
        case BudgetName.TIME_RATIO:
            return f"{_three(value)}{NO_BREAK}× full fine-tuning"


def unbroken(text: str) -> str:
    """Keep a percent sign on the line of its number."""
    return text.replace(" %", f"{NO_BREAK}%")


BUDGET_LABELS = {
    BudgetName.TRAINABLE_PARAMS: "Trainable adapter parameters",
    BudgetName.FLOPS: "Arithmetic of one training step",
    BudgetName.VRAM_BYTES: "Training memory",
    BudgetName.LATENCY_MS: "Latency added at inference, unmerged",
    BudgetName.TIME_RATIO: "Training time",
    BudgetName.SIZE_BYTES: "Stored size",
}


def _three(value: float) -> str:
    """Three significant digits without an exponent where that stays short."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.9995 else f"{value:.3g}"
