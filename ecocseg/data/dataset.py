"""The one reader: prepared data sets by their manifest, batches as a function of the step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ecocseg.config import require
from ecocseg.data.classes import most_confusable
from ecocseg.data.manifest import Row
from ecocseg.data.noise import LabelNoise
from ecocseg.data.resize import bilinear
from ecocseg.data.sampling import EpochSampler, RareClasses, RareClassSampler
from ecocseg.data.transforms import (
    Margins,
    Quota,
    Sample,
    TransformConfig,
    collate,
    random_geometry,
)
from ecocseg.engine.seed import derive, generator
from ecocseg.errors import ConfigError, DataError
from ecocseg.files import atomic_path
from ecocseg.types import IGNORE


def read_image(row: Row) -> Tensor:
    """The image at `row.image_size`, RGB uint8 [3F,H,W] of F frames; DataError when damaged."""
    frames = _frames(row)
    if frames.shape[1:3] != row.image_size:
        frames = np.stack([bilinear(frame, row.image_size) for frame in frames])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).flatten(0, 1).contiguous()


def read_stored(row: Row) -> Tensor:
    """The image as its file holds it, uint8 [3F,h,w]: h and w are smaller where it is enlarged.

    Of a single frame a view whose channels lie together, for `random_geometry`, which copies what
    it crops.
    """
    return torch.from_numpy(_frames(row)).permute(0, 3, 1, 2).flatten(0, 1)


def _frames(row: Row) -> "np.ndarray":
    """Frames [F,h,w,3] of an image file."""
    pixels = _read(row.image, "RGB")
    return pixels.reshape(row.frames, -1, *pixels.shape[1:])


def read_label(row: Row) -> Tensor:
    """The stored label, train ids uint8 [H,W]; DataError when the file is gone or damaged."""
    return torch.from_numpy(_read(row.label, "L"))


def read_targets(path: Path, height: int) -> Tensor:
    """Pseudo-labels that `write_targets` stored, uint8 [P,H,W]; DataError when they are damaged."""
    stacked = _read(path, "L", "remove the file and start the run again: it labels the image anew")
    return torch.from_numpy(stacked).reshape(-1, height, stacked.shape[1])


def write_targets(path: Path, targets: Tensor) -> None:
    """Store packed pseudo-labels uint8 [P,H,W] as a PNG, one plane above the other."""
    with atomic_path(path) as temporary:
        flat = targets.reshape(-1, targets.shape[-1]).cpu().numpy()
        Image.fromarray(flat).save(temporary, compress_level=1)


def _read(
    path: object,
    mode: str,
    remedy: str = "remove the file and run the preprocess stage again",
) -> "np.ndarray":
    try:
        with Image.open(str(path)) as picture:
            return np.array(picture.convert(mode) if picture.mode != mode else picture)
    except FileNotFoundError as error:
        again = remedy.removeprefix("remove the file and ")
        raise DataError(f"{path}: the file is gone; put it back, or {again}") from error
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from error


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One source of training images: which rows, how many a step, how transformed."""

    name: str
    rows: Sequence[Row]
    batch_size: int
    transform: TransformConfig
    labelled: bool = True
    """False hides the labels: every label pixel reads 255."""
    names: Sequence[str] = ()
    """Class names, for messages and for `noise`."""
    rare_classes: RareClasses | None = None
    """Draws images by their rare classes instead of in passes; for labelled streams."""
    margins: Margins | None = None
    """Pixels at top, bottom, left and right of the whole image that `Sample.trusted` excludes."""
    targets: Path | None = None
    """Folder of stored pseudo-labels, `<key>.png`, that become `Sample.targets`."""
    noise: LabelNoise | None = None
    """Which of the labels are wrong, before they are cropped; for labelled streams."""

    def __post_init__(self) -> None:
        if self.rare_classes is not None and not self.labelled:
            raise ConfigError(
                f"stream {self.name!r}: rare_classes needs labels, and this stream hides them; "
                "leave it out"
            )
        if self.noise is not None:
            require(self.labelled, "noise", self.noise, "null: this stream hides its labels")
            if self.noise.kind == "confusable":
                most_confusable(self.names)
        if self.margins is not None:
            top, bottom, left, right = self.margins
            smallest = [min(row.image_size[axis] for row in self.rows) for axis in (0, 1)]
            require(
                min(self.margins) >= 0
                and top + bottom < smallest[0]
                and left + right < smallest[1],
                "method.margins",
                list(self.margins),
                "four numbers from 0 up (top, bottom, left, right) that leave some of the whole "
                f"images, the smallest of which is {smallest[0]}x{smallest[1]}; make them smaller",
            )


