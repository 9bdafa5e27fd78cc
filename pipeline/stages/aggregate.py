"""Stage `aggregate`: records into tables, figures, metrics and one report. Needs no service."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecocseg.files import atomic_write
from pipeline.report.cells import Experiment
from pipeline.report.formats import write_all
from pipeline.report.lines import cell_means
from pipeline.report.parallel import forked
from pipeline.report.reading import MANY
from pipeline.report.runs import load_experiments
from pipeline.report.scores import statistic
from pipeline.report.tables import build_table
from pipeline.report.terminal import terminal_text

if TYPE_CHECKING:
    from pipeline.report.canvas import Drawn


def aggregate(
    plan_path: Path, records_dir: Path, out: Path, processed_root: Path | None = None
) -> None:
    """Write everything that can be told of the plan's finished runs below `out`.

    tables/<experiment>.{md,tex,csv,html}, figures/*.png, plots/*.csv (learning curves, long),
    metrics.json, report.html. Equal records give equal bytes. Pictures of the runs are taken from
    `records_dir/../runs/<run_id>/pictures/`, the search from `out/search`, overlays and
    class colours from `processed_root`, each where it is there.

    All tables are made before the first file is written: raises UserError (no plan, a faulty
    record, mixed protocols, an unknown class, selection or row of the paper) and writes nothing.
    """
    from pipeline.report.diagnostics import label_picture
    from pipeline.report.page import Section, report_page
    from pipeline.report.panels import cell_panels, data_overlays
    from pipeline.report.search_page import search_section

    out, records_dir = Path(out), Path(records_dir)
    runs = records_dir.parent / "runs"
    experiments = load_experiments(plan_path, records_dir)
    tables = [build_table(experiment) for experiment in experiments]
    drawn = _drawn(experiments, runs, out / "figures")
    sections: list[Section] = []
    for experiment, table, (figures, qualitative, curves) in zip(
        experiments, tables, drawn, strict=True
    ):
        for ending, text in write_all(table):
            atomic_write(out / "tables" / f"{table.name}.{ending}", text)
        atomic_write(out / "plots" / f"{experiment.name}.csv", curves)
        sections.append(
            Section(
                experiment=experiment,
                table=table,
                figures=figures,
                panels=cell_panels(experiment, runs),
                labels=label_picture(experiment, runs),
                qualitative=qualitative,
            )
        )
    search = search_section(out / "search", out / "figures")
    processed = None if processed_root is None else Path(processed_root)
    overlays = [] if processed is None else data_overlays(experiments, processed)
    atomic_write(out / "metrics.json", json.dumps(metrics(experiments), indent=2) + "\n")
    # Last: where the report is, everything else is.
    atomic_write(out / "report.html", report_page(sections, search, overlays, processed))


def _drawn(
    experiments: list[Experiment], runs: Path, folder: Path
) -> list[tuple[list["Drawn"], list["Drawn"], str]]:
    """Figures, qualitative figures and learning curves (CSV) of each experiment.

    Of many runs in several processes.
    """
    from pipeline.report.curves import curves_csv
    from pipeline.report.diagnostics import draw_diagnostics
    from pipeline.report.figures import draw_figures
    from pipeline.report.qualitative import draw_qualitative

    tasks: list[Callable[[], Any]] = [
        task
        for experiment in experiments
        for task in (
            partial(draw_figures, experiment, folder),
            partial(draw_diagnostics, experiment, folder),
            partial(draw_qualitative, experiment, runs, folder),
            partial(curves_csv, experiment),
        )
    ]
    many = sum(len(experiment.records) for experiment in experiments) >= MANY
    found = forked(tasks) if many else [task() for task in tasks]
    each = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
    return [
        ([*figures, *diagnostics], qualitative, curves)
        for figures, diagnostics, qualitative, curves in each
    ]


def metrics(experiments: list[Experiment]) -> dict[str, Any]:
    """{experiment: {cell: {miou_mean, miou_std, n, best_miou_mean}}} for `dvc metrics`, percent.

    Of the first mean; where it is not of IoU, mdice or accuracy stands for miou. `best_miou_mean`
    is the student's at its best checkpoint, whatever the table selects. A cell without a finished
    run is left out, and so is the deviation of a single seed.
    """
    found: dict[str, Any] = {}
    for experiment in experiments:
        cells: dict[str, Any] = {}
        for cell in experiment.cells:
            score = statistic(list(cell_means(cell).values()))
            best = statistic(list(cell_means(cell, "best.student").values()))
            if score is None:
                continue
            first = next(iter(cell.means.values())).score
            name = first if first == "accuracy" else f"m{first}"
            values = {
                f"{name}_mean": score.mean,
                f"{name}_std": math.nan if score.std is None else score.std,
                "n": score.n,
                f"best_{name}_mean": math.nan if best is None else best.mean,
            }
            cells[cell.name] = {
                key: round(value, 4) for key, value in values.items() if not math.isnan(value)
            }
        found[experiment.name] = cells
    return found


def show(plan_path: Path, records_dir: Path) -> str:
    """The tables as Markdown for a terminal: classes in rows, so that they fit its width.

    Raises as `aggregate` does.
    """
    parts = []
    for experiment in load_experiments(plan_path, records_dir):
        table = build_table(experiment)
        notes = "\n".join(f"- {note}" for note in table.notes)
        parts.append(f"# {table.title}\n\n{terminal_text(table)}\n{notes}\n")
    return "\n".join(parts)
