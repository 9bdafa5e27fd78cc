"""Stage `plan`: compose, validate and list the runs; a typo ends here, before a GPU is taken."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.params import Params
from pipeline.planning import PLAN_FILE, plan, write_plan
from pipeline.status import record_file

RESULTS = Path("results")


def run(params: Params, *, write: bool) -> None:
    """Print the planned runs, and with `write` put them into results/plan.jsonl."""
    rows = plan(params, need_data=write)
    if write:
        write_plan(rows)
    Console(file=sys.stdout).print(overview(rows, RESULTS))
    if write:
        print(f"{len(rows)} runs -> {PLAN_FILE}")


def overview(rows: Sequence[Mapping[str, Any]], results: Path) -> Table:
    """A table with a line for each cell: seeds, relative cost, finished runs."""
    table = Table(title="Planned runs", title_justify="left")
    for heading in ("experiment", "cell", "method", "encoding", "seeds", "steps", "cost", "done"):
        table.add_column(heading, justify="right" if heading in ("steps", "cost") else "left")
    longest = max(row["cost"] for row in rows)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["experiment"], row["cell"]), []).append(row)
    for (experiment, cell), members in groups.items():
        spec = members[0]["spec"]
        done = sum(record_file(results, row["run_id"]).is_file() for row in members)
        unprepared = any(value is None for value in spec["data"].values())
        table.add_row(
            experiment,
            cell,
            spec["method"]["name"],
            spec["encoding"]["name"],
            ", ".join(str(row["seed"]) for row in members),
            f"{spec['schedule']['steps']:,}",
            f"{members[0]['cost'] / longest:.2f}",
            "data not prepared" if unprepared else f"{done} of {len(members)}",
        )
    table.caption = "cost: pixels through the network, relative to the longest run"
    table.caption_justify = "left"
    return table
