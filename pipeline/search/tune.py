"""Hyperparameter search on Ray Tune: Optuna proposes, ASHA stops, or a population trains (PBT).

All that a search knows lies in its ledger (`<storage>/state/<digest of the search>.json`) and its
trials' folders; what Tune keeps lasts as long as the command. So a search that was killed, or
whose budget grew, goes on by itself, and a changed one starts anew.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from ecocseg.errors import ConfigError, UserError
from pipeline.cluster.pool import Interrupted
from pipeline.cluster.resources import Resources, why_impossible
from pipeline.search.config import SearchConfig
from pipeline.search.ledger import ENDED, Ledger
from pipeline.search.proposals import read_earlier
from pipeline.search.space import Space, parse_space
from pipeline.search.trial_worker import METRIC, STEP, Work, folder_name, run_trial
from pipeline.search.tune_parts import (
    Observer,
    Proposer,
    UsedUp,
    Watch,
    halving,
    over,
    point,
    population,
)

_LOST_WORKERS = 3
_KEPT_CHECKPOINTS = 5  # of a population's member: others may be about to begin with one


@dataclass(frozen=True, kw_only=True)
class Searched:
    """How far a search came, and whether its hours were used up before its end."""

    config: SearchConfig
    ledger: Ledger
    space: Space
    used_up: bool

    @property
    def hours(self) -> float:
        """Hours for which trials held machines, those of earlier commands included."""
        return self.ledger.seconds / 3600

    @property
    def exhausted(self) -> bool:
        """Whether the space had fewer points than the budget has trials."""
        trials = self.config.trials
        return not self.used_up and trials is not None and len(self.ledger.trials) < trials


def search(
    config: SearchConfig,
    storage: Path,
    resources_of: Callable[[], Resources],
    connected: Callable[[], AbstractContextManager[None]],
    observers: Sequence[Observer] = (),
) -> Searched:
    """Run the search, or what is left of it, to the end of its budget.

    `connected()` connects to Ray for the length of a `with` block, entered only when something is
    left to do; `resources_of()` says inside it what a trial asks for. Raises ConfigError for a bad
    space or table of earlier points, UserError when no node can take a trial, Interrupted on
    Ctrl-C.
    """
    space, ledger = opened(config, storage)
    say_what_is_known(config, space, ledger)
    storage = Path(storage).absolute()
    proposer = Proposer(config, space, ledger)
    if not over(config, ledger):
        # The state of a population's member goes when it fails, and its next scores are new ones.
        ledger.retry(anew=config.algorithm == "pbt")
    if not over(config, ledger) and proposer.prepare():
        with connected():
            resources = resources_of()
            if reason := why_impossible(resources, ray.nodes()):
                raise UserError(f"search: each trial {reason}")
            ledger.unit = "GPU" if resources.gpus else "CPU core"
            work = Work(
                objective=config.objective,
                row=dict(config.row),
                settings=dict(config.settings),
                name=config.name,
                trials_dir=storage / "trials",
                threads=resources.threads,
                max_steps=config.max_steps,
                population=config.algorithm == "pbt",
            )
            watch = Watch(ledger, config, work, resources.gpus or resources.cpus, observers)
            _fit(config, proposer, watch, resources, storage / "tune" / config.name)
    left = any(trial.state not in ENDED for trial in ledger.trials)
    unproposed = proposer.more()
    return Searched(
        config=config,
        ledger=ledger,
        space=space,
        used_up=over(config, ledger) and (left or unproposed),
    )


def opened(config: SearchConfig, storage: Path) -> tuple[Space, Ledger]:
    """The space, and the ledger as an earlier command left it or with the points known before.

    Raises ConfigError for a bad space or table of earlier points, and when the algorithm cannot
    walk through the space.
    """
    space = parse_space(config.space)
    check_algorithm(config, space)
    path = Path(storage).absolute() / "state" / f"{config.name}.json"
    if (ledger := Ledger.load(path)) is not None:
        return space, ledger
    # Read once: a search may well write the table that it began with.
    known, outside = read_earlier(config.warm_start, space, config.measures)
    startup = 10 if config.trials is None else min(10, max(2, config.trials // 3))
    return space, Ledger(path, known, startup, outside)


def say_what_is_known(config: SearchConfig, space: Space, ledger: Ledger) -> None:
    """How much of a grid the budget reaches, and what earlier searches gave."""
    if config.algorithm == "grid":
        count, trials = len(space.grid()), config.trials
        if trials is not None and trials < count:
            print(f"search: the first {trials} of the grid's {count} points", file=sys.stderr)
    if config.warm_start:
        beyond = f"; {ledger.outside} lie outside the space and are left out"
        print(
            f"search: {len(ledger.known)} points of earlier searches are known, as they were read "
            f"when this search began{beyond if ledger.outside else ''}",
            file=sys.stderr,
        )


def check_algorithm(config: SearchConfig, space: Space) -> None:
    """Raise ConfigError when the algorithm cannot walk through the space."""
    for entry in space.entries if config.algorithm == "pbt" else ():
        if entry.values() is not None or entry.when or isinstance(entry.ends()[0], int):
            raise ConfigError(
                f"space.{entry.name}: pbt changes values while a network trains; allowed are "
                "uniform and loguniform, without step and when"
            )


def _fit(
    config: SearchConfig, proposer: Proposer, watch: Watch, resources: Resources, path: Path
) -> None:
    # Of a command that was killed: all of it that counts is in the ledger.
    shutil.rmtree(path, ignore_errors=True)
    tuner = tune.Tuner(
        _trainable(watch.work, resources),
        tune_config=_tune_config(config, proposer, reuse=not resources.gpus),
        param_space=_members(proposer.ledger) if watch.work.population else None,
        run_config=tune.RunConfig(
            name=path.name,
            storage_path=str(path.parent),
            stop={STEP: config.max_steps},
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            callbacks=[watch],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except UsedUp:
        print("search: the hours are used up; what was running is kept", file=sys.stderr)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted: all trials are kept as far as they came; the same command goes on "
            "with the search"
        ) from None
    finally:
        watch.ledger.save()
        watch.clear_up(wait_s=5.0)
        shutil.rmtree(path.parent, ignore_errors=True)


def _tune_config(config: SearchConfig, proposer: Proposer, reuse: bool) -> tune.TuneConfig:
    # As for the grid: a process that has held a GPU ends with its trial.
    common: dict[str, Any] = {"reuse_actors": reuse, "trial_dirname_creator": folder_name}
    if config.algorithm == "pbt":
        scheduler = population(config, proposer.space)
        return tune.TuneConfig(metric=METRIC, mode="max", scheduler=scheduler, **common)
    return tune.TuneConfig(
        metric=METRIC,
        mode="max",
        num_samples=-1,
        search_alg=proposer,
        scheduler=halving(config, proposer.ledger) if config.scheduler == "asha" else None,
        **common,
    )


def _members(ledger: Ledger) -> dict[str, Any]:
    """The members of a population that are not done, each with the values it goes on with."""
    points = {trial.number: point(trial) for trial in ledger.of("waiting")}

    def values(spec: Any) -> dict[str, Any]:
        found: dict[str, Any] = points[spec.config.number]["values"]
        return found

    return {"number": tune.grid_search(list(points)), "values": tune.sample_from(values)}


def _trainable(work: Work, resources: Resources) -> Callable[..., Any]:
    def trial(config: dict[str, Any]) -> None:
        run_trial(config, work)

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
