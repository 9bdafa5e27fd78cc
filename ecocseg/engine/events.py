"""What a training run tells its consumer, in the order of the steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
    """The loss is no longer a finite number."""
