"""`layerlens export`: a plan as another tool's files; a compressed folder as an ordinary checkpoint or in a standard format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from layerlens.artifacts.plan import load_plan, stem_of
from layerlens.compressing.folder_config import is_compressed_folder
from layerlens.config import output_path, path_beside
from layerlens.errors import CheckpointError, ConfigError
from layerlens.exporting.exported import Tool
from layerlens.exporting.run import write_export
from layerlens.progress import SILENT, Progress


@dataclass(frozen=True)
class ExportResult:
    """What was written, or after a dry run would be, and what a person should know of it."""

    folder: Path
    size_bytes: int
    form: str
    notes: list[str] = field(default_factory=list)
    is_written: bool = True


def export(
    source: str | Path,
    out: str | Path | None = None,
    *,
    to: str | None = None,
    dense: bool = False,
    compressed_tensors: bool = False,
    dry_run: bool = False,
    command: str = "layerlens.export",
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a plan for another tool, or a compressed folder in another form.

    Args:
        source: A plan, or a folder that `layerlens compress` wrote.
        out: Folder to write; beside the source, with the form in its name, if not given.
        to: Of a plan, the tool that trains it: peft, axolotl, llama-factory or trl.
        dense: Of a folder, decode every matrix into an ordinary checkpoint.
        compressed_tensors: Of a folder, write the standard format of that library, where it can say what the plan holds.
        dry_run: Check everything and count the bytes, but write nothing.
        command: The invocation; kept nowhere, since what is written is to be ordinary files.
        progress: Who watches.

    Raises:
        LayerLensError: the source is neither, or does not go with the form; the plan holds what no other tool knows; or the
            output cannot be written.
    """
    if is_compressed_folder(source):
        if to is not None:
            raise ConfigError(
                f"export: --to {to} takes a plan.json; of the compressed folder {source} write --dense or --compressed-tensors"
            )
        return _export_folder(source, out, dense=dense, compressed_tensors=compressed_tensors, dry_run=dry_run, progress=progress)
    if to is not None:
        if dense or compressed_tensors:
            raise ConfigError(
                "export: --to writes a plan for another tool, --dense and --compressed-tensors a folder; leave one out"
            )
        return _export_plan(source, out, to, dry_run=dry_run)
    if Path(source).expanduser().is_file():
        if dense or compressed_tensors:
            raise ConfigError(
                f"export: --dense and --compressed-tensors write a compressed folder in another form, and {source} is a file; "
                "give the folder that `layerlens compress` wrote"
            )
        raise ConfigError(f"export: say which tool {source} shall be written for: --to {', '.join(Tool)}; one of them")
    if dense == compressed_tensors:
        raise ConfigError(
            "export: say what to write: --to TOOL of a plan; of a compressed folder --dense for an ordinary checkpoint, or "
            "--compressed-tensors; one of them"
        )
    raise CheckpointError(f"{source} was not written by `layerlens compress`; give a folder that was")


def _export_plan(source: str | Path, out: str | Path | None, to: str, *, dry_run: bool) -> ExportResult:
    if to not in list(Tool):
        raise ConfigError(f"--to: unknown tool {to}; there are {', '.join(Tool)}")
    path = Path(source).expanduser()
    if is_compressed_folder(path.parent):
        raise ConfigError(
            f"{source} is the plan of a compressed folder, which has no adapters; give the plan of `layerlens plan`"
        )
    plan = load_plan(path)
    target = path_beside(path.with_name(stem_of(path)), f"-{to}") if out is None else output_path(out)
    exported = write_export(plan, Tool(to), target, dry_run=dry_run)
    files = ", ".join(sorted(exported.files))
    return ExportResult(target, sum(map(len, exported.files.values())), f"{files} for {to}", exported.notes, not dry_run)


def _export_folder(
    source: str | Path,
    out: str | Path | None,
    *,
    dense: bool,
    compressed_tensors: bool,
    dry_run: bool,
    progress: Progress,
) -> ExportResult:
    # A plan is exported without torch, which these need.
    from layerlens.compressing.compressed_tensors import write_compressed_tensors
    from layerlens.compressing.dense import write_dense

    if dense == compressed_tensors:
        raise ConfigError("export: say what to write: --dense for an ordinary checkpoint, or --compressed-tensors; one of them")
    folder = Path(source).expanduser()
    suffix = "dense" if dense else "compressed-tensors"
    target = path_beside(folder, f"-{suffix}") if out is None else output_path(out)
    if not dry_run:
        progress.note(f"writing {target}")
    write, form = (write_dense, "an ordinary checkpoint") if dense else (write_compressed_tensors, "compressed-tensors")
    return ExportResult(target, write(folder, target, dry_run=dry_run), form, is_written=not dry_run)
