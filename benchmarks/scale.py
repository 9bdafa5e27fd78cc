"""What thousands of runs cost beside their training, in one table.

    python benchmarks/scale.py [--runs 1000 3000 10000] [--part planning] [--keep FOLDER]

Planning: a made-up project of so many runs, 20 seeds of each cell, in two experiments (a grid of
thresholds and loss weights, and a table of classes) through the real code: `ecocseg plan --out`;
the decision of `ecocseg grid` which runs are to do, with every second run finished; `ecocseg
tables` on all records. Records have 19 classes and the curves of 40,000 steps, 0.6 MB each. Each
measure is a process of its own: its time with imports (3 s of plan and decision), the processor's
time over all cores, its peak memory, and what each run beyond the line above took: linear growth is
a number that stays.

Scheduling: simulated grids on 1 to 256 GPUs, and the driver's own time on a real Ray; see
`scale_simulation.py`.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scale_project import make_project, write_records

import pipeline.config.compose


def use(folder: Path) -> None:
    """Work in a made project."""
    os.chdir(folder)
    pipeline.config.compose.CONF = folder / "conf"


def plan_runs(folder: Path) -> None:
    """`ecocseg plan --out`."""
    use(folder)
    from pipeline.config.params import load_params
    from pipeline.stages import plan

    plan.run(load_params(), write=True)


def decide(folder: Path) -> None:
    """What `ecocseg grid` does before it starts a run."""
    use(folder)
    from pipeline.planning.duplicates import originals
    from pipeline.planning.plan import read_plan
    from pipeline.stages import train
    from pipeline.store.paths import record_file

    rows, results = read_plan(), Path("half")
    sources = originals(rows, results)
    open_rows = [row for row in rows if not record_file(results, row["run_id"]).is_file()]
    todo = [row for row in open_rows if row["run_id"] not in sources]
    smoke = train.smoke_rows(todo)
    print(f"{len(todo)} runs to do, {len(sources)} copies, {len(smoke)} smoke runs")


def tables(folder: Path) -> None:
    """`ecocseg tables`."""
    use(folder)
    from pipeline.stages.aggregate import aggregate

    aggregate(Path("results/plan.jsonl"), Path("results/records"), Path("results"))


MEASURES: dict[str, Callable[[Path], None]] = {
    "plan": plan_runs,
    "decide what to do": decide,
    "aggregate": tables,
}


def measured(name: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, processor's seconds and peak MB of a measure, as a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    begun = time.perf_counter()
    process = context.Process(target=_alone, args=(name, folder, send))
    process.start()
    send.close()
    try:
        processor, peak = receive.recv()
    except EOFError as error:
        raise SystemExit(f"{name} failed") from error
    process.join()
    return time.perf_counter() - begun, processor, peak


def _alone(name: str, folder: Path, send: Any) -> None:
    with (folder / f"{name}.txt").open("w") as out:
        sys.stdout = out
        MEASURES[name](folder)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(each.ru_utime + each.ru_stime for each in used)
    send.send((processor, max(own_peak(), used[1].ru_maxrss / 1024)))


def own_peak() -> float:
    """Peak memory of this process in MB; `getrusage` counts the parent's from before its start."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def planning_table(counts: Sequence[int], keep: Path | None) -> Iterator[tuple[str, ...]]:
    """A line for each measure and number of runs."""
    yield ("measure", "runs", "s", "processor s", "peak MB", "processor ms a further run")
    found: dict[tuple[str, int], tuple[float, float, float]] = {}
    for runs in counts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary if keep is None else keep) / f"scale_{runs}"
            make_project(folder, runs)
            for name in MEASURES:
                found[name, runs] = measured(name, folder)
                if name == "plan":
                    write_records(folder)
    for name in MEASURES:
        for place, runs in enumerate(counts):
            seconds, processor, peak = found[name, runs]
            further = "--"
            if place:
                before = counts[place - 1]
                further = f"{1000 * (processor - found[name, before][1]) / (runs - before):.2f}"
            yield (
                name, f"{runs:,}", f"{seconds:.1f}", f"{processor:.1f}", f"{peak:,.0f}", further,
            )  # fmt: skip


def show(lines: Sequence[tuple[str, ...]]) -> None:
    """Columns under each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 3_000, 10_000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 256])
    parser.add_argument("--driver-runs", type=int, default=200, help="empty runs on a real Ray")
    parser.add_argument("--part", choices=("planning", "scheduling"))
    parser.add_argument("--keep", type=Path, help="a folder to leave the projects in")
    options = parser.parse_args()
    if options.part in (None, "planning"):
        print(f"Planning, on {os.cpu_count()} cores")
        show(list(planning_table(options.runs, options.keep)))
    if options.part in (None, "scheduling"):
        import scale_simulation

        print("\nScheduling, simulated")
        show(list(scale_simulation.table(options.gpus, max(options.runs))))
        processor, clock = scale_simulation.driver_overhead(options.driver_runs)
        print(
            f"\nThe driver on a real Ray of two cores: {1000 * processor:.1f} ms of its processor "
            f"and {1000 * clock:.0f} ms of the clock for each of {options.driver_runs} runs that "
            "do nothing"
        )


if __name__ == "__main__":
    main()
