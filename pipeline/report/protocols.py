"""Evaluation protocols: refusing a table that mixes them, and telling them as sentences."""

from collections.abc import Mapping
from typing import Any

from ecocseg.errors import DataError
from pipeline.report.cells import Cell, Experiment, Record, shortest_names

# What an experiment that declares mixed protocols may mix; everything else stays equal. Labels are
# "stored" where the image has their size anyway, and "original" beside a smaller image.
_MIXABLE = {
    "dataset", "mode", "window", "stride", "average", "image_size", "label_size", "fingerprint",
}  # fmt: skip


def refuse_mixtures(experiment: Experiment) -> None:
    """Raise DataError unless all runs share classes and evaluation protocol.

    An experiment with `mixed_protocols` may mix how images are put through the network, never what
    is scored: split, number of images and classes.
    """
    records = experiment.records
    mixable = _MIXABLE if experiment.mixed_protocols else set()
    for record in records[1:]:
        first, other = _compared(records[0]), _compared(record)
        differing = [
            key for key in first | other if first.get(key) != other.get(key) and key not in mixable
        ]
        if differing:
            key = differing[0]
            way_out = (
                "only how images are put through the network may differ (mixed_protocols)"
                if experiment.mixed_protocols
                else "make them two experiments, or evaluate both alike"
            )
            raise DataError(
                f"experiment {experiment.name}: run {records[0]['run_id']} was evaluated with "
                f"{key} = {first.get(key)!r}, run {record['run_id']} with {other.get(key)!r}; one "
                f"table never mixes protocols: {way_out}"
            )


def _compared(record: Record) -> dict[str, Any]:
    """Protocol and classes; what a record does not say of its protocol is the default."""
    protocol = record["protocol"]
    return {
        "average": "scores",
        "score": "iou",
        "per": "set",
        **protocol,
        "classes of the score": protocol.get("classes"),
        "classes": record["classes"],
    }


def protocol_texts(experiment: Experiment) -> list[str]:
    """The evaluation protocol of the finished runs as sentences, one for each group of rows."""
    groups: list[tuple[dict[str, Any], list[Cell]]] = []
    for cell in experiment.cells:
        if not cell.records:
            continue
        protocol = cell.records[min(cell.records)]["protocol"]
        for known, cells in groups:
            if known == protocol:
                cells.append(cell)
                break
        else:
            groups.append((protocol, [cell]))
    if len(groups) < 2:
        return [protocol_text(protocol) for protocol, _ in groups]
    everyone = [cell for _, cells in groups for cell in cells]
    return [
        protocol_text(protocol, of=", ".join(shortest_names(cells, everyone)))
        for protocol, cells in groups
    ]


def protocol_text(protocol: Mapping[str, Any], of: str = "") -> str:
    """The evaluation protocol as a sentence, `of` some rows or of all."""
    sliding = protocol["mode"] == "slide"
    mode = "sliding window" if sliding else "whole image"
    if sliding and protocol.get("window"):
        mode += f" {_size(protocol['window'])}, stride {_size(protocol.get('stride'))},"
        if protocol.get("average") == "logits":
            mode += " logits averaged,"
        if protocol.get("border") == "clip":
            mode += " cut off at the border,"
    if protocol.get("multiple"):
        mode += f" resized to multiples of {protocol['multiple']} pixels,"
    label = protocol["label_size"]
    scored = "the label's own size" if label == "original" else f"label size {label}"
    if protocol.get("per") == "folder":
        scored += ", volume by volume"
    if protocol.get("score", "iou") != "iou" or protocol.get("classes") is not None:
        scored += f"; validation score: {score_name(protocol)}"
    return (
        f"Protocol{f' of {of}' if of else ''}: {protocol['dataset']}, split {protocol['split']}, "
        f"{protocol['images']} images, {mode} at {_size(protocol['image_size'])}, scored at "
        f"{scored} (data {str(protocol['fingerprint'])[:12]})."
    )


def score_name(protocol: Mapping[str, Any]) -> str:
    """What runs log while they train, and choose their best checkpoint by."""
    classes, dice = protocol.get("classes"), protocol.get("score") == "dice"
    if classes is None:
        return "mean Dice" if dice else "mIoU"
    word = "Dice" if dice else "IoU"
    if len(classes) == 1:
        return f"{word} of {classes[0]}"
    return f"mean {word} of {len(classes)} classes"


def _size(size: Any) -> str:
    """[height, width], one number for both, or a word such as "original"."""
    if isinstance(size, list | tuple):
        return " x ".join(map(str, size))
    return "its own size" if size in (None, "original") else str(size)
