"""The lines under a table: status, selection rule, protocol, and what keeps it from the paper."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import published
from pipeline.report.runs import Experiment, pairs
from pipeline.report.scores import SELECTIONS, chosen_confusion


def table_notes(experiment: Experiment) -> list[str]:
    """What a reader must know to judge the numbers, in the order of importance."""
    records = experiment.records
    notes = [f"{experiment.status}."] if len(records) < experiment.planned else []
    seeds = sorted({record["seed"] for record in records})
    what = "IoU in percent, counted over the whole evaluated set"
    if experiment.layout == "grid":
        what = f"{next(iter(experiment.means))}: mean {what}"
    if any(len(cell.records) > 1 for cell in experiment.cells):
        what += "; mean ± sample standard deviation over seeds"
    if seeds:
        what += f" ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"
    notes.append(f"{what}. Best bold, second underlined, ranked before rounding; -- is absent.")
    unranked = [cell.label for cell in experiment.cells if not cell.ranked]
    if unranked:
        notes.append(f"Not ranked: {', '.join(dict.fromkeys(unranked))}.")
    notes.append(selection_text(experiment))
    if records:
        notes.append(protocol_text(experiment.protocol))
    for name, subset in experiment.means.items():
        if subset is not None:
            notes.append(f"{name} is the mean over {len(subset)} classes: {', '.join(subset)}.")
    if any(len(cell.records) == 1 for cell in experiment.cells):
        notes.append("† one seed only: no spread can be given.")
    if pairs(experiment.cells):
        notes.append(
            "Difference rows: ECOC minus one-hot in points, mean of the differences of equal "
            "seeds; brackets: paired 95 % t interval (needs two seeds)."
        )
    return notes + _data_notes(experiment) + _paper_notes(experiment)


def selection_text(experiment: Experiment) -> str:
    """Which checkpoint and network the table scores, as a sentence."""
    chosen = {cell.selection: cell.label for cell in experiment.cells}
    if len(chosen) == 1:
        return f"Selection: {SELECTIONS.get(next(iter(chosen)), next(iter(chosen)))}."
    each = [f"{cell.label}: {SELECTIONS[cell.selection]}" for cell in experiment.cells]
    return f"Selection: {'; '.join(dict.fromkeys(each))}."


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """The evaluation protocol as a sentence."""
    sliding = protocol["mode"] == "slide"
    mode = "sliding window" if sliding else "whole image"
    if sliding and protocol.get("window"):
        mode += f" {_size(protocol['window'])}, stride {_size(protocol.get('stride'))},"
    label = protocol["label_size"]
    scored = "the label's own size" if label == "original" else f"label size {label}"
    return (
        f"Protocol: {protocol['dataset']}, split {protocol['split']}, {protocol['images']} images, "
        f"{mode} at {_size(protocol['image_size'])}, scored at {scored} "
        f"(data {str(protocol['fingerprint'])[:12]})."
    )


def _size(size: Any) -> str:
    """[height, width], one number for both, or a word such as "original"."""
    if isinstance(size, list | tuple):
        return " x ".join(map(str, size))
    return "its own size" if size in (None, "original") else str(size)


def _data_notes(experiment: Experiment) -> list[str]:
    """Classes without a label in the evaluated set, and what is not as the paper has it."""
    notes = []
    records = experiment.records
    if records:
        matrix = chosen_confusion(records[0], "last.student").sum(axis=1)
        missing = [name for name, n in zip(experiment.classes, matrix, strict=True) if n == 0]
        if missing:
            notes.append(f"No labelled pixel in the evaluated set: {', '.join(missing)}.")
    deviations = [text for record in records for text in record.get("deviations") or ()]
    if deviations:
        notes.append(f"Not paper-exact: {'; '.join(dict.fromkeys(deviations))}.")
    return notes


def _paper_notes(experiment: Experiment) -> list[str]:
    notes = []
    for cell in experiment.cells:
        if not cell.paper:
            continue
        row = published.published_row(cell.paper["table"], cell.paper["where"])
        mean = published.audit(row)
        if mean is not None:
            notes.append(
                f"{published.table_number(cell.paper['table'])} prints mIoU {row['miou']} for "
                f"{row.get('method', cell.label)} {row.get('encoding', '')}; its printed classes "
                f"average {mean:.2f}."
            )
    return list(dict.fromkeys(notes))
