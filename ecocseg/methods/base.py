"""What a method is: it computes losses; the engine owns everything else."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecocseg.data.dataset import Stream
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.errors import ConfigError
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


class Method(ABC):
    """A method of pseudo-label learning; it never asks which encoding it works with."""

    name: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]
    """The streams of images it reads: "labelled", "unlabelled", "partner"."""
    uses_teacher: ClassVar[bool] = False
    averages_buffers: ClassVar[bool] = True
    """Whether the teacher's buffers (batch statistics) are averaged like its parameters."""

    @property
    def uses_reference(self) -> bool:
        """Whether it compares the student with the network before training."""
        return False

    def adapt(self, stream: Stream) -> Stream:
        """A stream with what the method changes in it, such as the order of images."""
        return stream

    @abstractmethod
    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Iterator[Loss]:
        """Yield the summands of the step's loss; their sum is what is minimised."""

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """Set the teacher's modes; by default it runs as in evaluation."""
        teacher.eval()


def heads_loss(
    context: Context,
    heads: Sequence[Head],
    targets: Tensor,
    weight: Tensor | None = None,
    *,
    over_valid: bool = False,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss of a network's heads, each by its share, and the parts of the first one.

    `targets`: labels [B,H,W] or what a pseudo-label has; `weight` [B,H,W] or None. `over_valid`
    divides by the labels that count instead of by all pixels.
    """
    values, parts = [], []
    for head in heads:
        area = (..., head.rows, head.columns)
        wanted = targets[area].contiguous()
        terms = context.encoding.loss(
            head.logits, wanted, None if weight is None else weight[area].contiguous()
        )
        scale = valid_scale(wanted != IGNORE) if over_valid else 1.0
        values.append(terms.total * scale * head.weight)
        parts.append(terms.parts)
    return torch.stack(values).sum() if len(values) > 1 else values[0], parts[0]


def whole(logits: Tensor) -> tuple[Head]:
    """The one head of a network whose logits [B,K,H,W] cover the images."""
    return (Head(logits=logits, rows=slice(None), columns=slice(None), weight=1.0),)


def supervised_terms(
    context: Context, heads: Sequence[Head], labels: Tensor, *, over_valid: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss on given labels [B,H,W] and its parts for the curves.

    `over_valid` divides by the pixels that count (the SSL recipes), else by all of them (the UDA
    recipes, as in mmsegmentation).
    """
    value, parts = heads_loss(context, heads, labels, over_valid=over_valid)
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


def valid_scale(valid: Tensor) -> Tensor:
    """Factor from a mean over all pixels of `valid` [B,H,W] to one over its true pixels."""
    return valid.numel() / valid.sum().clamp(min=1)
