"""Stage `plan`: compose, validate and list the runs; a typo ends here, before a GPU is taken."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ecocseg.files import atomic_write
from ecocseg.methods import build_method
from pipeline.config.params import Params
from pipeline.config.run_spec import COMPONENTS, Components, validate
from pipeline.planning.cost import LIMIT_GB, TERA_MACS_PER_HOUR, card_gb, run_memory
from pipeline.planning.duplicates import digest_of
from pipeline.planning.plan import overruled, plan, search_inputs, write_plan
from pipeline.runner.exhausted import savers
from pipeline.store.paths import PLAN_FILE, RESULTS, SEARCH_INPUTS, record_file

_RIGHT = ("steps", "GPU memory", "cost", "GPU h")
_COLUMNS = ("cell", "method", "encoding", "seeds", *_RIGHT, "done")
_WIDTH = 150
_MOST_LINES = 60
"""Of an experiment's table before cells that are alike share one."""


def run(params: Params, *, write: bool) -> None:
    """Print the planned runs, and with `write` put them into results/plan.jsonl."""
    rows = plan(params, need_data=write)
    if write:
        write_plan(rows)
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        # A file or a pipe has no width that the columns would have to share.
        console.width = _WIDTH
    tables, warnings = overview(rows, RESULTS)
    for table in tables:
        console.print(table)
    print(legend(rows))
    for warning in [*overruled(params), *warnings]:
        print(f"warning: {warning}")
    if write:
        print(f"{len(rows)} runs -> {PLAN_FILE}")


def write_search_inputs(params: Params) -> None:
    """Write what the search reads into one file, by which DVC sees whether any of it changed."""
    content = json.dumps(search_inputs(params), sort_keys=True, indent=1) + "\n"
    atomic_write(SEARCH_INPUTS, content)
    print(f"what the search reads -> {SEARCH_INPUTS}")


def overview(rows: Sequence[Mapping[str, Any]], results: Path) -> tuple[list[Table], list[str]]:
    """A table for each experiment with a line for each cell, and what to look at before a run.

    Of an experiment of many cells those that are alike in all columns share a line.
    """
    longest = max(row["cost"] for row in rows)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["experiment"], row["cell"]), []).append(row)
    lines: dict[str, list[_Line]] = {}
    warnings: list[str] = []
    heavy: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for (experiment, cell), members in groups.items():
        spec = members[0]["spec"]
        config = {name: spec[name] for name in COMPONENTS}
        components = validate(config)
        needed = _memory_gb(components, config)
        if needed is not None and needed > LIMIT_GB:
            key = experiment, savers(components.schedule)
            heavy.setdefault(key, []).append((cell, needed))
        if _built(config).uses_reference and components.model.weights == "none":
            warnings.append(
                f"{experiment}/{cell} keeps the network near its features before training, which "
                "are random without weights; set model.weights or method.feature_weight=0"
            )
        done = sum(record_file(results, row["run_id"]).is_file() for row in members)
        unprepared = any(value is None for value in spec["data"].values())
        columns = (
            spec["method"]["name"],
            spec["encoding"]["name"],
            seeds_text([row["seed"] for row in members]),
            f"{spec['schedule']['steps']:,}",
            _memory_text(needed, components, config),
            f"{members[0]['cost'] / longest:.2f}",
            _rounded(members[0]["cost"] / TERA_MACS_PER_HOUR),
        )
        lines.setdefault(experiment, []).append(
            _Line(cell, columns, None if unprepared else done, len(members))
        )
    found = [_too_large(*key, cells) for key, cells in heavy.items()]
    return [_table(name, cells) for name, cells in lines.items()], [*found, *warnings]


class _Line(NamedTuple):
    """A cell of the table; `done` of its `runs`, None where its data is not prepared."""

    cell: str
    columns: tuple[str, ...]
    done: int | None
    runs: int


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds in their order, three or more that follow each other as "0 to 19"."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(
        f"{part[0]} to {part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts
    )


def _table(experiment: str, cells: Sequence[_Line]) -> Table:
    runs = sum(line.runs for line in cells)
    title = f"{experiment}: {len(cells)} cells, {runs} runs"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", no_wrap=True)
    alike: dict[tuple[Any, ...], list[_Line]] = {}
    for line in cells:
        key = (line.columns, line.done is None) if len(cells) > _MOST_LINES else (line.cell,)
        alike.setdefault(key, []).append(line)
    for group in alike.values():
        done = sum(line.done or 0 for line in group)
        planned = sum(line.runs for line in group)
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        told = "no data yet" if group[0].done is None else f"{done} of {planned}"
        table.add_row(group[0].cell + more, *group[0].columns, told)
    return table


def _too_large(experiment: str, remedies: str, cells: Sequence[tuple[str, float]]) -> str:
    """One line for all cells of an experiment that one GPU is too small for."""
    sizes = sorted(needed for _, needed in cells)
    if len(cells) == 1:
        who = f"{experiment}/{cells[0][0]} needs about {sizes[0]:.1f} GB"
    else:
        names = ", ".join(name for name, _ in cells[:3]) + (", ..." if len(cells) > 3 else "")
        who = f"{experiment}: {len(cells)} cells ({names}) need about {sizes[0]:.1f}"
        who += f" to {sizes[-1]:.1f} GB" if sizes[-1] - sizes[0] >= 0.1 else " GB"
    return f"{who} on one GPU, more than {LIMIT_GB} GB; these lower it: {remedies}"


def _built(config: Mapping[str, Any]) -> Any:
    method = dict(config["method"])
    return build_method(method.pop("name"), method)


def _memory_gb(components: Components, config: Mapping[str, Any], gpus: int = 1) -> float | None:
    """Of each card when `gpus` share the batch."""
    schedule = replace(components.schedule, gpus=gpus)
    estimate = run_memory(replace(components, schedule=schedule), config)
    return None if estimate is None else card_gb(estimate)


def _memory_text(needed: float | None, components: Components, config: Mapping[str, Any]) -> str:
    """Of one process with the whole batch, and of each card that the recipe is meant for."""
    if needed is None:
        return "unknown"
    gpus = components.schedule.gpus
    if gpus == 1:
        return f"{needed:.1f} GB"
    return f"{needed:.1f} GB, or {gpus} x {_memory_gb(components, config, gpus):.1f}"


def legend(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the columns mean, and what all runs together cost."""
    distinct = {digest_of(row): row["cost"] for row in rows}
    total = sum(distinct.values())
    copies = len(rows) - len(distinct)
    lines = [
        "GPU memory: derived, float32 where precision is auto, CUDA's own 0.5 GB included; "
        "published figures are higher (DAFormer 9.8 GB, MIC 23.3 GB on one card)",
        "cost: multiply-accumulates of all passes, relative to the longest run",
        "GPU h: hours of one run on an RTX 3090 at the speed of the paper's Table 15 (DAFormer: "
        "13.7 h one-hot); evaluation and label path are not in it",
        f"in all {_rounded(2 * total / 1000)} PFLOP, about {_rounded(total / TERA_MACS_PER_HOUR)} "
        "GPU hours",
    ]
    if copies:
        lines.append(f"{copies} of {len(rows)} runs are copies of others, computed once")
    return "\n".join(lines)


def _rounded(number: float) -> str:
    if number < 0.01:
        return "< 0.01"
    return f"{number:,.0f}" if number >= 100 else f"{number:,.3g}"
