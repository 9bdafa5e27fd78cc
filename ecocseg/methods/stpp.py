"""ST++: self-training in three stages, reliable images first.

Source: Yang et al., CVPR 2022, LiheYoung/ST-PlusPlus `train.py`, `dataset/semi.py` and
`model/semseg/base.py`. A network is trained on labels; unlabelled images are ranked by how much its
earlier checkpoints agree with its last one; a new network is trained on labels and on
pseudo-labels of the reliable half; it labels the other half, and a third network is trained on all.

Differences: the last network of a stage labels, where the public code takes the one that scored
best on the validation set, whose labels would then choose what is learnt; half of each batch is
labelled, where it shuffles both kinds, repeated to the same number, together: the same share on
average, and streams as all methods have them; of views at other scales bit probabilities are
averaged, which for one-hot is its mean of softmax outputs.

Its images have long sides of half to twice 400 pixels on
Pascal and 2048 on Cityscapes: `benchmark.labelled_transform.base_size`, null unless told otherwise.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ecocseg.config import require
from ecocseg.data.augment import strong_view
from ecocseg.data.dataset import Stream, read_image, write_targets
from ecocseg.data.manifest import Row
from ecocseg.data.mixing import cutmix_mask, paste
from ecocseg.data.transforms import Sample
from ecocseg.encodings.base import Encoding
from ecocseg.engine.distributed import per_image
from ecocseg.methods.base import (
    Context,
    Loss,
    Losses,
    Method,
    Stage,
    StageEvent,
    Workshop,
    counted,
    require_alike,
)
from ecocseg.methods.consistency import LabelledConfig, labelled_loss, labelled_pixels
from ecocseg.methods.reliability import rank, reliable_count, reliable_keys
from ecocseg.types import IGNORE


@dataclass(frozen=True, kw_only=True)
class Config(LabelledConfig):
    """Configuration of `stpp`."""

    reliable_share: float = 0.5
    """Of the unlabelled images that the second stage learns from."""
    stage_shares: tuple[float, float, float] | None = None
    """Shares of a run's steps that its stages have; None for as many as their epochs have, which
    leaves next to nothing for the first stage of a short run."""
    label_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Sizes at which an image is predicted for its pseudo-label, each also mirrored."""
    cutout_probability: float = 0.5
    """Of a box of noise, which counts nowhere, in a strong view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.reliable_share
        require(0 < share < 1, "reliable_share", share, "above 0, below 1")
        shares = self.stage_shares
        require(
            shares is None or (min(shares) > 0 and abs(sum(shares) - 1) < 1e-6),
            "stage_shares",
            shares,
            "null, or three numbers above 0 that sum to 1",
        )
        scales = self.label_scales
        require(bool(scales) and min(scales) > 0, "label_scales", scales, "one or more above 0")
        probability = self.cutout_probability
        require(0 <= probability <= 1, "cutout_probability", probability, "0 to 1")


class STPlusPlus(Method):
    """Three networks, one after the other, each taught by the one before."""

    name = "stpp"
    streams = ("labelled", "unlabelled")
    whole_images = True
    restarts = True
    least_steps = 3

    def __init__(self, config: Config) -> None:
        self.config = config

    def epoch(self, images: Mapping[str, int], batches: Mapping[str, int]) -> int:
        """Steps of one epoch of each of the three stages."""
        return sum(self._epochs(images, batches))

    def stages(self, steps: int, streams: Sequence[Stream]) -> tuple[Stage, ...]:
        """Labelled images, reliable ones, all: as long as each one's epochs are, or as told.

        Raises ConfigError for fewer than 3 steps.
        """
        require(steps >= self.least_steps, "schedule.steps", steps, "3 or more: stpp has 3 stages")
        images = {stream.name: len(stream.rows) for stream in streams}
        batches = {stream.name: stream.batch_size for stream in streams}
        lengths: tuple[float, ...] = self.config.stage_shares or self._epochs(images, batches)
        first, second, third = lengths
        total = first + second + third
        one = min(max(round(steps * first / total), 1), steps - 2)
        two = min(max(round(steps * (first + second) / total), one + 1), steps - 1)
        return (
            Stage(name="labelled", start=0, stop=one),
            Stage(name="reliable", start=one, stop=two),
            Stage(name="all", start=two, stop=steps),
        )

    def _epochs(
        self, images: Mapping[str, int], batches: Mapping[str, int]
    ) -> tuple[int, int, int]:
        """Steps of an epoch of each stage; fewer than 200 labelled images are passed over twice."""
        labelled = images["labelled"] * (2 if images["labelled"] < 200 else 1)
        reliable = reliable_count(images["unlabelled"], self.config.reliable_share)
        return (
            max(labelled // (batches["labelled"] + batches["unlabelled"]), 1),
            max(reliable // batches["unlabelled"], 1),
            max(images["unlabelled"] // batches["unlabelled"], 1),
        )

    def kept_steps(self, stages: Sequence[Stage]) -> tuple[int, ...]:
        """Thirds of the first stage, for the ranking, and the end of the second."""
        length = stages[0].stop
        return (-(-length // 3), -(-2 * length // 3), length, stages[1].stop)

    def stage_streams(
        self, stage: int, stages: Sequence[Stage], streams: Sequence[Stream], workshop: Workshop
    ) -> Generator[StageEvent, None, list[Stream]]:
        """Rank and label what the stage learns from; what is there already is kept.

        Raises DataError when what an earlier stage left is gone.
        """
        given = {stream.name: stream for stream in streams}
        labelled, unlabelled = (given[name] for name in self.streams)
        if stage == 0:
            size = labelled.batch_size + unlabelled.batch_size
            return [replace(labelled, batch_size=size)]
        start = stages[stage].start
        kept = self.kept_steps(stages)[:3]
        yield from rank(unlabelled.rows, workshop, kept, start, self.config.reliable_share)
        reliable = reliable_keys(workshop.folder)
        rows = [row for row in unlabelled.rows if row.key in reliable]
        yield from self._label(rows, workshop, stages[0].stop, start)
        if stage == 2:
            others = [row for row in unlabelled.rows if row.key not in reliable]
            yield from self._label(others, workshop, stages[1].stop, start)
            rows = list(unlabelled.rows)
        folder = label_folder(workshop.folder)
        return [labelled, replace(unlabelled, rows=rows, targets=folder)]

    def _label(
        self, rows: Sequence[Row], workshop: Workshop, weights: int, step: int
    ) -> Iterator[StageEvent]:
        """Store the pseudo-labels that are not there yet, by the weights after step `weights`."""
        folder = label_folder(workshop.folder)
        todo = [row for row in rows if not (folder / f"{row.key}.png").is_file()]
        if not todo:
            return
        network = workshop.network_at(weights)
        for place, row in enumerate(todo, start=1 + len(rows) - len(todo)):
            image = read_image(row).to(workshop.device).float()[None] / 255
            logits = averaged(network, workshop.encoding, image, self.config.label_scales)
            targets = workshop.encoding.pseudo_label(logits).targets
            write_targets(folder / f"{row.key}.png", workshop.encoding.pack(targets)[0])
            yield StageEvent(step=step, activity="labelling", done=place, total=len(rows))

    def losses(self, context: Context, batch: Mapping[str, Sample]) -> Losses:
        """One summand: labels, or labels and stored pseudo-labels in one pass and one mean."""
        labelled = batch["labelled"]
        if "unlabelled" not in batch:
            known = labelled_pixels(context, labelled.labels, self.config)
            (divisor,) = yield counted(known)
            logits = context.student(labelled.images)
            value, parts = labelled_loss(context, logits, labelled.labels, self.config, divisor)
            yield Loss(value=value, logs={"loss/labelled": value.detach(), **parts})
            return
        unlabelled, encoding = batch["unlabelled"], context.encoding
        require_alike(labelled, unlabelled, self.name, batches=False)
        assert unlabelled.targets is not None
        with torch.no_grad():
            images, learnt = self._strong(unlabelled, context)
            targets = encoding.unpack(unlabelled.targets)
            known = labelled.labels != IGNORE
            targets = torch.cat([encoding.encode(labelled.labels.masked_fill(~known, 0)), targets])
            weight = torch.cat([known, learnt])
        (divisor,) = yield counted(weight)
        logits = context.student(torch.cat([labelled.images, images]))
        terms = encoding.loss(logits, targets, weight.to(logits.dtype))
        value = terms.total * (weight.numel() / divisor)
        yield Loss(
            value=value,
            logs={
                "loss/labelled": value.detach(),
                **{f"labelled/{name}": part for name, part in terms.parts.items()},
                "pseudo/counted": learnt.float().mean(),
            },
        )

    def _strong(self, sample: Sample, context: Context) -> tuple[Tensor, Tensor]:
        """Strong views with cutout [B,3,H,W], and which of their pixels count, bool [B,H,W]."""
        images = strong_view(sample.images, context.random)
        batch, height, width = sample.valid.shape
        box = cutmix_mask(batch, height, width, context.random, self.config.cutout_probability).to(
            images.device
        )
        noise = per_image(
            lambda n: torch.rand(n, *images.shape[1:], generator=context.random),
            batch,
            context.random,
        )
        return paste(box, noise.to(images), images), sample.valid & ~box


def label_folder(folder: Path) -> Path:
    """Where a run's pseudo-labels lie."""
    return folder / "labels"


@torch.no_grad()
def averaged(
    network: torch.nn.Module, encoding: Encoding, image: Tensor, scales: Sequence[float]
) -> Tensor:
    """Logits [1,K,H,W] of the mean bit probability over sizes of an image, each also mirrored."""
    size = image.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled = [max(1, int(side * scale)) for side in size]
        view = image if scale == 1 else F.interpolate(image, scaled, mode="bilinear")
        for flipped in (False, True):
            logits = network(view.flip(-1) if flipped else view)
            logits = logits.flip(-1) if flipped else logits
            found = encoding.bit_probabilities(logits)
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
            total = found if total is None else total + found
    assert total is not None
    return encoding.logits_of(total / (2 * len(scales)))
