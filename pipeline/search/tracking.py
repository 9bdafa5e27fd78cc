"""A search in MLflow: a parent run, and a child for every trial.

Their keys follow from the search and the trial's number, so that a search that goes on adds to the
runs it has. Like all tracking it may fail: what could not be sent lies in `results/search/tracked`
and goes with the next command.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.search.config import SearchConfig
from pipeline.search.ledger import ENDED, Ledger, Trial
from pipeline.search.tune import Searched
from pipeline.store.events import read
from pipeline.tracking import RunTracker, TrackingConfig, prepare_store, replay
from pipeline.tracking.spool import PARENT_TAG, RunState

EXPERIMENT = "search"
_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_WAIT_S = 15.0


class SearchTracking:
    """Follows a search (`pipeline.search.tune_parts.Observer`) for the length of a `with` block.

    `about` is what `pipeline.stages.search.describe` says of it.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        searched: SearchConfig,
        about: Mapping[str, Any],
    ) -> None:
        self._config, self._folder = config, folder
        self._searched, self._about = searched, about
        self._key = f"search-{searched.name}"
        self._parent: RunTracker | None = None
        self._trials: dict[int, RunTracker] = {}
        self._closed: set[int] = set()

    def __enter__(self) -> "SearchTracking":
        if not self._config.enabled:
            return self
        problem = prepare_store(self._config, {EXPERIMENT: "Searches of hyperparameters."})
        if problem is not None:
            print(f"tracking: {problem}; it is sent later", file=sys.stderr)
        about, config = self._about, self._searched
        self._parent = RunTracker(
            self._config,
            self._folder / self._key,
            self._key,
            EXPERIMENT,
            tags={"cell": about["cell"], "objective": about["objective"]},
            params={
                **about,
                "algorithm": config.algorithm,
                "scheduler": config.scheduler,
                "seed": config.seed,
                "steps": config.max_steps,
                "parameters": dict(config.space),
            },
            name=f"{about['experiment']}/{about['cell']}, {config.algorithm}",
        )
        return self

    def began(self, trial: Trial) -> None:
        """Track the trial from here on."""
        if self._parent is not None:
            self._tracker(trial)

    def scored(self, trial: Trial) -> None:
        """Send the last score."""
        if self._parent is None or trial.last is None:
            return
        tracker, last = self._tracker(trial), trial.last
        metrics = {"miou": last.mean} | ({} if last.std is None else {"std": last.std})
        if trial.schedule:
            metrics |= {name: float(v) for name, v in trial.schedule[-1]["values"].items()}
        tracker.events.append("eval", last.step, metrics)
        tracker.sync()

    def ended(self, trial: Trial, ledger: Ledger) -> None:
        """Close the trial's run, and note what is best of the ledger."""
        if self._parent is None:
            return
        self._close(trial)
        done = list(ledger.of(*ENDED))
        lasts = [trial.last for trial in done if trial.state != "failed" and trial.last is not None]
        full = [last.mean for last in lasts if last.step >= self._searched.max_steps]
        if full:
            self._note(self._parent, "eval", len(done), {"best_miou": max(full)})
            self._parent.sync()

    def _close(self, trial: Trial) -> None:
        tracker = self._tracker(trial)
        if trial.state == "stopped":
            tracker.tag("stopped", "true")
        if trial.message:
            tracker.tag("message", trial.message)
        tracker.finish(_STATUS[trial.state], wait_s=0.0)
        self._closed.add(trial.number)

    @staticmethod
    def _note(tracker: RunTracker, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Log at `step`, or after the last one when other numbers are there already."""
        events = tracker.events
        if not events.append(kind, step, metrics):
            logged = [event.metrics for event in read(events.path) if event.kind == kind]
            if logged[-1] != metrics:
                events.append(kind, events.last_step(kind) + 1, metrics)

    def results(self, found: Searched, best: Trial, files: Sequence[Path]) -> None:
        """Put files and best score on the parent, and set right what a kill left open."""
        if self._parent is None or best.last is None:
            return
        for trial in found.ledger.trials:
            if trial.state in ENDED and trial.number not in self._closed:
                self._set_right(trial)
        for path in files:
            self._parent.artifact(path)
        self._parent.tag("best.trial", str(best.number))
        ended = sum(trial.state in ENDED for trial in found.ledger.trials)
        numbers = {"miou": best.last.mean, "hours": found.hours, "trials": float(ended)}
        self._note(self._parent, "final", ended, numbers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._parent is None:
            return
        for number, tracker in self._trials.items():
            if number not in self._closed:
                tracker.finish("KILLED", wait_s=0.0)
        failed = "FAILED" if isinstance(error, Exception) else "KILLED"
        self._parent.finish("FINISHED" if error is None else failed)
        self._deliver(_WAIT_S if error is None else _WAIT_S / 3)

    def _tracker(self, trial: Trial) -> RunTracker:
        if trial.number not in self._trials:
            key = f"{self._key}-{trial.number:05d}"
            self._trials[trial.number] = RunTracker(
                # The parent samples the machine.
                replace(self._config, system_every_s=0.0),
                self._folder / key,
                key,
                EXPERIMENT,
                tags={PARENT_TAG: self._key, "cell": self._about["cell"]},
                params=trial.values,
                name=f"trial {trial.number}",
            )
        return self._trials[trial.number]

    def _set_right(self, trial: Trial) -> None:
        state = RunState.load(self._folder / f"{self._key}-{trial.number:05d}")
        if state is None or state.status != _STATUS[trial.state]:
            tracker = self._tracker(trial)
            for score in trial.scores:
                tracker.events.append("eval", score.step, {"miou": score.mean})
            self._close(trial)

    def _deliver(self, wait_s: float) -> None:
        """Give what waits a moment, and say what could not be sent."""
        deadline = time.monotonic() + wait_s
        while True:
            sent = replay(self._config, self._folder)
            paths = self._folder.glob("*/tracking.json")
            states = [RunState.load(path.parent) for path in paths]
            waiting = sum(state is not None and not state.delivered for state in states)
            if not waiting or sent.problem or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if waiting:
            reason = sent.problem or "the store is slow"
            print(
                f"tracking: {waiting} runs of searches wait to be sent ({reason})", file=sys.stderr
            )
