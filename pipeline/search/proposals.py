"""The next point of a search, as a function of seed, number and everything known so far.

No sampler outlives a proposal: killed and started again, a search proposes what it would have
proposed undisturbed.
"""

import csv
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ecocseg.config import unknown
from ecocseg.errors import ConfigError
from pipeline.search.ledger import Known, Ledger, Trial
from pipeline.search.space import Space

RESULT_COLUMNS = ("trial", "miou", "std", "steps", "state")
"""Columns of a search's table that are no parameters."""
# As good as this is a trial that failed, to the sampler: worse than any other.
_FAILED = -1.0
# So often a point that was there before is drawn anew, and as often again at random.
_DRAWS = 50

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    space: Space, algorithm: str, seed: int, ledger: Ledger, max_steps: int
) -> dict[str, Any] | None:
    """Values for the next trial; None when the space has no more points.

    `grid` takes the points in order; `random` draws; `tpe` draws the first `ledger.startup` and
    then learns from scores at `max_steps` and, below them, from those of trials that were stopped
    (by how far they got, then by score), as Optuna does with pruned trials. Running trials count
    as bad ones, so that the next point lies elsewhere. `pbt` begins as `random` does.
    """
    tried = {_key(trial.values) for trial in ledger.trials}
    if algorithm == "grid":
        return next((point for point in space.grid() if _key(point) not in tried), None)
    number = len(ledger.trials) + 1
    for draw in range(2 * _DRAWS):
        # A sampler that has learned may come back to the same points again and again.
        kind = algorithm if draw < _DRAWS else "random"
        values = _draw(space, kind, _derive(seed, number, draw), ledger, max_steps)
        if _key(values) not in tried:
            return values
    if not space.finite:
        return None
    # Blind draws find few new points only where few are left.
    left = [point for point in space.grid() if _key(point) not in tried]
    return left[_derive(seed, number, 2 * _DRAWS) % len(left)] if left else None


def _draw(
    space: Space, algorithm: str, seed: int, ledger: Ledger, max_steps: int
) -> dict[str, Any]:
    with warnings.catch_warnings():
        # Of several options of the sampler, and of every conditional entry.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if algorithm != "tpe":
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            return space.suggest(study.ask())
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=ledger.startup,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        known = ledger.known
        study.add_trials([_frozen(space, p.values, p.step, p.score, max_steps) for p in known])
        study.add_trials([_of_trial(space, trial, max_steps) for trial in ledger.trials])
        return space.suggest(study.ask())


def _of_trial(space: Space, trial: Trial, max_steps: int) -> FrozenTrial:
    if trial.state == "failed":
        return _frozen(space, trial.values, max_steps, _FAILED, max_steps)
    if trial.state in ("finished", "stopped") and trial.last is not None:
        return _frozen(space, trial.values, trial.last.step, trial.last.mean, max_steps)
    distributions = space.distributions(trial.values)
    return create_trial(state=TrialState.RUNNING, params=trial.values, distributions=distributions)


def _frozen(
    space: Space, values: Mapping[str, Any], step: int, score: float, max_steps: int
) -> FrozenTrial:
    distributions = space.distributions(values)
    if step >= max_steps:
        return create_trial(value=score, params=dict(values), distributions=distributions)
    return create_trial(
        state=TrialState.PRUNED,
        params=dict(values),
        distributions=distributions,
        intermediate_values={step: score},
    )


def _key(values: Mapping[str, Any]) -> str:
    """Equal for equal points; Python would take 1 and true for the same."""
    return json.dumps(values, sort_keys=True)


def _derive(*parts: int) -> int:
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def read_earlier(
    paths: Sequence[str], space: Space, measures: Mapping[str, Any]
) -> tuple[list[Known], int]:
    """The points of tables that earlier searches wrote, and how many lie outside `space`.

    Trials without a score are passed over. Raises ConfigError for a file that is no such table, an
    unknown column, an entry without one, and where the search.json beside the table says that its
    scores are of something else than `measures`.
    """
    found: list[Known] = []
    outside = 0
    for path in paths:
        _check_measures(Path(path), measures)
        for row in _rows(Path(path), space):
            if not row["miou"]:
                continue
            entries = {entry.name: entry for entry in space.entries}
            values = {name: entries[name].read(row[name]) for name in entries if row[name]}
            if None in values.values() or space.why_not(values):
                outside += 1
            else:
                found.append(Known(values=values, step=int(row["steps"]), score=float(row["miou"])))
    return found, outside


def _check_measures(path: Path, measures: Mapping[str, Any]) -> None:
    about = path.with_name("search.json")
    try:
        earlier = json.loads(about.read_text()) if about.is_file() else {}
    except ValueError as error:
        raise ConfigError(
            f"search.warm_start: {about} is no JSON ({error}); remove it, or leave {path} out"
        ) from error
    for name, value in measures.items():
        if name in earlier and earlier[name] != value:
            raise ConfigError(
                f"search.warm_start: {path}: its scores are of another {name} ({earlier[name]}, "
                f"this search has {value}); leave the file out"
            )


def _rows(path: Path, space: Space) -> list[dict[str, str]]:
    where = f"search.warm_start: {path}"
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{where} cannot be read ({error}); name a search's trials.csv"
        ) from error
    if not {"miou", "steps", "state"} <= set(columns):
        raise ConfigError(f"{where}: got the columns {columns}; name a search's trials.csv")
    for name in columns:
        if name not in RESULT_COLUMNS and name not in space.names:
            raise ConfigError(
                unknown(where, "column", name, space.names)
                + "; search that field too, or leave the file out"
            )
    missing = [name for name in space.names if name not in columns]
    if missing:
        raise ConfigError(
            f"{where}: has no column {missing[0]!r}, which the space searches; leave the file out, "
            "or that field"
        )
    return rows
