"""`layerlens export`: a compressed folder as an ordinary checkpoint, or in a standard quantised format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layerlens.compressing.compressed_tensors import write_compressed_tensors
from layerlens.compressing.dense import write_dense
from layerlens.config import output_path, path_beside
from layerlens.errors import CheckpointError, ConfigError
from layerlens.progress import SILENT, Progress
from layerlens.workflow.evaluate_compressed import is_compressed_folder


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    folder: Path
    size_bytes: int
    form: str


def export(
    source: str,
    out: str | Path | None = None,
    *,
    dense: bool = False,
    compressed_tensors: bool = False,
    command: str = "layerlens.export",
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a compressed folder in another form.

    Args:
        source: Folder that `layerlens compress` wrote.
        out: Folder to write; `SOURCE-dense` or `SOURCE-compressed-tensors` if not given.
        dense: Decode every matrix into an ordinary checkpoint.
        compressed_tensors: Write the standard format of that library, where it can say what the plan holds.
        command: The invocation; kept nowhere, since the folder is to be an ordinary one.
        progress: Who watches.

    Raises:
        LayerLensError: the source is no compressed folder, or the output cannot be written.
    """
    if dense == compressed_tensors:
        raise ConfigError("export: say what to write: --dense for an ordinary checkpoint, or --compressed-tensors; one of them")
    folder = Path(source).expanduser()
    if not is_compressed_folder(source):
        raise CheckpointError(f"{source} was not written by `layerlens compress`; give a folder that was")
    suffix = "dense" if dense else "compressed-tensors"
    target = path_beside(folder, f"-{suffix}") if out is None else output_path(out)
    progress.note(f"writing {target}")
    if dense:
        return ExportResult(target, write_dense(folder, target), "an ordinary checkpoint")
    return ExportResult(target, write_compressed_tensors(folder, target), "compressed-tensors")
