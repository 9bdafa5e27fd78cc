"""Images a second and core, decoded and augmented: prepared data against the originals, in one run.

    python benchmarks/loading.py [--images 12] [--seconds 6] [--photographs FOLDER]
    python benchmarks/loading.py --images 2 --seconds 0.2 --only cityscapes

Originals of the real sizes are made first: GTAv 1914x1052 and SYNTHIA 1280x760 as PNG, Cityscapes
2048x1024 as PNG. Their content is either rendered street scenes, enlarged, with noise; or, with
--photographs, photographs of a folder (as CamVid's), treated alike. The bits a pixel that are
printed say how hard they are to decode; the real GTAv has about 9 (57 GB), Cityscapes 8.5 (11 GB).

Every row reads whole batches of 2 by `StepBatches`, on one thread, files in the page cache. Time is
that of the processor, so that other work on the machine does not count.
`original` decodes the raw image and label, maps the label's ids, resizes both to the training size
as preparation does, then crops and flips alike: what a loader does that prepares nothing. SYNTHIA's
labels have 8 bits here.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
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
from ecocseg.data.sampling import RareClasses
from ecocseg.data.streets.scene import render_scene
from ecocseg.data.transforms import TransformConfig, random_geometry
from ecocseg.data.verify import rules_of
from ecocseg.engine.seed import generator

CONF = Path(pipeline.__file__).parent / "conf" / "dataset"
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
    "DAFormer, GTAv to Cityscapes": ("gta", "cityscapes"),
    "DAFormer, SYNTHIA to Cityscapes": ("synthia", "cityscapes"),
    "HRDA and MIC, GTAv to Cityscapes": ("gta_hr", "cityscapes_hr"),
    "HRDA and MIC, SYNTHIA to Cityscapes": ("synthia_hr", "cityscapes_hr"),
}


def load_config(name: str) -> DatasetConfig:
    return DatasetConfig.from_mapping(yaml.safe_load((CONF / f"{name}.yaml").read_text()))


def make_originals(
    config: DatasetConfig, case: Case, root: Path, options: argparse.Namespace
) -> None:
    """Raw files in the data set's layout, at its real size."""
    photographs = sorted(Path(options.photographs).iterdir()) if options.photographs else []
    for index in range(options.images):
        height, width = case.raw
        scene = render_scene(index, "camera", height // 4, width // 4)
        picture = Image.fromarray(scene.image)
        if photographs:
            picture = Image.open(photographs[index * len(photographs) // options.images])
        large = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(index).normal(0, options.noise, (height, width, 3))
        noisy = (np.asarray(large) + noise).round().clip(0, 255).astype(np.uint8)
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
    """Images a second of the processor of batches 1, 2 ..., after one that warms up."""
    batch(0)
    begun, step = time.process_time(), 1
    while time.process_time() - begun < seconds:
        batch(step)
        step += 1
    return BATCH * (step - 1) / (time.process_time() - begun)


def original_batches(
    config: DatasetConfig, stream: Stream, found: Sequence[Item]
) -> Callable[[int], object]:
    """Batches of the same images and draws from the raw files."""
    rules = rules_of(config)
    items = {item.key: item for item in found}
    data = StepBatches([stream], seed=0)

    def read(row: Row, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(item.image) as picture:
            image = resize_image(picture.convert("RGB"), row.image_size, config.resize)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        if not stream.labelled:
            return pixels, torch.full(row.image_size, 255, dtype=torch.uint8)
        assert item.label is not None
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
    """Images a second and core of one data set, by way of reading; size and cost of its files."""
    config = load_config(case.dataset)
    config = replace(config, splits={"train": config.splits["train"]}, partitions={})
    root, out = folder / config.raw_name, folder / "processed" / case.dataset
    if not root.is_dir():
        make_originals(config, case, root, options)
    begun = time.process_time()
    rows = prepare(config, root, out, workers=1, verified=True).all_rows
    preparing = (time.process_time() - begun) / len(rows)
    items = LAYOUTS[config.layout].listing(root, "train", {}).items
    stream = Stream(
        name="labelled" if case.source else "unlabelled",
        rows=rows,
        batch_size=BATCH,
        transform=TransformConfig(
            crop=(case.crop, case.crop), max_class_share=0.75 if case.source else 1.0
        ),
        labelled=case.source,
    )
    found = {
        "seconds to prepare": preparing,
        "original bits": _bits([item.image for item in items], case.raw),
        "prepared MB": sum(row.image.stat().st_size for row in rows) / len(rows) / 1e6,
    }
    ways = {"passes": stream}
    if case.source:
        rare = RareClasses(min_crop_ratio=case.min_crop_ratio)
        ways["rare classes"] = replace(stream, rare_classes=rare)
    for name, way in ways.items():
        prepared = StepBatches([way], seed=0)
        found[f"{name}, prepared"] = rate(prepared.__getitem__, options.seconds)
        found[f"{name}, original"] = rate(original_batches(config, way, items), options.seconds)
    return found


def _bits(files: Sequence[Path], size: tuple[int, int]) -> float:
    return 8 * sum(file.stat().st_size for file in files) / len(files) / (size[0] * size[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12, help="images of each data set")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--photographs", help="a folder of photographs to enlarge")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation in levels")
    parser.add_argument("--only", nargs="+", choices=[c.dataset for c in CASES])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    what = options.photographs or "rendered streets"
    print(f"{options.images} images of each, {what} with noise of {options.noise} levels\n")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if options.only is None or case.dataset in options.only:
                found[case.dataset] = measure(case, options, Path(folder))

    print("| data set, crop, order | original images/s | prepared images/s | times |")
    print("| --- | --- | --- | --- |")
    for case in CASES:
        numbers = found.get(case.dataset, {})
        for order in ("passes", "rare classes"):
            if f"{order}, prepared" in numbers:
                raw, ready = numbers[f"{order}, original"], numbers[f"{order}, prepared"]
                name = f"{case.dataset}, {case.crop}, {order}"
                print(f"| {name} | {raw:.1f} | {ready:.1f} | {ready / raw:.1f} |")
    print("\n| data set | bits a pixel of originals | prepared MB | seconds to prepare |")
    print("| --- | --- | --- | --- |")
    for name, numbers in found.items():
        values = [numbers[k] for k in ("original bits", "prepared MB", "seconds to prepare")]
        print(f"| {name} | {values[0]:.1f} | {values[1]:.2f} | {values[2]:.2f} |")
    print("\n| 2 source and 2 target images a step | original s | prepared s | on one core |")
    print("| --- | --- | --- | --- |")
    for name, (source, target) in STEPS.items():
        if source in found and target in found:
            times = [
                BATCH / found[source][f"rare classes, {way}"]
                + BATCH / found[target][f"passes, {way}"]
                for way in ("original", "prepared")
            ]
            print(f"| {name} | {times[0]:.3f} | {times[1]:.3f} | {1 / times[1]:.1f} steps/s |")


if __name__ == "__main__":
    main()
