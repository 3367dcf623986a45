"""`layerlens report`: one page about everything that a run left."""

from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.store import write_bytes
from layerlens.config import output_path
from layerlens.progress import SILENT, Progress
from layerlens.reporting.page import PAGE_FILE
from layerlens.reporting.run import build_report
from layerlens.workflow.own_output import is_page, refuse_foreign


def report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.report",
    progress: Progress = SILENT,
) -> Path:
    """Write the page of a run folder.

    Args:
        folder: Folder with any of profile/, plan.json, evaluation.json, validation.json, or a compressed folder.
        out: The page, in place of an earlier one; `report.html` in the folder if not given. Any other file there is kept.
        dry_run: Make the page, but write nothing.
        command: The invocation.
        progress: Who watches.

    Returns:
        Where the page lies, or after a dry run would.

    Raises:
        ConfigError: another file would be replaced.
        ManifestError: nothing to report is there, or a file is damaged.
    """
    run = Path(folder).expanduser()
    path = output_path(out) if out else run / PAGE_FILE
    refuse_foreign(path, is_page, PAGE_FILE)
    page = build_report(run).encode()
    if dry_run:
        progress.note(f"dry run: {path}, {len(page):,} bytes, was not written")
    else:
        write_bytes(path, page)
    return path
