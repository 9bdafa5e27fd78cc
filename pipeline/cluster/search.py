"""Hyperparameter search: Ray Tune with Optuna's TPE proposing and ASHA stopping bad trials.

Tune keeps its state under `<storage>/tune/<digest of the search>`, so that an interrupted search
is restored and a changed one starts anew. Each trial keeps its own files under
`<storage>/trials/<digest of its parameters>`: Tune's last snapshot may be a second old, and a
trial that finished after it is then read from there instead of being executed again.
"""

import hashlib
import json
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by Ray Tune when it is imported: a snapshot every second, no loggers and no Ctrl-C handler
# of its own, and trials that stay in the current folder.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores verbose=0

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from ecocseg.errors import ConfigError, UserError
from ecocseg.files import atomic_write
from pipeline.cluster.pool import Interrupted
from pipeline.cluster.resources import Resources, why_impossible
from pipeline.cluster.space import parse_space, plain_value
from pipeline.cluster.trials import FAILED, METRIC, SearchResult, summarise, write_result
from pipeline.cluster.worker import load
from pipeline.locks import RunLock

_LOST_WORKERS = 3


def search(
    objective: str,
    space: Mapping[str, Any],
    base_row: Mapping[str, Any],
    settings: Mapping[str, Any],
    trials: int,
    max_concurrent: int,
    seed: int,
    storage: Path,
    resources: Resources,
    max_steps: int,
    grace_steps: int,
) -> SearchResult:
    """Run or finish the search, inside `connect(...)`; writes `trials.csv` and `best.yaml`.

    `objective` is "module:function", a generator function called in a worker as
    `function(row, overrides, settings)` with `overrides` a dict of parameter values and
    `settings["trial_dir"]` a folder of the trial's own for checkpoints; it yields mappings with
    `step` and `miou` (percent). ASHA compares trials from `grace_steps` on, and at three times
    as many each next time, up to `max_steps`. Raises ConfigError for a bad space, UserError when no
    node can take a trial or every trial failed, Interrupted on Ctrl-C.
    """
    distributions = parse_space(space)
    if trials < 1 or max_concurrent < 1 or not 1 <= grace_steps <= max_steps:
        raise ConfigError(
            f"search: got trials {trials}, max_concurrent {max_concurrent}, grace_steps "
            f"{grace_steps}, max_steps {max_steps}; allowed 1 or more each, grace at most max"
        )
    if reason := why_impossible(resources, ray.nodes()):
        raise UserError(f"search: each trial {reason}")
    storage = Path(storage).absolute()
    row = dict(base_row)
    name = _digest([objective, dict(space), row, trials, max_concurrent, seed, max_steps])
    work = _Work(objective, row, dict(settings), storage / "trials", resources.threads, max_steps)
    trainable = _trainable(work, resources)
    path = storage / "tune" / name
    if tune.Tuner.can_restore(str(path)):
        tuner = tune.Tuner.restore(
            str(path), trainable=trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=max_concurrent,
                search_alg=OptunaSearch(
                    space=distributions, metric=METRIC, mode="max", sampler=_sampler(seed, trials)
                ),
                scheduler=ASHAScheduler(
                    time_attr="step", max_t=max_steps, grace_period=grace_steps, reduction_factor=3
                ),
                # As for the grid: a process that has held a GPU ends with its trial.
                reuse_actors=not resources.gpus,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage / "tune"),
                failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
                callbacks=[_Announcer(trials)],
                verbose=0,
            ),
        )
    try:
        with warnings.catch_warnings():
            # A restored trial reports its first steps again.
            warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
            grid = tuner.fit()
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted: finished trials are kept; the same command goes on with the search"
        ) from None
    outcomes = [grid[i].metrics or {} for i in range(len(grid))]
    if any(outcome.get(METRIC) in (None, FAILED) for outcome in outcomes):
        # Tune holds a trial that raised for done: without its state the next command tries the
        # failed ones again, and takes the finished ones from their own folders.
        shutil.rmtree(path, ignore_errors=True)
    result = summarise(grid, list(distributions), max_steps)
    write_result(result, storage, objective)
    return result


def _sampler(seed: int, trials: int) -> optuna.samplers.TPESampler:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=min(10, max(2, trials // 3)),
            multivariate=True,
            constant_liar=True,
        )


@dataclass(frozen=True)
class _Work:
    """What every trial of a search has in common."""

    objective: str
    row: dict[str, Any]
    settings: dict[str, Any]
    trials_dir: Path
    threads: int
    max_steps: int


def _folder_name(trial: Any) -> str:
    """Tune's own folder of a trial, by the number with which its tag begins.

    A restored search lists its trials in another order; by these names they can be put in order.
    """
    return f"{int(trial.experiment_tag.partition('_')[0]):05d}"


def _trainable(work: _Work, resources: Resources) -> Callable[..., Any]:
    def trial(config: dict[str, Any]) -> None:
        _run_trial(config, work)

    options = resources.ray_options()
    bundle = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
    if "memory" in options:
        bundle["memory"] = options["memory"]
    selector = options.get("label_selector")
    extra: dict[str, Any] = {"bundle_label_selector": [selector]} if selector else {}
    wrapped: Callable[..., Any] = tune.with_resources(
        trial, tune.PlacementGroupFactory([bundle], **extra)
    )
    return wrapped


def _run_trial(config: Mapping[str, Any], work: _Work) -> None:
    """In a worker: execute one trial, or report again what an earlier command saw of it."""
    overrides = {name: plain_value(value) for name, value in sorted(config.items())}
    folder = work.trials_dir / _digest([work.objective, work.row, overrides])
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    step = 0
    try:
        with RunLock(folder / "lock"):
            if done.exists():
                for report in json.loads(done.read_text()):
                    tune.report(report)
                return
            reports: list[dict[str, Any]] = []
            call = load(work.objective, work.threads)
            settings = work.settings | {"trial_dir": str(folder)}
            with closing(call(work.row, overrides, settings)) as events:
                for event in events:
                    step = int(event["step"])
                    reports.append({"step": step, METRIC: float(event[METRIC])})
                    # Before the report, which does not come back when it was the trial's last.
                    if step >= work.max_steps:
                        atomic_write(done, json.dumps(reports))
                    tune.report(reports[-1])
    except Exception as error:
        # Told as a bad value: Tune would take an exception for a lost worker and try again.
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        atomic_write(folder / "error.txt", traceback.format_exc())
        tune.report({"step": step, METRIC: FAILED, "message": text})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class _Announcer(tune.Callback):
    """A line on stderr for every trial that ends; Tune stores and restores it with the search."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Say what the trial came to."""
        self.ended += 1
        last = trial.last_result or {}
        score = last.get(METRIC)
        outcome = "failed" if score in (None, FAILED) else f"mIoU {score:.2f}"
        values = ", ".join(f"{k}={plain_value(v)}" for k, v in sorted(trial.config.items()))
        print(
            f"search: {self.ended} of {self.trials} trials done: {outcome} "
            f"at step {last.get('step', 0)} with {values}",
            file=sys.stderr,
            flush=True,
        )

    def get_state(self) -> dict[str, Any]:
        """For Tune's snapshots."""
        return {"ended": self.ended}

    def set_state(self, state: dict[str, Any]) -> None:
        """From Tune's snapshots."""
        self.ended = state["ended"]
