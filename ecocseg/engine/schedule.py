"""Length, batch and rhythm of a training run."""

from dataclasses import dataclass, field
from typing import Literal

from ecocseg.config import require
from ecocseg.engine.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Length, batch and rhythm of a training run."""

    steps: int
    epochs: int | None = None
    """The epochs that `steps` stand for, to be read; they decide nothing here."""
    labelled_batch: int = 2
    """Images a step, those of all processes together; so is `unlabelled_batch`."""
    unlabelled_batch: int = 2
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema_decay: float = 0.999
    """Of the teacher; ramped up as min(1 - 1 / (t + 1), ema_decay)."""
    log_every: int = 50
    """Steps over which the curves average."""
    evaluate_every: int = 4000
    checkpoint_every: int = 1000
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the GPU has it, else fp32."""
    clip_norm: float | None = None
    """Largest norm of the gradient, None for no clipping."""
    loader_workers: int = 0
    """Processes that read images ahead, at most one a core; does not change the result."""
    activation_checkpointing: bool = False
    """Compute the encoder's activations again in the backward pass instead of keeping them: less
    memory, about a third more time, the same numbers."""
    micro_batches: int = 1
    """Parts that a step's batch is cut into, one after the other: less memory, other batch
    statistics and random draws, so not paper-exact above 1. Means over pixels are those of the
    whole batch; a Dice loss, which is no mean over pixels, is of each part."""
    gpus: int = 1
    """GPUs that the recipe is meant for, each with a process. They compute what one computes with
    the same batch: not part of a run's identity."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "labelled_batch",
            "log_every",
            "evaluate_every",
            "checkpoint_every",
            "micro_batches",
            "gpus",
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        for name in ("unlabelled_batch", "loader_workers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 to below 1")
        require(
            self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0"
        )
        # A resumed curve continues without a seam only when no average spans a checkpoint.
        require(
            self.checkpoint_every % self.log_every == 0,
            "checkpoint_every",
            self.checkpoint_every,
            f"a multiple of log_every ({self.log_every})",
        )
        for name in ("labelled_batch", "unlabelled_batch"):
            size = getattr(self, name)
            require(
                size % self.micro_batches == 0,
                "micro_batches",
                self.micro_batches,
                f"a divisor of {name} ({size})",
            )
