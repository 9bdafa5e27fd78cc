"""ST++'s ranking of unlabelled images by how stable their predictions were while training.

Source: Yang et al., CVPR 2022, Sec. 3.3; LiheYoung/ST-PlusPlus `train.py`.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from ecocseg.data.dataset import read_image
from ecocseg.data.manifest import Row
from ecocseg.files import atomic_path
from ecocseg.iou import mean_iou
from ecocseg.methods.base import StageEvent, Workshop
from ecocseg.metrics import confusion_matrix

RANKING = "ranking.csv"
"""The table: rank, key, agreement of each earlier network with the last one in percent, their mean
(reliability), and whether the image counts as reliable."""
_PARTIAL = "ranking_begun.csv"


def rank(
    rows: Sequence[Row], workshop: Workshop, kept: Sequence[int], step: int, share: float
) -> Iterator[StageEvent]:
    """Write the ranking table unless it is there; one that was begun is continued.

    `kept` are the steps of the networks, the last one is what the others are compared with. The
    `share` of images with the largest mean IoU, each over the classes in its two predictions, are
    reliable; of equal ones those whose keys come first.
    """
    path = workshop.folder / RANKING
    if path.is_file():
        return
    begun = workshop.folder / _PARTIAL
    found = _begun(begun, len(kept) - 1)
    todo = [row for row in rows if row.key not in found]
    networks = [workshop.network_at(number) for number in kept]
    begun.parent.mkdir(parents=True, exist_ok=True)
    with begun.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for place, row in enumerate(todo, start=1 + len(rows) - len(todo)):
            found[row.key] = _agreements(networks, workshop, row)
            writer.writerow([row.key, *map(repr, found[row.key]), "end"])
            file.flush()
            yield StageEvent(step=step, activity="ranking", done=place, total=len(rows))
    _write(path, {row.key: found[row.key] for row in rows}, share)
    begun.unlink()


def reliable_count(images: int, share: float) -> int:
    """How many of `images` are reliable: their share, rounded down, and at least one."""
    return max(1, int(images * share))


def reliable_keys(folder: Path) -> set[str]:
    """Keys of the images that the ranking table of a run calls reliable."""
    with (folder / RANKING).open(encoding="utf-8", newline="") as file:
        return {line["key"] for line in csv.DictReader(file) if line["reliable"] == "1"}


@torch.no_grad()
def _agreements(networks: Sequence[nn.Module], workshop: Workshop, row: Row) -> list[float]:
    """Mean IoU of each network but the last with the last one, in percent."""
    image = read_image(row).to(workshop.device).float()[None] / 255
    encoding = workshop.encoding
    *earlier, last = (encoding.decode(network(image)) for network in networks)
    return [mean_iou(confusion_matrix(e, last, encoding.num_classes).cpu()) for e in earlier]


def _write(path: Path, found: dict[str, list[float]], share: float) -> None:
    scores = {key: sum(values) / len(values) for key, values in found.items()}
    order = sorted(found, key=lambda key: (-scores[key], key))
    reliable = reliable_count(len(order), share)
    count = len(next(iter(found.values())))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        agreements = [f"agreement_{number + 1}" for number in range(count)]
        writer.writerow(["rank", "key", *agreements, "reliability", "reliable"])
        for place, key in enumerate(order, start=1):
            numbers = [f"{value:.4f}" for value in (*found[key], scores[key])]
            writer.writerow([place, key, *numbers, int(place <= reliable)])


def _begun(path: Path, count: int) -> dict[str, list[float]]:
    """What an interrupted ranking wrote; a line without its end does not count."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.reader(file) if len(line) == count + 2 and line[-1] == "end"]
    return {line[0]: [float(value) for value in line[1:-1]] for line in lines}
