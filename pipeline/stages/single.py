"""One run in this process: `ecocseg train experiment=NAME cell=NAME seed=0 key=value ...`."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecocseg.config import unknown
from ecocseg.errors import ConfigError, UserError
from ecocseg.files import atomic_write
from pipeline.config.compose import compose_config
from pipeline.config.epochs import with_steps
from pipeline.config.params import Params
from pipeline.config.run_spec import RunSpec, clean_config, validate
from pipeline.planning.duplicates import copy_record, originals
from pipeline.planning.plan import (
    applicable,
    compose_cell,
    file_fingerprints,
    file_overrides,
    fingerprint,
    list_fingerprints,
    load_experiment,
    plan_row,
    report_of,
    shared_overrides,
)
from pipeline.planning.settings import run_settings, tracking_config
from pipeline.runner.run import execute_run
from pipeline.store.lock import is_held
from pipeline.store.paths import RESULTS, record_file, run_directory
from pipeline.store.status import read_status
from pipeline.store.stopping import clear_stop
from pipeline.tracking import prepare_store, wait_for_sending

ADHOC = "adhoc"


def run(params: Params, overrides: Sequence[str]) -> None:
    """Train one cell to its record; a finished run is not done again."""
    row = build_row(params, overrides)
    path = record_file(RESULTS, row["run_id"])
    if path.is_file():
        print(f"{row['run_id']} is finished: {path}")
        return
    source = originals([row], RESULTS).get(row["run_id"])
    if source is not None and copy_record(row, source, RESULTS):
        print(f"{row['run_id']} is {source} under another name: its record is copied to {path}")
        return
    settings = run_settings(params)
    tracking = tracking_config(params)
    if tracking.enabled and tracking.database is not None:
        prepare_store(tracking, [row["experiment"]])
    folder = run_directory(RESULTS, row["run_id"])
    print(f"{row['run_id']} -> {folder}", file=sys.stderr)
    if not is_held(folder / "lock"):
        # An old one: a run that goes on somewhere is still to obey.
        clear_stop(folder)
    try:
        execute_run(row, settings)
    except UserError:
        raise
    except Exception as error:
        trace = folder / "error.txt"
        atomic_write(trace, traceback.format_exc())
        raise UserError(
            f"{row['run_id']}: {type(error).__name__}: {error}\n(traceback in {trace})"
        ) from error
    finally:
        wait_for_sending()
    status = read_status(run_directory(Path(settings["results"]), row["run_id"]))
    print(f"{row['run_id']}: {status.step if status else '?'} steps, record {path}")


def build_row(params: Params, overrides: Sequence[str]) -> dict[str, Any]:
    """The plan row of the cell that `overrides` name, or of a configuration without experiment."""
    named = {"experiment": ADHOC, "cell": "run", "seed": "0"}
    rest = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in named:
            named[key] = value
        else:
            rest.append(override)
    if not named["seed"].isdecimal():
        raise ConfigError(f"seed: got {named['seed']!r}, allowed is a whole number from 0 up")
    name = named["experiment"]
    if name == ADHOC:
        shared = applicable(rest, [*file_overrides(params), *params.overrides])
        rest = [*shared, *rest]
        config = with_steps(clean_config(compose_config(rest)), rest)
        components = validate(config)
        method = config["method"]["name"]
        experiment: dict[str, Any] = {
            "title": "Single runs",
            "description": "Runs started one by one.",
            "layout": "per_class",
            "means": {"mIoU": None},
            "selection": "last.student",
        }
        named["cell"] = f"{method}_{config['encoding']['name']}"
        entry: dict[str, Any] = {"label": method}
        kept = rest
    else:
        experiment = load_experiment(name)
        cells = experiment["cells"]
        if named["cell"] not in cells:
            raise ConfigError(unknown("cell", "cell", named["cell"], list(cells)))
        entry = cells[named["cell"]]
        # What is typed for this run must fit it; what params.yaml says of all runs need not.
        compose_cell(experiment, named["cell"], rest, strict=True)
        rest = [*shared_overrides(params, experiment, named["cell"], file_overrides(params)), *rest]
        config, components = compose_cell(experiment, named["cell"], rest)
        kept = applicable([f"experiment={name}", *entry["overrides"]], rest)
    data = {d: fingerprint(params, d, True) for d in components.benchmark.datasets}
    data |= file_fingerprints(components) | list_fingerprints(params, components, True)
    spec = RunSpec(
        experiment=name, cell=named["cell"], seed=int(named["seed"]), config=config, data=data
    )
    report = report_of(experiment, entry, config, 0, kept)
    # Nothing is put in order by its cost here, and to derive it takes seconds.
    return plan_row(spec, components, report, cost=0.0, needs={})
