"""`layerlens report` of a compressed folder: one self-contained page."""

from __future__ import annotations

from pathlib import Path

from layerlens.reporting.compression.folder import CompressedFolder, read_compressed
from layerlens.reporting.compression.formats import formats_section, matrices_section
from layerlens.reporting.compression.frontiers import frontiers_section
from layerlens.reporting.compression.pareto import pareto_section
from layerlens.reporting.compression.predictions import predictions_section
from layerlens.reporting.compression.provenance import provenance_section
from layerlens.reporting.compression.quality import quality_section
from layerlens.reporting.compression.sizes import sizes_section
from layerlens.reporting.compression.texts import texts_section
from layerlens.reporting.compression.travel import travel_section
from layerlens.reporting.compression.verdict import headline, statements, tiles
from layerlens.reporting.page import render_page

SECTIONS = (
    pareto_section,
    texts_section,
    sizes_section,
    formats_section,
    frontiers_section,
    predictions_section,
    quality_section,
    travel_section,
    matrices_section,
    provenance_section,
)


def build_compression_report(folder: Path) -> str:
    """Write the page of a compressed folder.

    Args:
        folder: Holds `plan.json` of a compression, and perhaps `evaluation.json`; curves lie in `<folder>.curves/`. Parts
            that are missing are left out, and the page says so.

    Returns:
        HTML that needs no network; the same files give the same bytes.

    Raises:
        ManifestError: a file is damaged, of another schema, or does not add up.
    """
    found = read_compressed(folder)
    kicker = f"LayerLens · {_subject(found)}"
    return render_page(
        title=kicker,
        kicker=kicker,
        headline=headline(found),
        tiles=tiles(found),
        statements=statements(found),
        sections=[section for make in SECTIONS if (section := make(found)) is not None],
        missing=found.missing,
    )


def _subject(folder: CompressedFolder) -> str:
    return f"{folder.plan.model.id.rstrip('/').rsplit('/', 1)[-1]}, compressed"
