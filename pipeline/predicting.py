"""Label images with the network of a run."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ecocseg.config import unknown
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
    model = build_model(components.model, encoding.channels).to(device).eval()
    folder = run_directory(results, run_id)
    state = checkpoint.load(folder / (BEST if weights == "best" else LAST), device)
    state = state["student"] if weights == "best" else state["trainer"][_role(weights)]
    if state is None:
        raise DataError(f"{run_id}: the run has no teacher; take --weights last or best")
    model.load_state_dict(state)
    palette = _palette(len(record["classes"]))
    evaluation = components.benchmark.evaluation
    count = 0
    for path in _images(paths):
        try:
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read as an image ({error})") from error
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
        size = pixels.shape[:2]
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
        count += 1
    print(f"{count} images -> {out}: NAME.png holds train ids, NAME_colour.png shows them")


def _finished(results: Path, run_id: str) -> dict[str, Any]:
    path = record_file(results, run_id)
    if not path.is_file():
        known = sorted(p.stem for p in (results / "records").glob("*.json"))
        raise DataError(unknown("run", "finished run", run_id, known))
    return read_record(path)


def _role(weights: str) -> str:
    return "teacher" if weights == "teacher" else "student"


def _palette(classes: int) -> list[int]:
    from ecocseg.data.classes import CLASS_TABLES

    for table in CLASS_TABLES.values():
        if len(table.names) == classes:
            return [channel for colour in table.colors for channel in colour]
    # Distinct hues for classes of a person's own.
    hues = Image.new("HSV", (classes, 1))
    hues.putdata([(255 * i // classes, 200, 230) for i in range(classes)])
    return list(hues.convert("RGB").tobytes())


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
