"""The training loop, as a generator of events: a notebook, a script and a cluster iterate it alike.

It writes no file and reports to nobody; what becomes of an event is its consumer's matter.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ecocseg.config import require
from ecocseg.data.dataset import Stream, batches
from ecocseg.data.parallel import available_cores
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine.optim import OptimConfig, build_optimizer, learning_rate, set_learning_rate
from ecocseg.engine.seed import derive, generator
from ecocseg.errors import ConfigError, UserError
from ecocseg.methods.base import Context, Method
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Length, batch and rhythm of a training run."""

    steps: int
    labelled_batch: int = 2
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
    statistics and random draws, so not paper-exact above 1."""
    gpus: int = 1
    """GPUs that the recipe is meant for, with synchronised batch statistics; not part of a run's
    identity."""

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


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """Means of the last `log_every` steps."""

    step: int
    metrics: Mapping[str, float]
    seconds: float
    """Wall-clock time of those steps."""


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """Confusion matrices int64 [N,N] after `step` steps, by role: "student", "teacher"."""

    step: int
    confusions: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """All that a run needs to go on after `step` steps as if it had never stopped.

    The tensors are the live ones: save them, or copy them, before asking for the next event.
    """

    step: int
    state: dict[str, Any]


Event = StepEvent | EvaluationEvent | CheckpointEvent


class Diverged(UserError):
    """The loss is no longer a finite number."""


class Trainer:
    """Student, teacher and optimiser of one run, and the loop over them."""

    def __init__(
        self,
        config: FitConfig,
        *,
        model: Segmenter,
        encoding: Encoding,
        method: Method,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.method, self.device, self.seed = config, method, device, seed
        self.student = model.to(device)
        self.encoding = encoding.to(device)
        self.teacher: nn.Module | None = None
        if method.uses_teacher:
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.reference: nn.Module | None = None
        if method.uses_reference:
            # Not in the checkpoint: weights file and seed give the same network again.
            self.reference = copy.deepcopy(self.student).requires_grad_(False).eval()
        if config.activation_checkpointing and checkpoint_blocks(self.student.encoder) == 0:
            raise ConfigError(
                "schedule.activation_checkpointing: got true, but the encoder has no blocks that "
                "could be computed again (MiTs and ResNets have); set it to false"
            )
        self.optimizer = build_optimizer(config.optim, self.student)
        self.autocast = autocast_dtype(config.precision, device)
        self.step = 0

    def state(self) -> dict[str, Any]:
        """Everything that changes while training; all randomness follows from seed and step."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a `state()`."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])

    def fit(
        self, streams: Sequence[Stream], evaluate: Callable[[nn.Module], Tensor]
    ) -> Iterator[Event]:
        """Train to the end of the schedule and yield events in the order of their steps.

        `evaluate` maps a network to its confusion matrix. At a step with several events the curve
        comes first, then the evaluation, then the checkpoint.
        """
        config = self.config
        sums: dict[str, Tensor] = {}
        begun = time.perf_counter()
        # More readers than cores only wait for each other.
        readers = min(config.loader_workers, available_cores())
        reader = batches(streams, self.seed, self.step, config.steps, readers)
        for batch in reader:
            rate = learning_rate(config.optim, self.step, config.steps)
            set_learning_rate(self.optimizer, rate)
            logs = self._train_step({name: s.to(self.device) for name, s in batch.items()})
            for name, value in logs.items():
                sums[name] = sums[name] + value if name in sums else value
            self.step += 1
            self._update_teacher()

            last = self.step == config.steps
            if self.step % config.log_every == 0 or last:
                steps = (self.step - 1) % config.log_every + 1
                metrics = {name: float(value) / steps for name, value in sums.items()}
                if metrics["loss"] != metrics["loss"] or abs(metrics["loss"]) == float("inf"):
                    raise Diverged(
                        f"the loss became {metrics['loss']} before step {self.step}; lower "
                        "schedule.optim.lr, lengthen schedule.optim.warmup_steps or set "
                        "schedule.clip_norm"
                    )
                now = time.perf_counter()
                yield StepEvent(
                    step=self.step, metrics={**metrics, "lr": rate}, seconds=now - begun
                )
                sums = {}
            if self.step % config.evaluate_every == 0 or last:
                yield EvaluationEvent(step=self.step, confusions=self._evaluate(evaluate))
            if self.step % config.checkpoint_every == 0 or last:
                yield CheckpointEvent(step=self.step, state=self.state())
            if not sums:
                begun = time.perf_counter()

    def _train_step(self, batch: Mapping[str, Sample]) -> dict[str, Tensor]:
        """One step of the optimiser; returns the scalars for the curves, on the device."""
        # Dropout takes no generator: seeding by step makes it a function of the step too.
        torch.manual_seed(derive(self.seed, "step", self.step))
        self.student.train()
        if self.teacher is not None:
            self.method.prepare_teacher(self.teacher)
        self.optimizer.zero_grad(set_to_none=True)
        logs: dict[str, Tensor] = {}
        parts = self.config.micro_batches
        for number, part in enumerate(_micro_batches(batch, parts)):
            random = generator(self.seed, "method", self.step, *([number] if number else []))
            for name, value in self._accumulate(part, random, 1 / parts).items():
                logs[name] = logs[name] + value / parts if name in logs else value / parts
        if self.config.clip_norm is not None:
            logs["gradient_norm"] = nn.utils.clip_grad_norm_(
                self.student.parameters(), self.config.clip_norm
            )
        self.optimizer.step()
        return logs

    def _accumulate(
        self, batch: Mapping[str, Sample], random: torch.Generator, share: float
    ) -> dict[str, Tensor]:
        """Add `share` of the batch's gradient to the student's; returns the batch's scalars."""
        context = Context(
            student=self.student,
            teacher=self.teacher,
            reference=self.reference,
            encoding=self.encoding,
            step=self.step,
            steps=self.config.steps,
            random=random,
        )
        logs: dict[str, Tensor] = {"loss": torch.zeros((), device=self.device)}
        losses = iter(self.method.losses(context, batch))
        while True:
            with (
                torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()
            ):
                loss = next(losses, None)
            if loss is None:
                return logs
            (loss.value * share).backward()
            logs["loss"] = logs["loss"] + loss.value.detach()
            logs |= {name: value.detach() for name, value in loss.logs.items()}
            # Its graph goes before the next summand makes another.
            del loss

    @torch.no_grad()
    def _update_teacher(self) -> None:
        """Exponential mean of the student with the ramp min(1 - 1 / (t + 1), decay)."""
        if self.teacher is None:
            return
        keep = min(1 - 1 / (self.step + 1), self.config.ema_decay)
        pairs: list[tuple[Tensor, Tensor]] = []
        pairs += zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        if self.method.averages_buffers:
            pairs += zip(self.teacher.buffers(), self.student.buffers(), strict=True)
        for old, new in pairs:
            if old.is_floating_point():
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    def _evaluate(self, evaluate: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
        found = {"student": evaluate(self.student)}
        if self.teacher is not None:
            found["teacher"] = evaluate(self.teacher)
        return found


def _micro_batches(batch: Mapping[str, Sample], count: int) -> Iterator[Mapping[str, Sample]]:
    """The batch in `count` parts of equal size."""
    if count == 1:
        yield batch
        return
    for number in range(count):
        part = {}
        for name, sample in batch.items():
            tensors = {field.name: getattr(sample, field.name) for field in fields(sample)}
            part[name] = replace(
                sample,
                **{k: t.chunk(count)[number] for k, t in tensors.items() if t is not None},
            )
        yield part


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in, None for plain float32."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return None
