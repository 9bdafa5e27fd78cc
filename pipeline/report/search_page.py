"""Everything that is told of a search: for results/search, and as a section of the report."""

from dataclasses import dataclass
from pathlib import Path

from ecocseg.files import atomic_write
from pipeline.report.canvas import Drawn
from pipeline.report.search_data import load_search
from pipeline.report.search_figure import draw_search
from pipeline.report.search_table import (
    sensitivity_markdown,
    sensitivity_note,
    sensitivity_tables,
    trials_markdown,
    trials_table,
)


@dataclass(frozen=True, kw_only=True)
class SearchSection:
    """What the page shows of the search: a sentence on the best trial, figures, tables.

    A table is a title, a note, and lines of cells, the headings first.
    """

    finding: str
    figures: list[Drawn]
    tables: list[tuple[str, str, list[list[str]]]]


def write_search_report(folder: Path) -> list[Path]:
    """Write trials.md, sensitivity.md and the figures beside trials.csv; returns all result files.

    Nothing is drawn where no trial has a score.
    """
    # Of an earlier search: this one may not have all of them.
    for path in (folder / "sensitivity.md", *folder.glob("search_*.png")):
        path.unlink(missing_ok=True)
    search = load_search(folder)
    if search is None:
        return []
    atomic_write(folder / "trials.md", trials_markdown(search))
    sensitivity = sensitivity_markdown(search)
    if sensitivity is not None:
        atomic_write(folder / "sensitivity.md", sensitivity)
    texts = [folder / name for name in ("trials.csv", "trials.md", "best.yaml", "search.json")]
    texts += [folder / "sensitivity.md"] if sensitivity is not None else []
    drawn = [one.path for one in draw_search(search, folder)]
    return [path for path in [*texts, *drawn] if path.is_file()]


def search_section(folder: Path, figures: Path) -> SearchSection | None:
    """The section of the search in `folder`, its pictures drawn into `figures`; None without."""
    search = load_search(folder)
    if search is None:
        return None
    best = search.best
    values = ", ".join(
        f"{name} = {best[name]:.3g}" if isinstance(best[name], float) else f"{name} = {best[name]}"
        for name in search.names
        if best[name] == best[name]
    )
    finding = (
        f"Best of {len(search.trials)} trials, with {best['miou']:.1f} ({search.measured}, "
        f"{best['steps']} steps): {values}. results/search/best.yaml holds it."
    )
    tables = [("All trials, best first", "", trials_table(search))]
    note = sensitivity_note(search)
    for title, lines in sensitivity_tables(search):
        tables.append((f"Sensitivity to {title}", note, lines))
        note = ""
    return SearchSection(finding=finding, figures=draw_search(search, figures), tables=tables)
