"""How the results were made: revision, versions, machine, time, per run and at a glance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.report.cells import Experiment, Record


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of the list of runs; texts as they are shown, "--" for what is not known."""

    experiment: str
    cell: str
    seed: int
    run_id: str
    seconds: str
    speed: str
    memory: str
    attempts: str
    device: str
    host: str


def all_runs(experiments: list[Experiment]) -> list[Run]:
    """Every finished run, in the order of the tables."""
    return [
        Run(
            experiment=experiment.name,
            cell=cell.name,
            seed=seed,
            run_id=_told_id(record),
            seconds=_number(record["timing"].get("seconds"), "{:.1f}"),
            speed=_number(record["timing"].get("steps_per_second"), "{:.2f}"),
            memory=_number(record["timing"].get("peak_memory_mb"), "{:.0f}"),
            attempts=_number(record["timing"].get("attempts"), "{:d}"),
            device=str(record["environment"].get("device") or "--"),
            host=str(record["environment"].get("host") or "--"),
        )
        for experiment in experiments
        for cell in experiment.cells
        for seed, record in sorted(cell.records.items())
    ]


def summary(experiments: list[Experiment]) -> list[tuple[str, str]]:
    """(what, value) over all runs: each value that occurs, with a count where there are several.

    Runs that share another's content were computed once and count once.
    """
    records = list({_computed(r): r for e in experiments for r in e.records}.values())
    if not records:
        return []
    seconds = sum(record["timing"].get("seconds") or 0 for record in records)
    return [
        ("Runs", f"{len(records)}, together {_duration(seconds)} of training and evaluation"),
        ("Git revision", _distinct(records, lambda r: r["environment"].get("git"))),
        ("Machine", _distinct(records, lambda r: r["environment"].get("host"))),
        ("Device", _distinct(records, _device)),
        ("Versions", _distinct(records, _versions)),
        ("Data", _distinct(records, _data)),
    ]


def _computed(record: Record) -> str:
    return str(record.get("same_as") or record["run_id"])


def _told_id(record: Record) -> str:
    told = str(record["run_id"])
    return f"{told} (same as {record['same_as']})" if "same_as" in record else told


def _device(record: Record) -> str:
    environment = record["environment"]
    threads = environment.get("threads")
    told = (environment.get("device"), environment.get("device_name"),
            f"{threads} threads" if threads else None)  # fmt: skip
    return ", ".join(str(text) for text in told if text)


def _versions(record: Record) -> str:
    versions = record["environment"].get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _data(record: Record) -> str:
    return ", ".join(f"{name} {str(mark)[:12]}" for name, mark in sorted(record["data"].items()))


def _distinct(records: list[Record], get: Callable[[Record], Any]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        text = str(get(record) or "--")
        counts[text] = counts.get(text, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(
        f"{text} ({n} runs)" if n > 1 else f"{text} (1 run)" for text, n in counts.items()
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _number(value: float | None, form: str) -> str:
    return "--" if value is None else form.format(value)
