"""The training loop, as a generator of events: a notebook, a script and a cluster iterate it alike.

It writes no file and reports to nobody; what becomes of an event is its consumer's matter.
"""

import copy
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from ecocseg.data.dataset import StepBatches, Stream, batches
from ecocseg.data.parallel import available_cores
from ecocseg.engine import checkpoint
from ecocseg.engine.distributed import SINGLE, require_shared
from ecocseg.engine.divergence import Failed, Watch
from ecocseg.engine.events import (
    CheckpointEvent,
    Diverged,
    EvaluationEvent,
    Event,
    StageEvent,
    StepEvent,
)
from ecocseg.engine.optim import learning_rate, set_learning_rate
from ecocseg.engine.step import Learner
from ecocseg.methods.base import Stage, Workshop


class Trainer(Learner):
    """Student, teacher and optimiser of one run, and the loop over them.

    Every process of a group iterates the same events; the first one writes what stages need.
    """

    def fit(
        self, streams: Sequence[Stream], evaluate: Callable[[nn.Module], Tensor]
    ) -> Iterator[Event]:
        """Train to the end of the schedule and yield events in the order of their steps.

        `evaluate` maps a network to its confusion matrix. At a step with several events the curve
        comes first, then the evaluation, then the checkpoint.
        """
        if self.method.restarts and self.folder is not None:
            if self.step == 0 and self.group.first:
                # Left by an attempt whose checkpoint is gone: of other weights than those to come.
                shutil.rmtree(self.folder, ignore_errors=True)
            require_shared(self.folder, self.group)
        stages = self.method.stages(self.config.steps, streams)
        for number, stage in enumerate(stages):
            if self.step >= stage.stop:
                continue
            used = yield from self._prepared(number, stages, streams)
            if number and self.step == stage.start:
                self.start_over()
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
        reader = batches(
            streams,
            self.seed,
            self.step,
            stage.stop,
            readers,
            rank=self.group.rank,
            size=self.group.size,
        )
        for batch in reader:
            place, length = self.step - stage.start, stage.stop - stage.start
            rate = learning_rate(self.optim, place, length)
            set_learning_rate(self.optimizer, rate)
            logs, norm = self.train_step(
                {name: s.to(self.device) for name, s in batch.items()}, place, length
            )
            for name, value in logs.items():
                sums[name] = sums[name] + value if name in sums else value
            self.step += 1
            summed += 1
            self.update_teacher()
            last = self.step == stage.stop
            rhythms = (config.log_every, config.evaluate_every, config.checkpoint_every)
            heard = last or self.step in kept or any(self.step % every == 0 for every in rhythms)
            failed = watch.add(self.step, {**logs, "gradient_norm": norm})
            if failed is None and heard:
                # Nothing is told or written of a step before it is known to be sound.
                failed = watch.settle()
            if failed is not None:
                raise self._diverged(failed, streams)
            if self.step in kept and self.folder is not None and self.group.first:
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
        preparing = self.method.stage_streams(number, stages, streams, workshop)
        if self.group.size > 1:
            preparing = self._prepared_by_first(preparing)
        return (yield from preparing)

    def _prepared_by_first(
        self, preparing: Generator[StageEvent, None, list[Stream]]
    ) -> Generator[StageEvent, None, list[Stream]]:
        """The first process prepares and tells the others, which find everything done then."""
        while self.group.first:
            try:
                event = next(preparing)
            except StopIteration as end:
                self.group.broadcast(None)
                found: list[Stream] = end.value
                return found
            yield self.group.broadcast(event)
        nothing: StageEvent | None = None
        while (told := self.group.broadcast(nothing)) is not None:
            yield told
        return (yield from preparing)

    def _workshop(self, network: nn.Module, folder: Path) -> Workshop:
        # What the first process does alone may ask nothing of the others.
        encoding = copy.copy(self.encoding)
        encoding.group = SINGLE
        return Workshop(network=network, encoding=encoding, device=self.device, folder=folder)

    def _tidy(self) -> None:
        """Remove what only stages needed."""
        if self.folder is not None and self.group.first:
            shutil.rmtree(self.folder / "labels", ignore_errors=True)
            for path in self.folder.glob("weights_*.pt"):
                path.unlink(missing_ok=True)

    def _evaluate(self, evaluate: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
        found = {"student": evaluate(self.student)}
        if self.teacher is not None:
            found["teacher"] = evaluate(self.teacher)
        return found
