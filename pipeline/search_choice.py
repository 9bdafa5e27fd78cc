"""How to search: what `params.yaml` says of it and what the search itself knows alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from ecocseg.config import require

ALGORITHMS = ("tpe", "random", "grid", "pbt")


@dataclass(frozen=True, kw_only=True)
class SearchChoice:
    """Algorithm and budget of a search; raises ConfigError for what does not go together."""

    algorithm: str = "tpe"
    """tpe, random, grid, or pbt: a population that changes its values while it trains."""
    scheduler: str = "asha"
    """asha stops bad trials early, none does not; pbt is its own."""
    seed: int = 0
    """Of what is proposed."""
    warm_start: Sequence[str] = ()
    """Tables of earlier searches, such as results/search/trials.csv, for tpe to learn from."""
    trials: int | None = 6
    """How many points; null: as many as gpu_hours allow, or all of a grid. With pbt the
    population."""
    gpu_hours: float | None = None
    """Hours that trials may hold GPUs (CPU cores where there is none), each counted; null: any."""
    max_concurrent: int = 2
    """Trials at a time at most; a population runs as the cluster has room for it."""

    def __post_init__(self) -> None:
        require(self.algorithm in ALGORITHMS, "algorithm", self.algorithm, ", ".join(ALGORITHMS))
        require(self.scheduler in ("asha", "none"), "scheduler", self.scheduler, "asha or none")
        require(self.trials is None or self.trials >= 1, "trials", self.trials, "null, 1 or more")
        hours = self.gpu_hours
        require(hours is None or hours > 0, "gpu_hours", hours, "null or above 0")
        bounded = self.trials is not None or hours is not None or self.algorithm == "grid"
        require(bounded, "trials", None, "a number, unless gpu_hours is one or it is a grid")
        require(self.max_concurrent >= 1, "max_concurrent", self.max_concurrent, "1 or more")
        if self.algorithm == "pbt":
            require((self.trials or 0) >= 2, "trials", self.trials, "2 or more, the population")
        if self.algorithm != "tpe":
            given = list(self.warm_start)
            require(not given, "warm_start", given, "[] unless algorithm is tpe, which learns")
