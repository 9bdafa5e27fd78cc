"""What a method is: it computes losses; the engine owns everything else."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecocseg.data.dataset import Stream
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine import checkpoint
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.errors import ConfigError, DataError
from ecocseg.types import IGNORE, Head, Outputs


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use in one step."""

    student: Any
    """The network that learns: `outputs(images, random)` and `features(images)`, as `Segmenter`."""
    encoding: Encoding
    step: int
    steps: int
    random: torch.Generator
    """CPU generator of this step: everything the method draws comes from it."""
    teacher: nn.Module | None = None
    """The averaged network, without gradient; None when the method asks for none."""
    reference: Any = None
    """The student as it was before training, frozen; None when the method asks for none."""
    group: Group = SINGLE
    """The processes that share the batch: what runs over images of the batch runs over theirs."""
    micro_batches: int = 1
    """The parts that the step's batch is cut into, of which the method gets one."""

    def outputs(self, images: Tensor) -> Outputs:
        """What the student gives for `images` [B,3,H,W] to learn from."""
        found: Outputs = self.student.outputs(images, self.random)
        return found


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One summand of a step's loss, back-propagated and freed before the next is computed."""

    value: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars for the curves, detached."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A method's question: what are sums divided by, so that they are means over these pixels?

    The answer to `yield Counts(...)` is a divisor [n] of sums over this part of the batch. The mean
    of the quotients over all parts and processes is the mean over the whole batch.
    """

    pixels: Tensor
    """How many pixels of this part count for each of n means, int64 [n]."""


Losses = Generator[Loss | Counts, Tensor, None]
"""What `Method.losses` is."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps `start` to `stop` - 1 of a run, whose training begins with the first weights."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """What happens before a stage's first step: `done` of `total` images are through."""

    step: int
    activity: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What a method may use between two stages."""

    network: nn.Module
    """A network as the student is built, to load kept weights into; in evaluation mode."""
    encoding: Encoding
    device: torch.device
    folder: Path
    """Of this run, for what one stage leaves to the next; a run that goes on finds it again."""

    def kept(self, step: int) -> Path:
        """File of the student's weights after `step` steps."""
        return self.folder / f"weights_{step}.pt"

    def network_at(self, step: int) -> nn.Module:
        """A network as the student was after `step` steps; DataError when its file is gone."""
        path = self.kept(step)
        if not path.is_file():
            raise DataError(
                f"{path}: the weights that an earlier stage left are gone; remove last.pt of this "
                "run and start the same command again: it begins anew"
            )
        network = copy.deepcopy(self.network)
        network.load_state_dict(checkpoint.load(path, self.device)["student"])
        return network


class Method(ABC):
    """A method of pseudo-label learning; it never asks which encoding it works with."""

    name: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]
    """The streams of images it reads: "labelled", "unlabelled", "partner"."""
    uses_teacher: ClassVar[bool] = False
    averages_buffers: ClassVar[bool] = True
    """Whether the teacher's buffers (batch statistics) are averaged like its parameters."""

    whole_images: ClassVar[bool] = False
    """Whether it learns from a network's predictions alone, not from all of its heads."""
    restarts: ClassVar[bool] = False
    """Whether a run has several stages, each of which begins with the first weights."""
    least_steps: ClassVar[int] = 1
    """Steps that a run needs at least."""

    @property
    def uses_reference(self) -> bool:
        """Whether it compares the student with the network before training."""
        return False

    def adapt(self, stream: Stream) -> Stream:
        """A stream with what the method changes in it, such as the order of images."""
        return stream

    def epoch(self, images: Mapping[str, int], batches: Mapping[str, int]) -> int:
        """Steps of an epoch: one pass over the unlabelled images, without them over the labelled.

        `images` and `batches`: how many "labelled" and "unlabelled" there are, and in a batch. As
        in the public SSL code full batches are counted.
        """
        name = "unlabelled" if "unlabelled" in self.streams else "labelled"
        return images[name] // batches[name]

    def stages(self, steps: int, streams: Sequence[Stream]) -> tuple[Stage, ...]:
        """The stages of a run of `steps` steps, one after the other."""
        return (Stage(name="training", start=0, stop=steps),)

    def kept_steps(self, stages: Sequence[Stage]) -> tuple[int, ...]:
        """Steps after which the student's weights are kept for a later stage."""
        return ()

    def stage_streams(
        self, stage: int, stages: Sequence[Stage], streams: Sequence[Stream], workshop: Workshop
    ) -> Generator[StageEvent, None, list[Stream]]:
        """Prepare a stage, telling how far it is, and return what it reads.

        It is called again when a run goes on in the middle of the stage: what is done already lies
        in the workshop's folder.
        """
        yield from ()
        return list(streams)

    @abstractmethod
    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """Yield the summands of the step's loss; their sum is what is minimised.

        What a mean over some of the pixels is divided by it asks with `Counts` before the pass that
        the mean is of: the other parts of the batch count too before it goes on, and graphs that
        it holds meanwhile are all in memory at once.
        """

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """Change the teacher's modes from the student's; by default it runs as in evaluation."""
        teacher.eval()


