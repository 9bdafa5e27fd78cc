"""What a search is: fields that decide its outcome, and the budget it may use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ecocseg.config import require
from pipeline.cluster.proposals import ALGORITHMS
from pipeline.cluster.trial_worker import digest


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """All but the budget, `max_concurrent` and `measures` is the search's identity.

    `objective` is "module:function", a generator function called in a worker as
    `function(row, values, settings)` with `values` a dict of parameter values and
    `settings["trial_dir"]` a folder of the trial's own for checkpoints; it yields mappings with
    `step`, `miou` (percent) and perhaps `std`. ASHA compares trials at `grace_steps`, at three
    times as many and so on, up to `max_steps`; a population changes its values every `grace_steps`.
    """

    objective: str
    space: Mapping[str, Any]
    row: Mapping[str, Any]
    settings: Mapping[str, Any]
    max_steps: int
    grace_steps: int
    algorithm: str = "tpe"
    scheduler: str = "asha"
    seed: int = 0
    warm_start: Sequence[str] = ()
    trials: int | None = None
    gpu_hours: float | None = None
    """Hours that trials may hold GPUs, or CPU cores where they ask for none, each counted."""
    max_concurrent: int = 1
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What the score is of, in words (`objective`, `evaluation`): earlier results must have it."""

    def __post_init__(self) -> None:
        require(self.algorithm in ALGORITHMS, "algorithm", self.algorithm, ", ".join(ALGORITHMS))
        require(self.scheduler in ("asha", "none"), "scheduler", self.scheduler, "asha or none")
        require(self.trials is None or self.trials >= 1, "trials", self.trials, "null, 1 or more")
        hours = self.gpu_hours
        require(hours is None or hours > 0, "gpu_hours", hours, "null or above 0")
        bounded = self.trials is not None or hours is not None or self.algorithm == "grid"
        require(bounded, "trials", None, "a number, or null with gpu_hours or a grid")
        require(self.max_concurrent >= 1, "max_concurrent", self.max_concurrent, "1 or more")
        require(self.max_steps >= 1, "max_steps", self.max_steps, "1 or more")
        grace = self.grace_steps
        require(1 <= grace <= self.max_steps, "grace_steps", grace, f"1 to {self.max_steps}")
        if self.algorithm == "pbt":
            require((self.trials or 0) >= 2, "trials", self.trials, "2 or more, the population")
        if self.algorithm != "tpe":
            given = list(self.warm_start)
            require(not given, "warm_start", given, "[] unless algorithm is tpe, which learns")

    @property
    def name(self) -> str:
        """Digest of the identity."""
        scored = {key: self.settings.get(key) for key in ("seeds", "network")}
        identity = [
            self.objective,
            dict(self.space),
            dict(self.row),
            scored,
            self.max_steps,
            self.grace_steps,
            self.algorithm,
            self.scheduler,
            self.seed,
            list(self.warm_start),
        ]
        return digest(identity)
