"""What a search found, as files: its trials, its best values as overrides, and what it was.

`trials.csv`, `best.yaml` and `search.json` are all that tables and figures are made of.
"""

import csv
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import CategoricalDistribution

from ecocseg.errors import UserError
from ecocseg.files import atomic_write
from pipeline.search.ledger import Ledger, Trial
from pipeline.search.space import Space, shown
from pipeline.search.trial_worker import METRIC
from pipeline.search.tune import Searched

# Fewer say nothing about which parameter matters.
_LEAST_TRIALS = 8


def best_trial(ledger: Ledger) -> Trial:
    """The highest last score among those that were trained longest.

    Scores at different steps do not compare. Raises UserError when there is no score at all.
    """
    scored = [trial for trial in ledger.trials if trial.last is not None]
    able = [trial for trial in scored if trial.state != "failed"]
    if not able:
        causes = [trial.message for trial in ledger.trials if trial.message]
        raise UserError(
            f"search: none of {len(ledger.trials)} trials has a score"
            + (f", the first failed with: {causes[0]}" if causes else "; give it a bigger budget")
        )
    longest = max(_last(trial)[0] for trial in able)
    candidates = [trial for trial in able if _last(trial)[0] == longest]
    return max(candidates, key=lambda trial: (_last(trial)[1], -trial.number))


def best_overrides(trial: Trial) -> list[str]:
    """A trial's values as command-line overrides."""
    return overrides(trial.schedule[-1]["values"] if trial.schedule else trial.values)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Values of fields as command-line overrides."""
    return [f"{name}={shown(value)}" for name, value in values.items()]


def write_result(searched: Searched, folder: Path, about: Mapping[str, Any]) -> Trial:
    """Write the three files into `folder`; returns the best trial.

    `about` says what was tuned: objective, evaluation, cell, seeds, and the search's identity.
    """
    best = best_trial(searched.ledger)
    atomic_write(folder / "trials.csv", _table(searched))
    step, score = _last(best)
    content: dict[str, Any] = {
        "overrides": best_overrides(best),
        "objective": {
            "name": about["objective"],
            "mode": "max",
            "function": searched.config.objective,
        },
        "evaluation": dict(about["evaluation"]),
        "search": about.get("search"),
        "seeds": list(about["seeds"]),
        METRIC: round(score, 4),
        "trial": best.number,
        "steps": step,
    }
    if best.schedule:
        content["note"] = (
            "a population changed these values while training, as the schedule says; a run with "
            "the last ones from its beginning is another run"
        )
        content["schedule"] = best.schedule
    atomic_write(folder / "best.yaml", yaml.safe_dump(content, sort_keys=False))
    atomic_write(folder / "search.json", json.dumps(_about(searched, best, about), indent=1) + "\n")
    return best


def _table(searched: Searched) -> str:
    text = io.StringIO()
    names = searched.space.names
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *names, METRIC, "std", "steps", "state"])
    for trial in searched.ledger.trials:
        values = trial.schedule[-1]["values"] if trial.schedule else trial.values
        last = None if trial.state == "failed" else trial.last
        std = "" if last is None or last.std is None else f"{last.std:.4f}"
        writer.writerow(
            [
                trial.number,
                *("" if name not in values else shown(values[name]) for name in names),
                "" if last is None else f"{last.mean:.4f}",
                std,
                last.step if last else 0,
                trial.state if trial.state in ("finished", "stopped", "failed") else "unfinished",
            ]
        )
    return text.getvalue()


def _about(searched: Searched, best: Trial, about: Mapping[str, Any]) -> dict[str, Any]:
    config = searched.config
    return {
        **about,
        "algorithm": config.algorithm,
        "scheduler": "none" if config.algorithm == "pbt" else config.scheduler,
        "steps": config.max_steps,
        "grace_steps": config.grace_steps,
        "seed": config.seed,
        "known": len(searched.ledger.known),
        "budget": {"trials": config.trials, "gpu_hours": config.gpu_hours},
        "hours": round(searched.hours, 4),
        "hours_of": searched.ledger.unit,
        "used_up": searched.used_up,
        "best": best.number,
        "parameters": {
            entry.name: {
                "values": list(entry.distribution.choices)
                if isinstance(entry.distribution, CategoricalDistribution)
                else None,
                "range": None
                if isinstance(entry.distribution, CategoricalDistribution)
                else entry.ends(),
                "log": bool(getattr(entry.distribution, "log", False)),
                "when": {name: list(values) for name, values in entry.when.items()},
            }
            for entry in searched.space.entries
        },
        "importance": importance(searched.ledger, searched.space),
        "schedules": {
            str(trial.number): trial.schedule for trial in searched.ledger.trials if trial.schedule
        },
    }


def importance(ledger: Ledger, space: Space) -> dict[str, Any] | None:
    """Share of the scores' variance that each parameter explains by itself (fANOVA).

    What their shares lack to 1 is the parameters' interaction. Compared are scores at the last step
    that all trials reached. Parameters that not every trial has are left out. None for fewer than
    8 trials, one parameter, or values that changed.
    """
    trials = [trial for trial in ledger.of("finished", "stopped") if trial.last is not None]
    names = [entry.name for entry in space.entries if not entry.when]
    if len(trials) < _LEAST_TRIALS or len(names) < 2 or any(trial.schedule for trial in trials):
        return None
    step = min(_last(trial)[0] for trial in trials)
    scores = [(trial, trial.score_at(step)) for trial in trials]
    if len({score for _, score in scores}) < 2:
        return None
    study = optuna.create_study(direction="maximize")
    for trial, score in scores:
        study.add_trial(
            optuna.trial.create_trial(
                value=score,
                params=trial.values,
                distributions=space.distributions(trial.values),
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=names, normalize=False
        )
    return {
        "step": step,
        "trials": len(trials),
        "shares": {name: round(float(found.get(name, 0.0)), 4) for name in names},
    }


def _last(trial: Trial) -> tuple[int, float]:
    assert trial.last is not None
    return trial.last.step, trial.last.mean
