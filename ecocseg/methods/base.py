"""What a method is: it computes losses; the engine owns everything else."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.errors import ConfigError
from ecocseg.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use in one step."""

    student: nn.Module
    encoding: Encoding
    step: int
    steps: int
    random: torch.Generator
    """CPU generator of this step: everything the method draws comes from it."""
    teacher: nn.Module | None = None
    """The averaged network, without gradient; None when the method asks for none."""


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

    @abstractmethod
    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Iterator[Loss]:
        """Yield the summands of the step's loss; their sum is what is minimised."""

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """Set the teacher's modes; by default it runs as in evaluation."""
        teacher.eval()


def supervised_terms(
    context: Context, logits: Tensor, labels: Tensor, *, over_valid: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss on given labels [B,H,W] and its parts for the curves.

    `over_valid` divides by the pixels that count (the SSL recipes), else by all of them (the UDA
    recipes, as in mmsegmentation).
    """
    terms = context.encoding.loss(logits, labels)
    value = terms.total
    if over_valid:
        value = value * valid_scale(labels != IGNORE)
    return value, {f"labelled/{name}": part for name, part in terms.parts.items()}


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
