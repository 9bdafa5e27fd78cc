"""What a search is: fields that decide its outcome, and the budget it may use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ecocseg.config import require
from pipeline.config.params import SearchChoice
from pipeline.search.trial_worker import content, digest


@dataclass(frozen=True, kw_only=True)
class SearchConfig(SearchChoice):
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
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What the score is of, in words (`objective`, `evaluation`): earlier results must have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_steps >= 1, "max_steps", self.max_steps, "1 or more")
        grace = self.grace_steps
        require(1 <= grace <= self.max_steps, "grace_steps", grace, f"1 to {self.max_steps}")

    @property
    def name(self) -> str:
        """Digest of the identity."""
        scored = {key: self.settings.get(key) for key in ("seeds", "network")}
        identity = [
            self.objective,
            dict(self.space),
            content(self.row),
            scored,
            self.max_steps,
            self.grace_steps,
            self.algorithm,
            self.scheduler,
            self.seed,
            list(self.warm_start),
        ]
        return digest(identity)
