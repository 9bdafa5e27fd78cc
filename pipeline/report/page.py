"""One HTML page with everything: tables, figures, panels, data, and how it was made. Offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from ecocseg.iou import class_scores
from pipeline.report.canvas import Drawn
from pipeline.report.cells import Experiment
from pipeline.report.formats import html_table
from pipeline.report.notes import selection_text
from pipeline.report.panels import (
    Overlay,
    Panel,
    class_colours,
    inline_picture,
)
from pipeline.report.parts import Row, Table
from pipeline.report.protocols import protocol_texts
from pipeline.report.provenance import all_runs, summary
from pipeline.report.scores import chosen_confusion
from pipeline.report.search_page import SearchSection
from pipeline.report.style import PAGE_CSS, TABLE_CSS

_ZERO = 0.05  # percent: what a table shows as 0.0


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one experiment."""

    experiment: Experiment
    table: Table
    figures: Sequence[Drawn]
    panels: Sequence[Panel] = field(default_factory=list)
    labels: Drawn | None = None
    """A picture of pseudo-labels, wider than the others."""
    qualitative: Sequence[Drawn] = field(default_factory=list)
    """Predictions of one-hot and ECOC beside each other, as wide."""


def report_page(
    sections: Sequence[Section],
    search: SearchSection | None = None,
    overlays: Sequence[Overlay] = (),
    processed_root: Path | None = None,
) -> str:
    """The whole report as one self-contained HTML text; pictures are inlined."""
    parts = [_section(section, processed_root) for section in sections]
    links = [(section.experiment.name, section.experiment.title) for section in sections]
    if search is not None:
        parts.append(
            f'<section id="search"><h2>Search of the hyper-parameters</h2>'
            f'<p class="finding">{escape(search.finding)}</p>{_figures(search.figures)}'
            f"{''.join(_folded(*table) for table in search.tables)}</section>"
        )
        links.append(("search", "Search"))
    if overlays:
        parts.append(_data(overlays))
        links.append(("data", "Data"))
    parts.append(_made([section.experiment for section in sections]))
    links.append(("made", "How it was made"))
    nav = "".join(f'<a href="#{escape(to)}">{escape(text)}</a>' for to, text in links)
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>ECOCSeg results</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{TABLE_CSS}{PAGE_CSS}</style></head>\n<body>"
        "<h1>Pseudo-label learning with error-correcting output codes: results</h1>"
        f"{_answers(sections)}<nav>{nav}</nav>\n{body}\n</body></html>\n"
    )


def _answers(sections: Sequence[Section]) -> str:
    """What ECOC does against one-hot in every experiment, and what no method has learnt."""
    lines = []
    for section in sections:
        texts = [*findings(section.table), *_unlearnt(section.experiment)]
        title = escape(section.experiment.title)
        lines += [f"<li><b>{title}.</b> {_minus(escape(text))}</li>" for text in texts]
    return f'<ul class="answers">{"".join(lines)}</ul>' if lines else ""


def _unlearnt(experiment: Experiment) -> list[str]:
    """A warning where a class that is there scores 0 in every run."""
    found = [
        class_scores(chosen_confusion(record, cell.selection), cell.class_score)
        for cell in experiment.cells
        for record in cell.records.values()
    ]
    if not found:
        return []
    best = np.max(found, axis=0)
    names = [name for name, score in zip(experiment.classes, best, strict=True) if score < _ZERO]
    return [f"No run learns {', '.join(names)}: at 0 in every one."] if names else []


def findings(table: Table) -> list[str]:
    """The difference rows as sentences: about the first mean, or the last column of a grid.

    A row of a grid that compares several columns with one is told as a whole.
    """
    rows = [row for row in table.rows if row.kind == "difference"]
    means = [i for i, column in enumerate(table.columns) if column.is_mean and not column.further]
    found = []
    for row in rows:
        label = f"{row.section}, {row.label}" if row.section else row.label
        there = [i for i in means if row.entries[i] is not None]
        if not there:
            continue
        if table.layout == "grid" and ", " in row.encoding:
            each = (_points(row, i, table) for i in there)
            found.append(f"{label}, in points: {', '.join(each)}.")
        else:
            place = there[0] if table.layout == "per_class" else there[-1]
            column = table.columns[place].name
            if table.columns_are is not None:
                column += f" {table.columns_are}"
            found += _finding(row, label, place, column)
    return found


def _points(row: Row, place: int, table: Table) -> str:
    entry = row.entries[place]
    assert entry is not None
    return f"{entry.mean:+.1f} ({table.columns[place].name})"


def _finding(row: Row, label: str, place: int, column: str) -> list[str]:
    entry = row.entries[place]
    assert entry is not None
    text = f"{label}: {entry.mean:+.1f} points ({column})"
    if entry.low is None or entry.high is None:
        return [f"{text}; one seed, so nothing can be said about chance."]
    sure = "excludes" if entry.low > 0 or entry.high < 0 else "includes"
    return [
        f"{text}, 95 % interval {entry.low:+.1f} to {entry.high:+.1f} over {entry.n} seeds, "
        f"which {sure} zero."
    ]


