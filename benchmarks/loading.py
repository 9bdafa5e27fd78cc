"""Images a second and core, decoded and augmented: prepared data against the originals, in one run.

    python benchmarks/loading.py [--images 12] [--seconds 6] [--photographs FOLDER]
    python benchmarks/loading.py --images 2 --seconds 0.2 --only cityscapes

Originals of the real sizes are made first: GTAv 1914x1052 and SYNTHIA 1280x760 as PNG, Cityscapes
2048x1024 as PNG. Their content is either rendered street scenes, enlarged, with noise of a standard
deviation of 2 levels; or, with --photographs, photographs of a folder (as CamVid's), enlarged and
with the same noise. The bits a pixel that are printed say how hard they are to decode; the real
GTAv has about 9.6 (57 GB, labels included), Cityscapes 8.7 (11 GB).

Every row reads whole batches of 2 by `StepBatches`, on one thread, files in the page cache.
`original` decodes the raw image and label, maps the label's ids, resizes both to the training size
as preparation does, then crops and flips alike: what a loader does that prepares nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import pipeline
from ecocseg.data.config import DatasetConfig
from ecocseg.data.dataset import StepBatches, Stream
from ecocseg.data.labels import open_label
from ecocseg.data.layouts import LAYOUTS, Item
from ecocseg.data.manifest import Row
from ecocseg.data.prepare import prepare
from ecocseg.data.resize import resize_image, resize_label
from ecocseg.data.sampling import RareClasses, RareClassSampler
from ecocseg.data.streets.scene import render_scene
from ecocseg.data.transforms import Quota, TransformConfig, random_geometry
from ecocseg.data.verify import rules_of
from ecocseg.engine.seed import generator

CONF = Path(pipeline.__file__).parent / "conf" / "dataset"
NOISE = 2.0
BATCH = 2


@dataclass(frozen=True)
class Case:
    """One data set as training reads it."""

    dataset: str
    raw: tuple[int, int]
    crop: int
    source: bool
    """Source images: one class covers at most 75 % of a crop, and rare classes are sampled."""
    min_crop_ratio: float = 0.5


CASES = (
    Case("gta", (1052, 1914), 512, True),
    Case("synthia", (760, 1280), 512, True),
    Case("cityscapes", (1024, 2048), 512, False),
    Case("gta_hr", (1052, 1914), 1024, True, 2.0),
    Case("synthia_hr", (760, 1280), 1024, True, 2.0),
    Case("cityscapes_hr", (1024, 2048), 1024, False, 2.0),
)
STEPS = {
    "DACS, DAFormer: 2 source and 2 target images a step": ("gta", "cityscapes"),
    "HRDA, MIC: 2 source and 2 target images a step": ("gta_hr", "cityscapes_hr"),
}


def load_config(name: str) -> DatasetConfig:
    return DatasetConfig.from_mapping(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def make_originals(config: DatasetConfig, case: Case, root: Path, options: argparse.Namespace):
    """Raw files in the data set's layout, at its real size."""
    photographs = sorted(Path(options.photographs).iterdir()) if options.photographs else []
    for index in range(options.images):
        height, width = case.raw
        scene = render_scene(index, "camera", height // 4, width // 4)
        picture = Image.fromarray(scene.image)
        if photographs:
            picture = Image.open(photographs[index * len(photographs) // options.images])
        large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(index).normal(0, NOISE, (height, width, 3))
        noisy = (np.asarray(large) + noise).clip(0, 255).astype(np.uint8)
        ids = Image.fromarray(scene.label_ids).resize((width, height), Image.Resampling.NEAREST)
        # SYNTHIA's ids in one channel of 8 bits: writing 16-bit files needs a library of its own.
        if config.layout == "synthia":
            cityscapes = load_config("cityscapes").table
            table = np.zeros(256, dtype=np.uint8)
            by_train = {train: raw for raw, train in config.table.ids.items()}
            for raw, train in cityscapes.ids.items():
                table[raw] = by_train[train] if train != 255 else 0
            ids = Image.fromarray(table[np.asarray(ids)])
        names = {
            "gta": (f"images/{index:05d}.png", f"labels/{index:05d}.png"),
            "synthia": (f"RGB/{index:07d}.png", f"GT/LABELS/{index:07d}.png"),
            "cityscapes": (
                f"leftImg8bit/train/ulm/ulm_{index:06d}_000019_leftImg8bit.png",
                f"gtFine/train/ulm/ulm_{index:06d}_000019_gtFine_labelIds.png",
            ),
        }[config.layout]
        for name, content in zip(names, (Image.fromarray(noisy), ids), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            content.save(root / name)


def rate(batch: Callable[[int], object], seconds: float) -> float:
    """Images a second of batches 0, 1, 2 ..."""
    batch(0)
    begun, step = time.perf_counter(), 1
    while time.perf_counter() - begun < seconds:
        batch(step)
        step += 1
    return BATCH * (step - 1) / (time.perf_counter() - begun)


def original_batches(
    config: DatasetConfig, stream: Stream, root: Path
) -> Callable[[int], object]:
    """Batches of the same images and draws from the raw files."""
    rules = rules_of(config)
    items = {item.key: item for item in LAYOUTS[config.layout].listing(root, "train", {}).items}
    data = StepBatches([stream], seed=0)

    def read(row: Row, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(item.image) as picture:
            image = resize_image(picture.convert("RGB"), row.image_size, config.resize)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        if not stream.labelled:
            return pixels, torch.full(row.image_size, 255, dtype=torch.uint8)
        raw = open_label(item.label, rules, [])
        ids = config.table.lookup[raw].astype(np.uint8)
        return pixels, torch.from_numpy(resize_label(ids, row.image_size, config.resize).copy())

    def batch(step: int) -> object:
        return [
            random_geometry(
                *read(stream.rows[index], items[stream.rows[index].key]),
                stream.transform,
                generator(0, "view", stream.name, step, place),
                quota=quota,
            )
            for place, (index, quota) in enumerate(data._drawn(stream, step))
        ]

    return batch


def measure(case: Case, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Images a second and core of one data set, by way of reading."""
    config = replace_splits(load_config(case.dataset))
    root, out = folder / config.raw_name, folder / "processed" / case.dataset
    if not root.is_dir():
        make_originals(config, case, root, options)
    begun = time.perf_counter()
    rows = prepare(config, root, out, workers=1, verified=True).all_rows
    preparing = (time.perf_counter() - begun) / len(rows)
    stream = Stream(
        name="labelled" if case.source else "unlabelled",
        rows=rows,
        batch_size=BATCH,
        transform=TransformConfig(
            crop=(case.crop, case.crop), max_class_share=0.75 if case.source else 1.0
        ),
        labelled=case.source,
    )
    found = {"prepare": preparing, "bits": bits(rows), "megabytes": megabytes(rows)}
    raw = [p for p in root.rglob("*.png") if "label" not in str(p).lower()]
    raw_bytes = sum(path.stat().st_size for path in raw) / len(raw)
    found["raw bits"] = 8 * raw_bytes / (case.raw[0] * case.raw[1])
    ways = {"": stream}
    if case.source:
        rare = RareClasses(min_crop_ratio=case.min_crop_ratio)
        ways[" rare"] = replace(stream, rare_classes=rare)
    for name, way in ways.items():
        found[f"prepared{name}"] = rate(StepBatches([way], seed=0).__getitem__, options.seconds)
        found[f"original{name}"] = rate(original_batches(config, way, root), options.seconds)
    return found
