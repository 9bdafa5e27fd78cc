"""The ledger as Ray Tune sees it: who proposes, who stops, who changes values, who watches."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

from pipeline.search.config import SearchConfig
from pipeline.search.ledger import ENDED, Ledger, Score, Trial
from pipeline.search.proposals import propose
from pipeline.search.space import Space, plain_value
from pipeline.search.trial_worker import FAILED, METRIC, STEP, Work, clear

_SAVE_EVERY_S = 5.0


class Observer(Protocol):
    """Who follows a search, such as `pipeline.search.tracking`."""

    def began(self, trial: Trial) -> None:
        """A machine has taken the trial."""

    def scored(self, trial: Trial) -> None:
        """The trial has a new last score."""

    def ended(self, trial: Trial, ledger: Ledger) -> None:
        """The trial of the ledger is finished, stopped or failed."""


class UsedUp(Exception):
    """The hours are used up; Tune ends what is running."""


class Proposer(tune.search.Searcher):
    """The next trial, as long as the budget in trials lasts."""

    def __init__(self, config: SearchConfig, space: Space, ledger: Ledger) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.config, self.space, self.ledger = config, space, ledger

    def prepare(self) -> bool:
        """Whether there is something to do; a population is proposed now, as a whole."""
        if self.config.algorithm == "pbt":
            while self._new() is not None:
                pass
        return (self.ledger.waiting() or self._new()) is not None

    def suggest(self, trial_id: str) -> Any:
        """Number and values of the next trial, None while enough are running, FINISHED at the end.

        A trial of an earlier command that did not end comes before new ones.
        """
        if len(list(self.ledger.of("running"))) >= self.config.max_concurrent:
            return None
        trial = self.ledger.waiting() or self._new()
        if trial is None:
            return self.FINISHED
        trial.state = "running"
        self.ledger.save()
        return point(trial)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `Watch` tells the ledger, whatever algorithm proposed the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is on the disk."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def more(self) -> bool:
        """Whether the budget in trials and the space leave a point to propose."""
        return self._values() is not None

    def _values(self) -> dict[str, Any] | None:
        config, trials = self.config, self.config.trials
        if trials is not None and len(self.ledger.trials) >= trials:
            return None
        return propose(self.space, config.algorithm, config.seed, self.ledger, config.max_steps)

    def _new(self) -> Trial | None:
        values = self._values()
        if values is None:
            return None
        trial = self.ledger.add(values)
        self.ledger.save()
        return trial


def point(trial: Trial) -> dict[str, Any]:
    """A trial's configuration for Tune: its number, and the values that it goes on with."""
    values = trial.schedule[-1]["values"] if trial.schedule else trial.values
    return {"number": trial.number, "values": dict(values)}


def over(config: SearchConfig, ledger: Ledger) -> bool:
    """Whether the hours are used up."""
    return config.gpu_hours is not None and ledger.seconds >= 3600 * config.gpu_hours


def halving(config: SearchConfig, ledger: Ledger) -> ASHAScheduler:
    """ASHA that knows the trials which ended under earlier commands."""
    scheduler = ASHAScheduler(
        time_attr=STEP,
        max_t=config.max_steps,
        grace_period=config.grace_steps,
        reduction_factor=3,
    )
    # Tune keeps no scheduler's state beyond a command, and has no other way in.
    for trial in ledger.of("finished", "stopped"):
        for score in trial.scores:
            earlier: Any = SimpleNamespace(trial_id=f"ledger-{trial.number}")
            scheduler._brackets[0].on_result(earlier, score.step, score.mean)
    return scheduler


def population(config: SearchConfig, space: Space) -> PopulationBasedTraining:
    """Every `grace_steps` the worst quarter goes on from the best, with values near theirs."""

    def within(changed: dict[str, Any]) -> dict[str, Any]:
        values = changed["values"]
        for entry in space.entries:
            low, high = entry.ends()
            values[entry.name] = min(max(plain_value(values[entry.name]), low), high)
        return changed

    draw = {True: tune.loguniform, False: tune.uniform}
    return PopulationBasedTraining(
        time_attr=STEP,
        perturbation_interval=config.grace_steps,
        hyperparam_mutations={
            "values": {
                entry.name: draw[bool(getattr(entry.distribution, "log", False))](*entry.ends())
                for entry in space.entries
            }
        },
        custom_explore_fn=within,
        log_config=False,
    )


