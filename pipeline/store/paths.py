"""Where everything lies below the results folder."""

from pathlib import Path

RESULTS = Path("results")
PLAN_FILE = RESULTS / "plan.jsonl"
SEARCH_INPUTS = RESULTS / "search_inputs.json"
BEST_FILE = RESULTS / "search" / "best.yaml"
DIVERGED = "diverged.pt"
"""In a run's folder: `step`, `terms` (scalars of the step), `batch` (stream -> tensors as in
`Sample`) and `images` (stream -> keys); read it with `torch.load`."""


def run_directory(results_dir: Path, run_id: str) -> Path:
    """Where a run keeps its checkpoints, lock, status and logs."""
    return Path(results_dir) / "runs" / run_id


def record_file(results_dir: Path, run_id: str) -> Path:
    """Where a run's record lies once it is finished; it is complete, or not there."""
    return Path(results_dir) / "records" / f"{run_id}.json"
