"""How errors travel through the blocks, beside the claim that they average out as ε/√N.

Fitted: relative error of the hidden state after N blocks = ε · N^k, least squares in logarithms. The claim is k = −½. For single
matrices every one has an ε of its own and all share k; N counts blocks from the matrix's own on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from layerlens.artifacts.compression_evaluation import ErrorTravel, PowerLaw

CLAIMED_EXPONENT = -0.5


def error_travel(alone: Mapping[str, Sequence[float]], together: Sequence[float]) -> ErrorTravel:
    """Fit a power of N to measured errors.

    Args:
        alone: By matrix, compressed alone: relative error of the hidden state after its own block and every later one.
        together: All compressed: the same, after every block.

    Returns:
        The fits; none where no course has two errors above zero.
    """
    single, whole = fit_power(list(alone.values())), fit_power([together])
    return ErrorTravel(
        claimed_exponent=CLAIMED_EXPONENT,
        alone=single,
        together=whole,
        error_after_blocks=list(together),
        summary=_summary(single, whole),
    )


def fit_power(courses: Sequence[Sequence[float]]) -> PowerLaw | None:
    """Fit one exponent to several courses of errors, each with a scale of its own.

    Args:
        courses: Errors after 1, 2, … blocks; a course that is not above zero throughout, or shorter than two, is left out.
    """
    used = [np.log(np.array(course)) for course in courses if len(course) > 1 and min(course) > 0]
    if not used:
        return None
    steps = [np.log(np.arange(1, len(course) + 1)) for course in used]
    x = np.concatenate([step - step.mean() for step in steps])
    y = np.concatenate([course - course.mean() for course in used])
    exponent = float(x @ y / (x @ x))
    return PowerLaw(
        exponent=exponent,
        rms_log_error=_rms(y - exponent * x),
        claimed_rms_log_error=_rms(y - CLAIMED_EXPONENT * x),
        end_over_start=float(np.exp(np.mean([course[-1] - course[0] for course in used]))),
        claimed_end_over_start=float(np.exp(CLAIMED_EXPONENT * np.mean([step[-1] for step in steps]))),
        num_points=len(y),
    )


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _summary(alone: PowerLaw | None, together: PowerLaw | None) -> str:
    parts = [
        f"{what}: N^{fit.exponent:+.2f} (claimed N^{CLAIMED_EXPONENT:+.2f}); at the last block {fit.end_over_start:.2f} of the "
        f"first error (claimed {fit.claimed_end_over_start:.2f})"
        for what, fit in (("one matrix compressed", alone), ("all compressed", together))
        if fit is not None
    ]
    return "; ".join(parts) if parts else "no error to follow"