@dataclass
class Watch(tune.Callback):
    """Writes what happens into the ledger, tells observers, counts hours and clears up.

    `weight` is how many GPUs (or cores) a trial holds.
    """

    ledger: Ledger
    config: SearchConfig
    work: Work
    weight: float
    observers: Sequence[Observer]
    numbers: dict[str, int] = field(default_factory=dict)
    """Our number of Tune's trials, as first seen: a population copies configurations."""
    uncleared: dict[Path, None] = field(default_factory=dict)
    looked: float | None = None
    saved: float = 0.0

    def __post_init__(self) -> None:
        # Those of a command that was killed too.
        for trial in self.ledger.of(*ENDED):
            self.uncleared[self.work.folder(trial.number, trial.values)] = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; it is this object that goes on."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A process for the trial is there."""
        ours = self._ours(trial)
        ours.state = "running"
        self.ledger.save()
        for observer in self.observers:
            observer.began(ours)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Note the score."""
        if result[METRIC] == FAILED:
            return
        ours = self._ours(trial)
        if "schedule" in result:
            ours.schedule = json.loads(result["schedule"])
        score = Score(step=result[STEP], mean=result[METRIC], std=result.get("std"))
        if self.ledger.report(ours.number, score):
            for observer in self.observers:
                observer.scored(ours)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note the end, and say it."""
        result: Mapping[str, Any] = trial.last_result or {}
        if result.get(METRIC, FAILED) == FAILED:
            self._end(trial, "failed", str(result.get("message", "it reported no score")))
        else:
            last = self._ours(trial).last
            reached = last is not None and last.step >= self.config.max_steps
            self._end(trial, "finished" if reached else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tune has tried often enough."""
        self._end(trial, "failed", "lost its worker or node again and again")

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Count the time and clear up; raises UsedUp when the budget is."""
        now = time.monotonic()
        if self.looked is not None:
            running = sum(trial.status == "RUNNING" for trial in trials)
            self.ledger.seconds += running * self.weight * (now - self.looked)
        self.looked = now
        if now - self.saved > _SAVE_EVERY_S:
            self.saved = now
            self.ledger.save()
            self.clear_up()
        if over(self.config, self.ledger):
            self.ledger.save()
            raise UsedUp

    def clear_up(self, wait_s: float = 0.0) -> None:
        """Remove what ended trials left, once their processes have let go of it."""
        deadline = time.monotonic() + wait_s
        while True:
            for folder in [folder for folder in self.uncleared if clear(folder)]:
                del self.uncleared[folder]
            if not self.uncleared or time.monotonic() >= deadline:
                return
            time.sleep(0.1)

    def _ours(self, trial: Any) -> Trial:
        number = self.numbers.setdefault(trial.trial_id, trial.config["number"])
        return self.ledger.trial(number)

    def _end(self, trial: Any, state: str, message: str = "") -> None:
        ours = self._ours(trial)
        self.ledger.end(ours.number, state, message)
        self.uncleared[self.work.folder(ours.number, ours.values)] = None
        for observer in self.observers:
            observer.ended(ours, self.ledger)
        _announce(ours, self.ledger, self.config)


def _announce(trial: Trial, ledger: Ledger, config: SearchConfig) -> None:
    ended = len(list(ledger.of("finished", "stopped", "failed")))
    of = f" of {config.trials}" if config.trials else ""
    last = trial.last
    outcome = "failed" if trial.state == "failed" or last is None else f"mIoU {last.mean:.2f}"
    values = ", ".join(f"{name}={value}" for name, value in sorted(trial.values.items()))
    print(
        f"search: {ended}{of} trials done: {outcome} at step {last.step if last else 0} with "
        f"{values}" + (f" ({trial.message})" if trial.message else ""),
        file=sys.stderr,
        flush=True,
    )