def _section(section: Section, processed_root: Path | None) -> str:
    experiment = section.experiment
    unfinished = len(experiment.records) < experiment.planned
    parts = [
        f'<section class="experiment" id="{escape(experiment.name)}">',
        f"<h2>{escape(experiment.title)}</h2>",
        f"<p>{escape(experiment.description)}</p>" if experiment.description else "",
        f'<p><span class="status{" open" if unfinished else ""}">{escape(experiment.status)}'
        f"</span> <code>{escape(experiment.name)}</code></p>",
        *(f'<p class="finding">{_minus(escape(text))}</p>' for text in findings(section.table)),
        html_table(section.table),
        _figures(section.figures),
    ]
    if section.panels or section.labels or section.qualitative:
        parts.append("<h3>Pictures</h3>")
        if processed_root is not None:
            parts.append(_legend(class_colours(experiment.protocol["dataset"], processed_root)))
        parts += [_figure(inline_picture(one.path), one.caption) for one in section.qualitative]
        parts.append('<div class="panels">')
        parts += [_figure(inline_picture(panel.path), _caption(panel)) for panel in section.panels]
        parts.append("</div>")
        if section.labels is not None:
            parts.append(_figure(inline_picture(section.labels.path), section.labels.caption))
    return "\n".join(part for part in parts if part) + "\n</section>"


def _caption(panel: Panel) -> str:
    """The cell; the file's name too where it tells more than that it is a panel."""
    name = panel.path.stem
    return panel.label if name == "panel" else f"{panel.label}, {name.replace('_', ' ')}"


def _data(overlays: Sequence[Overlay]) -> str:
    figures = "\n".join(
        _figure(inline_picture(overlay.path), f"{overlay.dataset}, split {overlay.split}")
        for overlay in overlays
    )
    return (
        '<section id="data"><h2>Data</h2><p>What training reads: images with their labels laid '
        f'over them, a sample of each split.</p><div class="panels">{figures}</div></section>'
    )


def _made(experiments: Sequence[Experiment]) -> str:
    runs = all_runs(list(experiments))
    about = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td>{escape(value)}</td></tr>'
        for what, value in summary(list(experiments))
    )
    heads = ("experiment", "cell", "seed", "run", "seconds", "steps/s", "peak MB", "attempts",
             "device", "host")  # fmt: skip
    numbers = {"seed", "seconds", "steps/s", "peak MB", "attempts"}
    head = "".join(
        f'<th scope="col"{_number_class(name in numbers)}>{escape(name)}</th>' for name in heads
    )
    lines = []
    for run in runs:
        texts: Mapping[str, str] = dict(
            zip(
                heads,
                (run.experiment, run.cell, str(run.seed), run.run_id, run.seconds, run.speed,
                 run.memory, run.attempts, run.device, run.host),
                strict=True,
            )
        )  # fmt: skip
        cells = "".join(
            f"<td{_number_class(name in numbers)}>"
            f"{f'<code>{escape(text)}</code>' if name == 'run' else escape(text)}</td>"
            for name, text in texts.items()
        )
        lines.append(f"<tr>{cells}</tr>")
    table = (
        f'<h3>Runs</h3><div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        if runs
        else "<p>No run is finished yet.</p>"
    )
    return (
        '<section id="made"><h2>How it was made</h2><p>Every number comes from the confusion '
        "matrices in <code>results/records/</code>; the selection rule and the protocol stand "
        'under each table and here.</p><div class="scroll"><table class="plain about">'
        f"<tbody>{about}</tbody></table></div>{_rules(experiments)}{table}</section>"
    )


def _folded(title: str, note: str, lines: Sequence[Sequence[str]]) -> str:
    """A table that opens on a click; cells between `**` are strong, numbers stand on the right."""

    def cell(tag: str, number: int, text: str) -> str:
        plain = escape(text.strip("*").replace("\\", "").replace("`", ""))
        shown = f"<strong>{plain}</strong>" if text.startswith("**") else plain
        return f"<{tag}{_number_class(number > 0)}>{shown}</{tag}>"

    rows = [
        "".join(cell("th" if place == 0 else "td", i, text) for i, text in enumerate(line))
        for place, line in enumerate(lines)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows[1:])
    told = f"<p>{escape(note.replace('`', ''))}</p>" if note else ""
    return (
        f"<details><summary>{escape(title)}</summary>{told}"
        f'<div class="scroll"><table class="plain"><thead><tr>{rows[0]}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _rules(experiments: Sequence[Experiment]) -> str:
    """Selection rule and protocol of every table."""
    lines = "".join(
        f'<tr><th scope="row">{escape(experiment.name)}</th>'
        f"<td>{escape(selection_text(experiment))}</td><td>{escape(protocol)}</td></tr>"
        for experiment in experiments
        for protocol in [" ".join(protocol_texts(experiment)) or "--"]
    )
    return (
        '<h3>Tables</h3><div class="scroll"><table class="plain about">'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _legend(colours: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in colours
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def _figure(source: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _figures(drawn: Sequence[Drawn]) -> str:
    figures = "\n".join(_figure(inline_picture(one.path), one.caption) for one in drawn)
    return f'<div class="figures">{figures}</div>' if drawn else ""


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _minus(text: str) -> str:
    """A hyphen before a digit is a minus sign."""
    return text.replace(" -", " −")
