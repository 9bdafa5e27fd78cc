"""What a training run tells its consumer, in the order of the steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ecocseg.data.transforms import Sample
from ecocseg.errors import UserError
from ecocseg.methods.base import StageEvent

__all__ = ["CheckpointEvent", "Diverged", "EvaluationEvent", "Event", "StageEvent", "StepEvent"]


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """Means of the last `steps` steps."""

    step: int
    metrics: Mapping[str, float]
    seconds: float
    """Wall-clock time of those steps."""
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """Confusion matrices int64 [N,N] after `step` steps, by role: "student", "teacher"."""

    step: int
    confusions: Mapping[str, Tensor]
    final: bool = True
    """Whether the networks are those that the run is about; not those of an earlier stage."""


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """All that a run needs to go on after `step` steps as if it had never stopped.

    The tensors are the live ones: save them, or copy them, before asking for the next event.
    """

    step: int
    state: dict[str, Any]


Event = StageEvent | StepEvent | EvaluationEvent | CheckpointEvent


class Diverged(UserError):
    """Loss or gradient is no longer a finite number: at `step`, counted from 1 as in events.

    `terms` are that step's scalars, `batch` is what it read, on the CPU, and `images` the keys of
    the images, both by stream.
    """

    kind = "diverged"

    def __init__(
        self,
        message: str,
        *,
        step: int = 0,
        terms: Mapping[str, float] | None = None,
        batch: Mapping[str, Sample] | None = None,
        images: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.terms, self.batch, self.images = dict(terms or {}), dict(batch or {}), images or {}
