"""Label images with the network of a run."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from pipeline.config.run_spec import validate
from pipeline.machine.environment import pick_device
from pipeline.runner.run import BEST, LAST
from pipeline.store.paths import record_file, run_directory
from pipeline.store.pull import fetch_weights
from pipeline.store.record import read_record

_IMAGES = re.compile(r"\.(png|jpe?g|bmp|tiff?|webp)$", re.IGNORECASE)


@torch.no_grad()
def predict(
    results: Path,
    run_id: str,
    paths: Sequence[Path],
    out: Path,
    weights: str,
    device_name: str,
    storage: str | None = None,
) -> None:
    """Write `<name>.png` (8-bit train ids) and `<name>_colour.png` for every image.

    Of a network that reads pairs, `paths` are two files, or two folders that hold the same names;
    the earlier image names the label. `weights`: last, best (both the student's) or teacher, which
    come from `storage` (a URI) when another machine computed the run. Raises UserError when the run
    has no record, has no teacher, or an image cannot be read; labels written before that stay.
    """
    record = _finished(results, run_id)
    device = pick_device(device_name)
    components = validate(record["spec"])
    options = dict(record["spec"]["encoding"])
    encoding = build_encoding(options.pop("name"), options, record["classes"]).to(device)
    # The checkpoint replaces every weight: none need be fetched for it.
    model = build_model(components.model, encoding.channels, load=False).to(device).eval()
    # The network of a run that was not computed itself is that of its original.
    folder = run_directory(results, record.get("same_as", run_id))
    name = BEST if weights == "best" else LAST
    fetch_weights(storage, results, folder.name, name)
    state = checkpoint.load(folder / name, device)
    state = state["student"] if weights == "best" else state["trainer"][_role(weights)]
    if state is None:
        raise DataError(f"{run_id}: the run has no teacher; take --weights last or best")
    model.load_state_dict(state)
    palette = _palette(record["classes"])
    evaluation = components.benchmark.evaluation
    stored = record["protocol"]["image_size"]
    images = _grouped(paths, model.frames)
    _refuse_overwriting(images, out)
    for files in images:
        pixels = _read(files)
        path = files[0]
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
        size = pixels.shape[:2]
        if stored != "original":
            # The network knows images of the size that its data set was prepared at.
            batch = F.interpolate(batch, tuple(stored), mode="bilinear", antialias=True)
        if evaluation.mode == "slide":
            labels = predict_slide(model, encoding, batch, size, evaluation)
        else:
            labels = predict_whole(model, encoding, batch, size, evaluation.multiple)
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


def _grouped(paths: Sequence[Path], frames: int) -> list[tuple[Path, ...]]:
    """The files of each input of a network that reads `frames` images at once."""
    if frames == 1:
        return [(path,) for path in _images(paths)]
    if len(paths) != frames:
        raise DataError(
            f"{len(paths)} paths: the network of this run compares {frames} images; give {frames} "
            "files, or folders that hold the same names, the earlier images first"
        )
    found = [list(_images([path])) for path in paths]
    names = [[each.stem for each in files] for files in found]
    if any(path.is_dir() for path in paths) and any(each != names[0] for each in names):
        raise DataError(
            f"{paths[0]} and {paths[1]} hold different names: each image of one needs its partner "
            "of the same name in the other"
        )
    return list(zip(*found, strict=True))


def _read(files: Sequence[Path]) -> NDArray[np.uint8]:
    """The frames of an input as [H,W,3F]."""
    frames: list[NDArray[np.uint8]] = []
    for path in files:
        try:
            with Image.open(path) as picture:
                frames.append(np.array(picture.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read as an image ({error})") from error
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in frames)
            raise DataError(f"{path}: the images of a pair must have one size, these are {sizes}")
    return np.concatenate(frames, axis=2)


def _refuse_overwriting(images: Sequence[Sequence[Path]], out: Path) -> None:
    """Raise DataError when a label would replace an image, or two labels would have one name."""
    for path in (path for files in images for path in files):
        if path.resolve().parent == out.resolve():
            raise DataError(f"{path}: lies in --out {out}; give another folder for the labels")
    stems = Counter(files[0].stem for files in images)
    if twice := next((stem for stem, count in stems.items() if count > 1), None):
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