def summands(parts: Sequence[Losses], group: Group) -> Iterator[Loss]:
    """The summands of all parts of a batch.

    Each is to be back-propagated and forgotten before the next is asked for. A part that has
    counted goes on when every part has.
    """
    divisors: Tensor | None = None
    while True:
        counts = []
        for part in parts:
            found = next(part, None) if divisors is None else part.send(divisors)
            while isinstance(found, Loss):
                yield found
                # Its graph goes before the next summand makes another.
                del found
                found = next(part, None)
            if found is not None:
                counts.append(found.pixels)
        if not counts:
            return
        divisors = group.divisor(torch.stack(counts).sum(0)) / len(parts)


def counted(*masks: Tensor) -> Counts:
    """The true pixels of each of some masks."""
    return Counts(pixels=torch.stack([mask.sum() for mask in masks]))


def heads_loss(
    context: Context,
    heads: Sequence[Head],
    targets: Tensor,
    weight: Tensor | None = None,
    divisor: Tensor | None = None,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of a network's heads, each by its share, and the parts of the first one.

    `targets`: labels [B,H,W] or what a pseudo-label has; `weight` [B,H,W] or None. The mean is over
    all pixels, or with `divisor`, of a head that covers the images, over those that it counts; a
    head that does not counts the labels in its area.
    """
    values, parts = [], []
    for head in heads:
        area = (..., head.rows, head.columns)
        wanted = targets[area].contiguous()
        terms = context.encoding.loss(
            head.logits, wanted, None if weight is None else weight[area].contiguous()
        )
        scale: Tensor | float = 1.0
        if divisor is not None and wanted.shape == targets.shape:
            scale = wanted.numel() / divisor
        elif divisor is not None:
            scale = wanted.numel() / context.group.divisor((wanted != IGNORE).sum())
        values.append(terms.total * scale * head.weight)
        parts.append(terms.parts)
    return torch.stack(values).sum() if len(values) > 1 else values[0], parts[0]


def whole(logits: Tensor) -> tuple[Head]:
    """The one head of a network whose logits [B,K,H,W] cover the images."""
    return (Head(logits=logits, rows=slice(None), columns=slice(None), weight=1.0),)


def supervised_terms(
    context: Context, heads: Sequence[Head], labels: Tensor, divisor: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss on given labels [B,H,W] and its parts for the curves.

    A mean over the pixels that `divisor` counts (the SSL recipes), without it over all of them (the
    UDA recipes, as in mmsegmentation).
    """
    value, parts = heads_loss(context, heads, labels, divisor=divisor)
    return value, {f"labelled/{name}": part for name, part in parts.items()}


def require_alike(labelled: Sample, unlabelled: Sample, method: str, *, batches: bool) -> None:
    """Raise ConfigError unless both batches have images of one size (`batches`: and as many)."""
    first, second = labelled.labels.shape, unlabelled.labels.shape
    if first[1:] != second[1:] or (batches and first != second):
        fields = "benchmark.labelled_transform.crop and benchmark.unlabelled_transform.crop"
        if batches:
            fields += ", schedule.labelled_batch and schedule.unlabelled_batch"
        raise ConfigError(
            f"{fields}: got labelled batches of {'x'.join(map(str, first))} (images x height x "
            f"width) and unlabelled ones of {'x'.join(map(str, second))}; the method {method!r} "
            "puts them together: give both the same"
        )
