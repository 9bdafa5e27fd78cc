"""The networks of a run and one step of their training."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecocseg.config import require
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.engine.divergence import gradient_norm
from ecocseg.engine.optim import build_optimizer
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError
from ecocseg.methods.base import Context, Losses, Method, summands
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.modes import modes, set_modes
from ecocseg.models.segmenter import Segmenter
from ecocseg.models.sharing import share


class Learner:
    """Student, teacher and optimiser of one run.

    Modules that are in evaluation mode within a network in training mode, such as frozen batch
    normalisation, stay so, in the teacher too; a network all in evaluation mode is put into
    training mode.
    `folder` is where a method with several stages leaves what the next one needs. Each process of
    a `group` has its own of all this, equal to those of the others after every step.
    """

    def __init__(
        self,
        config: FitConfig,
        *,
        model: Segmenter,
        encoding: Encoding,
        method: Method,
        device: torch.device,
        seed: int,
        folder: Path | None = None,
        group: Group = SINGLE,
    ) -> None:
        self.config, self.method, self.device, self.seed = config, method, device, seed
        self.folder, self.group = folder, group
        _check_batches(config, group)
        if method.restarts and folder is None:
            raise ConfigError(
                f"method {method.name!r}: its stages hand weights and pseudo-labels on in files; "
                "give the trainer a folder for them"
            )
        self.student = model.to(device)
        if device.type == "cpu":
            # The gradient of a depthwise convolution takes up to 28 times as long otherwise.
            self.student.to(memory_format=torch.channels_last)
        share(self.student, group)
        if not self.student.training:
            self.student.train()
        self._modes = modes(self.student)
        self.first_weights: Mapping[str, Tensor] = {}
        if method.restarts:
            # Not in the checkpoint: seed and weights file give the same network again.
            state = self.student.state_dict().items()
            self.first_weights = {name: value.cpu().clone() for name, value in state}
        self.encoding = encoding.to(device)
        self.encoding.group = group
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
        self.optim = config.optim.for_batch(config.labelled_batch)
        self.optimizer = build_optimizer(self.optim, self.student)
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

    def start_over(self) -> None:
        """Give the student its first weights and a new optimiser."""
        self.student.load_state_dict(self.first_weights)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.first_weights)
        self.optimizer = build_optimizer(self.optim, self.student)

    def train_step(
        self, batch: Mapping[str, Sample], place: int, length: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Step `place` of the `length` of a stage: scalars for the curves, norm of the gradient.

        It leaves torch's global generators as they were.
        """
        # Dropout takes no generator: seeding by step makes it a function of the step too.
        with seeded(self.seed, "step", self.step, device=self.device):
            return self._train_step(batch, place, length)

    def _train_step(
        self, batch: Mapping[str, Sample], place: int, length: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        if self.student.training:
            self._modes = modes(self.student)
        else:
            set_modes(self.student, self._modes)
        if self.teacher is not None:
            set_modes(self.teacher, self._modes)
            self.method.prepare_teacher(self.teacher)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.config.micro_batches
        losses = []
        for number, part in enumerate(_micro_batches(batch, parts)):
            later = [number] if number else []
            random = self.group.generator(self.seed, "method", self.step, *later)
            losses.append(self.method.losses(self._context(random, place, length), part))
        logs = self._accumulate(losses)
        parameters = list(self.student.parameters())
        if self.group.size > 1:
            # Log values may share their memory with other tensors. A parameter without gradient has
            # none in any process.
            logs = {name: value.clone() for name, value in logs.items()}
            gradients = [p.grad for p in parameters if p.grad is not None]
            self.group.average_([*gradients, *logs.values()])
        if self.config.clip_norm is None:
            norm = gradient_norm(parameters)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            logs["gradient_norm"] = norm
        self.optimizer.step()
        return logs, norm

    def _context(self, random: torch.Generator, place: int, length: int) -> Context:
        return Context(
            student=self.student,
            teacher=self.teacher,
            reference=self.reference,
            encoding=self.encoding,
            step=place,
            steps=length,
            random=random,
            group=self.group,
            micro_batches=self.config.micro_batches,
        )

    def _accumulate(self, parts: Sequence[Losses]) -> dict[str, Tensor]:
        """Add the batch's gradient to the student's, part by part; returns its scalars."""
        logs: dict[str, Tensor] = {"loss": torch.zeros((), device=self.device)}
        losses = summands(parts, self.group)
        while True:
            with (
                torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()
            ):
                loss = next(losses, None)
            if loss is None:
                return logs
            (loss.value / len(parts)).backward()
            for name, value in {**loss.logs, "loss": loss.value}.items():
                share = value.detach() / len(parts)
                logs[name] = logs[name] + share if name in logs else share
            # Its graph goes before the next summand makes another.
            del loss, value

    @torch.no_grad()
    def update_teacher(self) -> None:
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


def _check_batches(config: FitConfig, group: Group) -> None:
    """Raise ConfigError unless every process gets as many images of every part of a batch."""
    parts = group.size * config.micro_batches
    for name in ("labelled_batch", "unlabelled_batch"):
        size = getattr(config, name)
        allowed = f"a multiple of {parts}: {group.size} processes share it"
        if config.micro_batches > 1:
            allowed += f" in {config.micro_batches} micro-batches"
        require(size % parts == 0, f"schedule.{name}", size, f"{allowed} (schedule.gpus)")


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