class StepBatches(Dataset[dict[str, Sample]]):
    """Item t is the batch of step t: a mapping from stream name to a batched `Sample`.

    Order and augmentation depend on (seed, stream, step) only, so a loader that starts at step t
    gives what one that started at 0 gives from there on. Process `rank` of `size` reads every
    `size`-th image of a batch, from number `rank` on.
    """

    def __init__(self, streams: Sequence[Stream], seed: int, rank: int = 0, size: int = 1) -> None:
        self.streams, self.seed = list(streams), seed
        self.rank, self.size = rank, size
        self._passes: dict[str, EpochSampler] = {}
        self._rare: dict[str, RareClassSampler] = {}
        for stream in streams:
            order = derive(seed, "order", stream.name)
            if stream.rare_classes is None:
                self._passes[stream.name] = EpochSampler(len(stream.rows), stream.batch_size, order)
            else:
                self._rare[stream.name] = RareClassSampler(
                    stream.rows, stream.batch_size, order, stream.rare_classes, stream.names
                )

    def __getitem__(self, step: int) -> dict[str, Sample]:
        return {stream.name: self._batch(stream, step) for stream in self.streams}

    def keys(self, step: int) -> dict[str, list[str]]:
        """Keys of the images of a step, of all processes, by stream, in the order of the batch."""
        return {
            stream.name: [stream.rows[index].key for index, _ in self._drawn(stream, step)]
            for stream in self.streams
        }

    def _batch(self, stream: Stream, step: int) -> Sample:
        samples = []
        drawn = list(enumerate(self._drawn(stream, step)))
        for place, (index, quota) in drawn[self.rank :: self.size]:
            row = stream.rows[index]
            image = read_stored(row)
            if stream.labelled:
                label = read_label(row)
                if stream.noise is not None:
                    wrong = stream.noise.applied(label.numpy(), row.key, stream.names)
                    label = torch.from_numpy(wrong)
            else:
                label = torch.full(row.image_size, IGNORE, dtype=torch.uint8)
            targets = None
            if stream.targets is not None:
                targets = read_targets(stream.targets / f"{row.key}.png", row.image_size[0])
            random = generator(self.seed, "view", stream.name, step, place)
            samples.append(
                random_geometry(
                    image,
                    label,
                    stream.transform,
                    random,
                    margins=stream.margins,
                    quota=quota,
                    targets=targets,
                )
            )
        return collate(samples)

    def _drawn(self, stream: Stream, step: int) -> list[tuple[int, Quota | None]]:
        """Indices of the images of a step, and what each one's crop must have."""
        rare = stream.rare_classes
        if rare is None:
            return [(index, None) for index in self._passes[stream.name].indices(step)]
        tries = rare.tries if rare.crop_pixels > 0 else 0
        return [
            (index, Quota(train_id=train, pixels=rare.crop_pixels, tries=tries))
            for train, index in self._rare[stream.name].draws(step)
        ]


def batches(
    streams: Sequence[Stream],
    seed: int,
    start: int,
    stop: int,
    workers: int = 0,
    *,
    rank: int = 0,
    size: int = 1,
) -> Iterator[Mapping[str, Sample]]:
    """Batches of steps `start` to `stop` - 1, read ahead by `workers` processes (0: in place).

    Of several processes that train together, what process `rank` of `size` reads.
    """
    loader = DataLoader(
        StepBatches(streams, seed, rank, size),
        batch_size=None,
        # It seeds readers, whose global generators nothing uses; without one the caller's is drawn
        # from.
        generator=generator(seed, "loader", start),
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        multiprocessing_context="spawn" if workers else None,
    )
    yield from loader
