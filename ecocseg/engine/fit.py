"""The training loop, as a generator of events: a notebook, a script and a cluster iterate it alike.

It writes no file and reports to nobody; what becomes of an event is its consumer's matter.
"""

import copy
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecocseg.data.dataset import StepBatches, Stream, batches
from ecocseg.data.parallel import available_cores
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine import checkpoint
from ecocseg.engine.divergence import Failed, Watch, gradient_norm
from ecocseg.engine.events import (
    CheckpointEvent,
    Diverged,
    EvaluationEvent,
    Event,
    StageEvent,
    StepEvent,
)
from ecocseg.engine.optim import build_optimizer, learning_rate, set_learning_rate
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.seed import derive, generator
from ecocseg.errors import ConfigError
from ecocseg.methods.base import Context, Method, Stage, Workshop
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.segmenter import Segmenter


class Trainer:
    """Student, teacher and optimiser of one run, and the loop over them.

    `folder` is where a method with several stages leaves what the next one needs.
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
    ) -> None:
        self.config, self.method, self.device, self.seed = config, method, device, seed
        self.folder = folder
        if method.restarts and folder is None:
            raise ConfigError(
                f"method {method.name!r}: its stages hand weights and pseudo-labels on in files; "
                "give the trainer a folder for them"
            )
        self.student = model.to(device)
        self.first_weights: Mapping[str, Tensor] = {}
        if method.restarts:
            # Not in the checkpoint: seed and weights file give the same network again.
            state = self.student.state_dict().items()
            self.first_weights = {name: value.cpu().clone() for name, value in state}
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

    def fit(
        self, streams: Sequence[Stream], evaluate: Callable[[nn.Module], Tensor]
    ) -> Iterator[Event]:
        """Train to the end of the schedule and yield events in the order of their steps.

        `evaluate` maps a network to its confusion matrix. At a step with several events the curve
        comes first, then the evaluation, then the checkpoint.
        """
        if self.method.restarts and self.step == 0 and self.folder is not None:
            # Left by an attempt whose checkpoint is gone: of other weights than those to come.
            shutil.rmtree(self.folder, ignore_errors=True)
        stages = self.method.stages(self.config.steps, streams)
        for number, stage in enumerate(stages):
            if self.step >= stage.stop:
                continue
            used = yield from self._prepared(number, stages, streams)
            if number and self.step == stage.start:
                self._start_over()
            yield from self._stage(stage, used, self.method.kept_steps(stages), evaluate)
        self._tidy()

    def _stage(
        self,
        stage: Stage,
        streams: Sequence[Stream],
        kept: Sequence[int],
        evaluate: Callable[[nn.Module], Tensor],
    ) -> Iterator[Event]:
        """Train to the end of a stage."""
        config = self.config
        sums: dict[str, Tensor] = {}
        summed = 0
        begun = time.perf_counter()
        # More readers than cores only wait for each other.
        readers = min(config.loader_workers, available_cores())
        watch = Watch(self.device)
        for batch in batches(streams, self.seed, self.step, stage.stop, readers):
            place, length = self.step - stage.start, stage.stop - stage.start
            rate = learning_rate(self.optim, place, length)
            set_learning_rate(self.optimizer, rate)
            logs, norm = self._train_step(
                {name: s.to(self.device) for name, s in batch.items()}, place, length
            )
            for name, value in logs.items():
                sums[name] = sums[name] + value if name in sums else value
            self.step += 1
            summed += 1
            self._update_teacher()
            last = self.step == stage.stop
            rhythms = (config.log_every, config.evaluate_every, config.checkpoint_every)
            heard = last or self.step in kept or any(self.step % every == 0 for every in rhythms)
            failed = watch.add(self.step, {**logs, "gradient_norm": norm})
            if failed is None and heard:
                # Nothing is told or written of a step before it is known to be sound.
                failed = watch.settle()
            if failed is not None:
                raise self._diverged(failed, streams)
            if self.step in kept and self.folder is not None:
                path = self._workshop(self.student, self.folder).kept(self.step)
                checkpoint.save(path, {"student": self.student.state_dict()})

            if self.step % config.log_every == 0 or last:
                metrics = {name: float(value) / summed for name, value in sums.items()}
                now = time.perf_counter()
                yield StepEvent(
                    step=self.step,
                    metrics={**metrics, "lr": rate},
                    seconds=now - begun,
                    steps=summed,
                )
                sums, summed = {}, 0
            if self.step % config.evaluate_every == 0 or last:
                yield EvaluationEvent(
                    step=self.step,
                    confusions=self._evaluate(evaluate),
                    final=stage.stop == config.steps,
                )
            if self.step % config.checkpoint_every == 0 or last:
                yield CheckpointEvent(step=self.step, state=self.state())
            if not sums:
                begun = time.perf_counter()

    def _diverged(self, failed: Failed, streams: Sequence[Stream]) -> Diverged:
        # What a step reads is a function of the step: so that none need be kept it is read again.
        reader, place = StepBatches(streams, self.seed), failed.step - 1
        return Diverged(
            str(failed),
            step=failed.step,
            terms=failed.terms,
            batch=reader[place],
            images=reader.keys(place),
        )

    def _prepared(
        self, number: int, stages: Sequence[Stage], streams: Sequence[Stream]
    ) -> Generator[StageEvent, None, list[Stream]]:
        """What a stage reads, once the method has prepared it."""
        if self.folder is None:
            return list(streams)
        # A run that goes on within the stage has its labels already; the student stays as it is.
        network = (
            copy.deepcopy(self.student).requires_grad_(False).eval() if number else nn.Identity()
        )
        workshop = self._workshop(network, self.folder)
        return (yield from self.method.stage_streams(number, stages, streams, workshop))

    def _workshop(self, network: nn.Module, folder: Path) -> Workshop:
        return Workshop(network=network, encoding=self.encoding, device=self.device, folder=folder)

    def _start_over(self) -> None:
        """Give the student its first weights and a new optimiser."""
        self.student.load_state_dict(self.first_weights)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.first_weights)
        self.optimizer = build_optimizer(self.optim, self.student)

    def _tidy(self) -> None:
        """Remove what only stages needed."""
        if self.folder is not None:
            shutil.rmtree(self.folder / "labels", ignore_errors=True)
            for path in self.folder.glob("weights_*.pt"):
                path.unlink(missing_ok=True)

    def _train_step(
        self, batch: Mapping[str, Sample], place: int, length: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Step `place` of the `length` of a stage: scalars for the curves, norm of the gradient."""
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
            context = self._context(random, place, length)
            for name, value in self._accumulate(part, context, 1 / parts).items():
                logs[name] = logs[name] + value / parts if name in logs else value / parts
        parameters = list(self.student.parameters())
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
        )

    def _accumulate(
        self, batch: Mapping[str, Sample], context: Context, share: float
    ) -> dict[str, Tensor]:
        """Add `share` of the batch's gradient to the student's; returns the batch's scalars."""
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
