"""What a run costs: the lines of the paper's Table 15."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.report import published
from pipeline.report.cells import Experiment, Record
from pipeline.report.parts import Column, Line

# Column -> the paper's column and what a record says, None where it does not. Runs of minutes would
# all take 0.0 hours: hence `fine`.
_COSTS: dict[Column, tuple[str, Callable[[Record], float | None]]] = {
    Column(name="GFLOPs", is_mean=True, decimals=2, exact=True): (
        "flops_g",
        lambda r: _scaled(_network(r, "macs"), 1e-9),
    ),
    Column(name="parameters (M)", is_mean=True, decimals=2, exact=True): (
        "",
        lambda r: _scaled(_network(r, "parameters"), 1e-6),
    ),
    Column(name="memory (MB)", is_mean=True, decimals=0): (
        "gpu_memory_mb",
        lambda r: r["timing"].get("peak_memory_mb"),
    ),
    Column(name="GPUs", is_mean=True, decimals=0, exact=True): (
        "gpus",
        lambda r: _gpus(r["environment"]),
    ),
    Column(name="training time (h)", is_mean=True, fine=True): (
        "training_time_h",
        lambda r: _scaled(r["timing"].get("seconds"), 1 / 3600),
    ),
}


def cost_lines(experiment: Experiment) -> tuple[list[Column], list[Line]]:
    """A line per cell, what it needs in columns, with the paper's values where there are some."""
    lines = []
    for cell in experiment.cells:
        values = {
            column.name: {
                seed: float(value)
                for seed, record in sorted(cell.records.items())
                if (value := get(record)) is not None
            }
            for column, (_, get) in _COSTS.items()
        }
        paper = None
        if cell.paper:
            table = cell.paper["table"]
            row = published.published_row(table, cell.paper["where"])
            paper = {
                column.name: published.column_value(table, row, theirs) if theirs else None
                for column, (theirs, _) in _COSTS.items()
            }
        lines.append(Line(label=cell.label, cells=(cell,), values=values, paper=paper))
    return list(_COSTS), lines


def cost_notes(experiment: Experiment) -> list[str]:
    """What the columns count, and on which machines."""
    records = experiment.records
    notes = [
        "GFLOPs are multiply-accumulates x 1e-9 of one forward pass"
        + _sizes(records)
        + ", as the paper counts them; memory is the highest of the run; training time includes "
        "evaluation. -- is absent."
    ]
    machines: dict[str, list[str]] = {}
    for cell in experiment.cells:
        for record in cell.records.values():
            environment = record["environment"]
            told = (environment.get("device"), environment.get("device_name"))
            name = ", ".join(str(text) for text in told if text) or "unknown device"
            machines.setdefault(name, []).append(cell.title)
    if len(machines) == 1:
        notes.append(f"Measured on: {next(iter(machines))}.")
    elif machines:
        each = (f"{m} ({', '.join(dict.fromkeys(rows))})" for m, rows in machines.items())
        notes.append(f"Measured on: {'; '.join(each)}.")
    for field, least in (("activation_checkpointing", 0), ("micro_batches", 1)):
        saving = [
            cell.title
            for cell in experiment.cells
            if any(
                r["spec"].get("schedule", {}).get(field, 0) > least for r in cell.records.values()
            )
        ]
        if saving:
            notes.append(f"Measured with schedule.{field}: {', '.join(saving)}.")
    if any(record["environment"].get("device") == "cpu" for record in records):
        notes.append(
            "On a CPU, memory is the whole process's: it does not compare with the paper's."
        )
    return notes


def _sizes(records: list[Record]) -> str:
    sizes = {tuple(s) for r in records if (s := (r.get("network") or {}).get("size"))}
    return " at " + " or ".join("x".join(map(str, size)) for size in sorted(sizes)) if sizes else ""


def _network(record: Record, name: str) -> float | None:
    value = (record.get("network") or {}).get(name)
    return None if value is None else float(value)


def _gpus(environment: Mapping[str, Any]) -> float | None:
    """GPUs that the run had: none on a CPU, one where nothing else is recorded."""
    device = environment.get("device")
    if device is None:
        return None
    return 0.0 if device == "cpu" else float(environment.get("gpus") or 1)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
