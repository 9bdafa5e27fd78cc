"""The lines under a table: status, selection rule, protocol, and what keeps it from the paper."""

from ecocseg.iou import Score
from pipeline.report import published
from pipeline.report.cells import Cell, Experiment, pairs, shortest_names
from pipeline.report.cost import cost_notes
from pipeline.report.protocols import protocol_texts
from pipeline.report.scores import SELECTIONS, chosen_confusion


def table_notes(experiment: Experiment) -> list[str]:
    """What a reader must know to judge the numbers, in the order of importance."""
    records = experiment.records
    notes = [f"{experiment.status}."] if len(records) < experiment.planned else []
    if experiment.layout == "cost":
        notes += cost_notes(experiment)
    else:
        notes += _score_notes(experiment)
    if any(len(cell.records) == 1 for cell in experiment.cells):
        notes.append("† one seed only: no spread can be given.")
    if pairs(experiment.cells):
        notes.append(
            "Ratio rows: ECOC over one-hot, mean of the ratios of equal seeds."
            if experiment.layout == "cost"
            else "Difference rows: ECOC minus one-hot in points, mean of the differences of equal "
            "seeds; brackets: paired 95 % t interval (needs two seeds)."
        )
    if experiment.layout != "cost":
        notes += _data_notes(experiment)
    return notes + _deviation_notes(experiment) + _paper_notes(experiment)


def _score_notes(experiment: Experiment) -> list[str]:
    """What the scores are, which rows compete, and how they were evaluated."""
    records = experiment.records
    seeds = sorted({record["seed"] for record in records})
    what = _score_text(experiment)
    if any(len(cell.records) > 1 for cell in experiment.cells):
        what += "; mean ± sample standard deviation over seeds"
    if seeds:
        what += f" ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"
    contest = "ranked"
    if all(cell.group for cell in experiment.cells):
        contest = "ranked along each row"
    elif experiment.blocks != [None]:
        contest = "ranked within each section"
    notes = [f"{what}. Best bold, second underlined, {contest} before rounding; -- is absent."]
    if experiment.columns is not None:
        notes.append(f"Columns: {experiment.columns}.")
    unranked = [cell.contender for cell in experiment.cells if not cell.ranked]
    if unranked:
        notes.append(f"Not ranked: {', '.join(dict.fromkeys(unranked))}.")
    if experiment.references:
        notes.append("Rows with a table's number in brackets are the paper's alone, not ranked.")
    notes.append(selection_text(experiment))
    protocols = protocol_texts(experiment)
    if len(protocols) > 1:
        notes.append(
            "Rows are evaluated in different ways: their differences are also of protocol."
        )
    notes += protocols
    return notes + _mean_notes(experiment)


def _score_text(experiment: Experiment) -> str:
    """What the numbers of a table are."""
    if experiment.layout != "grid":
        return _counted(experiment, experiment.cells[0].class_score)
    texts = {}
    for cell in experiment.cells:
        for name, mean in cell.means.items():
            if mean.score == "accuracy":
                texts[name] = "share of all labelled pixels that are right, in percent"
                continue
            text = _counted(experiment, mean.score)
            texts[name] = text if len(cell.subset(name) or ()) == 1 else f"mean {text}"
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _counted(experiment: Experiment, score: Score) -> str:
    word = {"iou": "IoU", "dice": "Dice coefficient (DSC)"}[score]
    if experiment.protocol.get("per") == "folder":
        return f"{word} in percent, counted over each volume, mean over the volumes"
    return f"{word} in percent, counted over the whole evaluated set"


def _mean_notes(experiment: Experiment) -> list[str]:
    """Over which classes each mean is taken, where it is not over all."""
    notes = []
    for cell in experiment.cells:
        for name in cell.means:
            if (subset := cell.subset(name)) is not None:
                of = f" of {cell.block.title}" if cell.block else ""
                told = f"the mean over {len(subset)} classes: {', '.join(subset)}"
                if len(subset) == 1:
                    told = f"of the class {subset[0]} alone"
                notes.append(f"{name}{of} is {told}.")
    return list(dict.fromkeys(notes))


def selection_text(experiment: Experiment) -> str:
    """Which checkpoint and network the table scores, as a sentence."""
    chosen = {cell.selection: cell.label for cell in experiment.cells}
    if len(chosen) == 1:
        return f"Selection: {SELECTIONS.get(next(iter(chosen)), next(iter(chosen)))}."
    each = [f"{cell.title}: {SELECTIONS[cell.selection]}" for cell in experiment.cells]
    return f"Selection: {'; '.join(dict.fromkeys(each))}."


def _data_notes(experiment: Experiment) -> list[str]:
    """Classes without a label in the evaluated set."""
    notes = []
    records = experiment.records
    if records:
        labelled = chosen_confusion(records[0], "last.student").sum(axis=-1)
        labelled = labelled.reshape(-1, labelled.shape[-1]).sum(axis=0)
        missing = [name for name, n in zip(experiment.classes, labelled, strict=True) if n == 0]
        if missing:
            notes.append(f"No labelled pixel in the evaluated set: {', '.join(missing)}.")
    return notes


def _deviation_notes(experiment: Experiment) -> list[str]:
    """What the mark on a row's label stands for, rows of equal deviations together."""
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in experiment.cells:
        if cell.deviations:
            rows.setdefault(tuple(cell.deviations), []).append(cell)
    finished = [cell for cell in experiment.cells if cell.records]
    notes = []
    for deviations, cells in rows.items():
        who = ", ".join(shortest_names(cells, finished))
        if len(cells) == len(finished) > 1:
            who = "all finished rows"
        notes.append(f"* Not paper-exact: {who}: {'; '.join(deviations)}.")
    return notes


def _paper_notes(experiment: Experiment) -> list[str]:
    rows = [
        (cell.paper["table"], cell.paper["where"], cell.label)
        for each in experiment.cells
        for cell in each.places
        if cell.paper
    ]
    rows += [(one.table, one.where, one.label) for one in experiment.references]
    notes = []
    for table, where, label in rows:
        row = published.published_row(table, where)
        mean = published.audit(row)
        if mean is not None:
            of = f" ({row.get('benchmark', table)})" if len(experiment.blocks) > 1 else ""
            notes.append(
                f"{published.table_number(table)} prints mIoU {row['miou']} for "
                f"{row.get('method', label)} {row.get('encoding', '')}{of}; its printed classes "
                f"average {mean:.2f}."
            )
    return list(dict.fromkeys(notes))
