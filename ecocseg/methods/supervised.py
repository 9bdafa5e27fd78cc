"""Training on labels alone: source-only, sup-only and oracle runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ecocseg.data.augment import photometric_distortion
from ecocseg.data.transforms import Sample
from ecocseg.errors import ConfigError
from ecocseg.methods.base import Context, Loss, Losses, Method, counted, supervised_terms
from ecocseg.methods.consistency import LabelledConfig, labelled_loss, labelled_pixels


@dataclass(frozen=True, kw_only=True)
class Config(LabelledConfig):
    """Configuration of `supervised`."""

    divisor: Literal["all", "valid"] = "all"
    """Mean over all pixels (UDA recipes) or over those that are not ignored (SSL recipes)."""
    distortion: bool = False
    """Photometric distortion of the images, as DAFormer's source-only and oracle runs have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ohem_threshold is not None and self.divisor != "valid":
            raise ConfigError(
                f"ohem_threshold: got {self.ohem_threshold} with divisor {self.divisor!r}; the "
                "mean over hard pixels is one over those that count: set divisor to valid"
            )


class Supervised(Method):
    """The loss on labelled images."""

    name = "supervised"
    streams = ("labelled",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """One summand: the encoding's loss on the labels."""
        sample = batch["labelled"]
        images = sample.images
        if self.config.distortion:
            images = photometric_distortion(images, context.random)
        divisor: Tensor | None = None
        if self.config.divisor == "valid":
            (divisor,) = yield counted(labelled_pixels(context, sample.labels, self.config))
        heads = context.outputs(images).heads
        if divisor is not None and len(heads) > 1 and context.micro_batches > 1:
            raise ConfigError(
                f"method.divisor: got 'valid' with schedule.micro_batches {context.micro_batches} "
                f"and a network of {len(heads)} heads (hrda), whose crop of the other parts of the "
                "batch is not known; set schedule.micro_batches to 1, or method.divisor to all"
            )
        if divisor is not None and self.config.ohem_threshold is not None:
            if len(heads) > 1:
                raise ConfigError(
                    f"method.ohem_threshold: got {self.config.ohem_threshold} with a network of "
                    f"{len(heads)} heads (hrda), whose hard pixels are not defined; set it to null"
                )
            value, parts = labelled_loss(
                context, heads[0].logits, sample.labels, self.config, divisor
            )
        else:
            value, parts = supervised_terms(context, heads, sample.labels, divisor)
        yield Loss(value=value, logs={"loss/labelled": value.detach(), **parts})
