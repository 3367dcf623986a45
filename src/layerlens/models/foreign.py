"""Living with the libraries that load models: their reports silenced, their errors told in one line, their tables read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

LONGEST_REASON = 300
#: Where transformers keeps the code of its models.
MODEL_CODE = "/transformers/models/"


def one_line(error: BaseException) -> str:
    """Return the type and the first line of another library's error, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(" :.") if lines else "no reason given"
    return f"{type(error).__name__}: {reason[:LONGEST_REASON]}"


def model_fault(error: BaseException) -> str | None:
    """What to say of an error that a model's own code raised in transformers; none for any other.

    Some models run on texts of one length alone, or in one arithmetic alone, and say so by a tensor's shape or type.
    """
    frames = [frame for frame in extract_tb(error.__traceback__) if MODEL_CODE in Path(frame.filename).as_posix()]
    if not frames:
        return None
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
    return (
        f"the model's own code failed ({one_line(error)}; {where}); where a shape or a type is at fault, another --max-length or "
        "--precision fp32 may do; --debug shows the traceback"
    )


def class_for(config: Any, auto: Any) -> Any:
    """The class that one of transformers' Auto classes takes for a config that it knows.

    For some families there are several (DeiT with a teacher and without): it is the one that the config names, else the first.
    """
    found = auto._model_mapping[type(config)]
    several = found if isinstance(found, list | tuple) else (found,)
    named = [each for each in several if each.__name__ in (getattr(config, "architectures", None) or ())]
    return (named or several)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading reports, hints and progress bars of transformers, and restore its settings afterwards.

    What a load report would say (missing or mismatched tensors) is checked and raised by the caller.
    """
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
