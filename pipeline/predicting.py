"""Label images with the network of a run."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ecocseg.config import unknown
from ecocseg.data.classes import CLASS_TABLES
from ecocseg.encodings import build_encoding
from ecocseg.engine import checkpoint
from ecocseg.engine.evaluate import predict_slide, predict_whole
from ecocseg.errors import DataError
from ecocseg.files import atomic_path
from ecocseg.models.segmenter import build_model
from pipeline.environment import pick_device
from pipeline.records import read_record
from pipeline.run import BEST, LAST
from pipeline.spec import validate
from pipeline.status import record_file, run_directory

_IMAGES = re.compile(r"\.(png|jpe?g|bmp|tiff?|webp)$", re.IGNORECASE)


@torch.no_grad()
def predict(
    results: Path, run_id: str, paths: Sequence[Path], out: Path, weights: str, device_name: str
) -> None:
    """Write `<name>.png` (8-bit train ids) and `<name>_colour.png` for every image.

    `weights`: last, best (both the student's) or teacher. Raises UserError when the run has no
    record, has no teacher, or an image cannot be read; labels written before that stay.
    """
    record = _finished(results, run_id)
    device = pick_device(device_name)
    components = validate(record["spec"])
    options = dict(record["spec"]["encoding"])
    encoding = build_encoding(options.pop("name"), options, record["classes"]).to(device)
    # The checkpoint replaces every weight: none need be fetched for it.
    untrained = replace(components.model, weights="none")
    model = build_model(untrained, encoding.channels).to(device).eval()
    # The network of a run that was not computed itself is that of its original.
    folder = run_directory(results, record.get("same_as", run_id))
    state = checkpoint.load(folder / (BEST if weights == "best" else LAST), device)
    state = state["student"] if weights == "best" else state["trainer"][_role(weights)]
    if state is None:
        raise DataError(f"{run_id}: the run has no teacher; take --weights last or best")
    model.load_state_dict(state)
    palette = _palette(record["classes"])
    evaluation = components.benchmark.evaluation
    stored = record["protocol"]["image_size"]
    images = list(_images(paths))
    _refuse_overwriting(images, out)
    for path in images:
        try:
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read as an image ({error})") from error
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
        size = pixels.shape[:2]
        if stored != "original":
            # The network knows images of the size that its data set was prepared at.
            batch = F.interpolate(batch, tuple(stored), mode="bilinear", antialias=True)
        if evaluation.mode == "slide":
            labels = predict_slide(model, encoding, batch, size, evaluation)
        else:
            labels = predict_whole(model, encoding, batch, size)
        image = Image.fromarray(labels[0].to(torch.uint8).cpu().numpy())
        with atomic_path(out / f"{path.stem}.png") as temporary:
            image.save(temporary)
        coloured = image.copy()
        coloured.putpalette(palette)
        with atomic_path(out / f"{path.stem}_colour.png") as temporary:
            coloured.save(temporary)
    print(f"{len(images)} images -> {out}: NAME.png holds train ids, NAME_colour.png shows them")


def _finished(results: Path, run_id: str) -> dict[str, Any]:
    path = record_file(results, run_id)
    if not path.is_file():
        known = sorted(p.stem for p in (results / "records").glob("*.json"))
        raise DataError(unknown("run", "finished run", run_id, known))
    return read_record(path)


def _role(weights: str) -> str:
    return "teacher" if weights == "teacher" else "student"


def _palette(names: Sequence[str]) -> list[int]:
    """Colours of a known class table, or distinct hues for classes of a person's own."""
    for table in CLASS_TABLES.values():
        if list(table.names) == list(names):
            return [channel for colour in table.colors for channel in colour]
    hues = Image.new("HSV", (len(names), 1))
    hues.putdata([(255 * i // len(names), 200, 230) for i in range(len(names))])
    return list(hues.convert("RGB").tobytes())


def _refuse_overwriting(images: Sequence[Path], out: Path) -> None:
    """Raise DataError when a label would replace an image, or two labels would have one name."""
    for path in images:
        if path.resolve().parent == out.resolve():
            raise DataError(f"{path}: lies in --out {out}; give another folder for the labels")
    stems = [path.stem for path in images]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise DataError(
            f"{twice}: two images have this name, and their labels would too; label them into two "
            "folders (--out)"
        )


def _images(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if _IMAGES.search(p.name))
            if not found:
                raise DataError(f"{path}: holds no image (png, jpg, bmp, tif, webp)")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise DataError(f"{path}: is not there")
