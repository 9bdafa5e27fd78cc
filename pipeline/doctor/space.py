"""How much disk the runs that are not finished will take."""

from pathlib import Path
from statistics import median

from pipeline.monitor.grid_state import PLAN, look
from pipeline.store.paths import run_directory

_SAMPLE = 20


def results_need(results: Path) -> tuple[int, float]:
    """Number of planned runs without a record, and GB (10^9 bytes) that they will take.

    A run's folder is taken to become as large as those of finished runs are in the middle; (0, 0)
    while there is none of them.
    """
    if not (results / PLAN).is_file():
        return 0, 0.0
    waiting = [r for r in look(results).runs if r.planned and r.state not in ("finished", "copy")]
    finished = sorted((results / "records").glob("*.json"))[:_SAMPLE]
    sizes = [_size(run_directory(results, path.stem)) for path in finished]
    sizes = [size for size in sizes if size]
    if not sizes:
        return 0, 0.0
    there = sum(_size(run_directory(results, run.run_id)) for run in waiting)
    return len(waiting), max(0.0, len(waiting) * median(sizes) - there) / 1e9


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
