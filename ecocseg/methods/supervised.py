"""Training on labels alone: source-only, sup-only and oracle runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ecocseg.data.augment import photometric_distortion
from ecocseg.data.transforms import Sample
from ecocseg.methods.base import Context, Loss, Method, supervised_terms


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of `supervised`."""

    divisor: Literal["all", "valid"] = "all"
    """Mean over all pixels (UDA recipes) or over those that are not ignored (SSL recipes)."""
    distortion: bool = False
    """Photometric distortion of the images, as DAFormer's source-only and oracle runs have it."""


class Supervised(Method):
    """The loss on labelled images."""

    name = "supervised"
    streams = ("labelled",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Iterator[Loss]:
        """One summand: the encoding's loss on the labels."""
        sample = batch["labelled"]
        images = sample.images
        if self.config.distortion:
            images = photometric_distortion(images, context.random)
        value, parts = supervised_terms(
            context,
            context.outputs(images).heads,
            sample.labels,
            over_valid=self.config.divisor == "valid",
        )
        yield Loss(value=value, logs={"loss/labelled": value.detach(), **parts})
