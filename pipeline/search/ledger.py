"""What a search remembers: every point that was proposed, and all that its trials have reported.

One JSON file, written anew at each change and before anything acts on the change. It is the whole
state of the sampler and of the early stopping, which are functions of it (`proposals.propose`,
`search`): whatever was killed, the next command sees the complete history.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecocseg.errors import UserError
from ecocseg.files import atomic_write

ENDED = ("finished", "stopped", "failed")
"""To the last step; early, by the scheduler; with an exception."""


@dataclass(kw_only=True)
class Score:
    """The objective at a step, in percent: mean over the seeds, and their standard deviation."""

    step: int
    mean: float
    std: float | None = None


@dataclass(kw_only=True)
class Trial:
    """One point and what became of it.

    `state` is waiting (for a machine, the first time or again), running, or one of ENDED.
    `schedule` is what a population changed while training: {from_step, to_step, values}.
    """

    number: int
    values: dict[str, Any]
    state: str = "waiting"
    scores: list[Score] = field(default_factory=list)
    message: str = ""
    schedule: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> Score | None:
        """The latest score."""
        return self.scores[-1] if self.scores else None

    def score_at(self, step: int) -> float | None:
        """The mean at a step, None where the trial did not get there."""
        return next((score.mean for score in self.scores if score.step == step), None)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A point of an earlier search with its last score: for the sampler, no trial of this one."""

    values: dict[str, Any]
    step: int
    score: float


class Ledger:
    """The trials of one search by number, from 1; kept in `path`."""

    def __init__(
        self, path: Path, known: Sequence[Known] = (), startup: int = 10, outside: int = 0
    ) -> None:
        self.path = path
        self.known = list(known)
        self.startup = startup
        """How many trials a sampler that learns draws at random first."""
        self.outside = outside
        """How many points of earlier searches lie outside the space."""
        self.trials: list[Trial] = []
        self.seconds = 0.0
        """For how long trials have held machines, each `unit` counted by itself."""
        self.unit = "CPU core"
        """GPU, or CPU core where trials ask for no GPU."""

    @classmethod
    def load(cls, path: Path) -> "Ledger | None":
        """What an earlier command left; None when there is nothing.

        Trials that were running wait again. Raises UserError when the file cannot be read.
        """
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            ledger = cls(path, [Known(**point) for point in found["known"]], found["startup"])
            ledger.seconds, ledger.unit = found["seconds"], found["unit"]
            ledger.outside = found["outside"]
            for values in found["trials"]:
                scores = [Score(**score) for score in values.pop("scores")]
                ledger.trials.append(Trial(**values, scores=scores))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: is not readable as the state of a search ({error}); move it away to "
                "begin the search anew (trials that are done are not executed again)"
            ) from error
        for trial in ledger.trials:
            if trial.state == "running":
                trial.state = "waiting"
        return ledger

    def retry(self, anew: bool) -> None:
        """Let the trials that failed wait again; with `anew` they begin at step 0."""
        for trial in self.of("failed"):
            trial.state, trial.message = "waiting", ""
            if anew:
                trial.scores, trial.schedule = [], []

    def save(self) -> None:
        """Write the file."""
        content = {
            "known": [asdict(point) for point in self.known],
            "startup": self.startup,
            "outside": self.outside,
            "seconds": self.seconds,
            "unit": self.unit,
            "trials": [asdict(trial) for trial in self.trials],
        }
        atomic_write(self.path, json.dumps(content, indent=1))

    def add(self, values: Mapping[str, Any]) -> Trial:
        """A new trial, waiting."""
        trial = Trial(number=len(self.trials) + 1, values=dict(values))
        self.trials.append(trial)
        return trial

    def trial(self, number: int) -> Trial:
        """The trial of that number."""
        return self.trials[number - 1]

    def report(self, number: int, score: Score) -> bool:
        """Note a score; False when the trial had got there already (it was resumed)."""
        trial = self.trial(number)
        if trial.last is not None and score.step <= trial.last.step:
            return False
        trial.scores.append(score)
        self.save()
        return True

    def end(self, number: int, state: str, message: str = "") -> None:
        """Note how a trial ended."""
        trial = self.trial(number)
        trial.state, trial.message = state, message
        self.save()

    def waiting(self) -> Trial | None:
        """The first trial that waits."""
        return next(self.of("waiting"), None)

    def of(self, *states: str) -> Iterator[Trial]:
        """The trials in one of these states."""
        return (trial for trial in self.trials if trial.state in states)
