"""Experiments as they stand in pipeline/conf/experiment: checked, and what their tables need."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ecocseg.config import unknown
from ecocseg.errors import ConfigError
from pipeline.config.compose import compose_experiment, names

LAYOUTS = ("per_class", "grid", "cost")
SCORES = ("iou", "dice", "accuracy")
"""What a mean may be of; accuracy is of all pixels, whatever their class."""
_FIELDS = ("name", "title", "description", "layout", "means", "selection", "cells")
_OPTIONAL_FIELDS = ("sections", "mixed_protocols", "reference", "columns")
_CELL_FIELDS = ("label", "overrides")
_OPTIONAL_CELL_FIELDS = (
    "variant", "column", "paper", "ranked", "section", "group", "also", "deviation"
)  # fmt: skip


def load_experiment(name: str) -> dict[str, Any]:
    """The `experiment` section of pipeline/conf/experiment/<name>.yaml, checked."""
    if name not in names("experiment"):
        raise ConfigError(unknown("experiments", "experiment", name, names("experiment")))
    experiment = compose_experiment(name)
    check_experiment(experiment, f"pipeline/conf/experiment/{name}.yaml: experiment")
    if experiment["name"] != name:
        raise ConfigError(
            f"pipeline/conf/experiment/{name}.yaml: experiment.name: got {experiment['name']!r}, "
            f"must be {name!r}"
        )
    return experiment


def check_experiment(experiment: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError, led by `where`, for the first field that is unknown, missing or wrong."""
    _check_fields(experiment, _FIELDS, _OPTIONAL_FIELDS, where)
    if not re.fullmatch(r"(last|best)\.(student|teacher)", str(experiment["selection"])):
        raise ConfigError(
            f"{where}.selection: got {experiment['selection']!r}, allowed are last or best, a dot, "
            "and student or teacher"
        )
    if experiment["layout"] not in LAYOUTS:
        raise ConfigError(unknown(f"{where}.layout", "layout", str(experiment["layout"]), LAYOUTS))
    _check_means(experiment["means"], f"{where}.means")
    if not isinstance(experiment.get("mixed_protocols", False), bool):
        raise ConfigError(
            f"{where}.mixed_protocols: got {experiment['mixed_protocols']!r}, allowed is true "
            "(the cells are evaluated in several ways, and no table compares them) or false"
        )
    sections = experiment.get("sections") or {}
    _check_mapping(sections, f"{where}.sections")
    for key, section in sections.items():
        _check_section(section, f"{where}.sections.{key}")
    for place, row in _entries(experiment, "reference", where):
        _check_fields(row, ("label", "table", "where"), ("column", "section"), place)
        _check_name(row.get("section"), sections, place)
    _check_text(experiment, "columns", where)
    _check_mapping(experiment["cells"], f"{where}.cells")
    for cell, entry in experiment["cells"].items():
        _check_cell(entry, sections, f"{where}.cells.{cell}")


def report_of(
    experiment: Mapping[str, Any],
    entry: Mapping[str, Any],
    config: Mapping[str, Any],
    order: int,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """How the tables show a cell; none of it changes the run.

    `overrides` are the user's own: a run with any is marked as deviating from the paper.
    """
    key = entry.get("section")
    section = None if key is None else experiment["sections"][key]
    return {
        "title": experiment["title"],
        "description": experiment["description"],
        "layout": experiment["layout"],
        "row": {
            "label": entry["label"],
            "method": entry["label"],
            "encoding": config["encoding"]["name"],
            # What tells it from other cells of its label and encoding, such as its codebook.
            "variant": entry.get("variant"),
            # An oracle is a bound, no competitor: it takes no bold.
            "ranked": entry.get("ranked", True),
            "group": entry.get("group"),
        },
        "column": entry.get("column"),
        # What all columns of a grid are, such as "% of labels wrong".
        "columns": experiment.get("columns"),
        "section": None
        if section is None
        else {"key": key, "title": section["title"], "classes": section.get("classes")},
        "paper": entry.get("paper"),
        # Further places of a grid that show the same runs.
        "also": entry.get("also") or [],
        "means": experiment["means"] if section is None else section["means"],
        "mixed_protocols": experiment.get("mixed_protocols", False),
        "reference": experiment.get("reference") or [],
        "selection": experiment["selection"],
        "order": order,
        "overrides": list(overrides),
        # What keeps the cell itself from being the paper's, in words.
        "deviation": entry.get("deviation"),
    }


def _check_section(section: Any, where: str) -> None:
    _check_mapping(section, where)
    _check_fields(section, ("title", "means"), ("classes",), where)
    _check_means(section["means"], f"{where}.means")
    classes = section.get("classes")
    if classes is not None and not _texts(classes):
        raise ConfigError(
            f"{where}.classes: got {classes!r}, allowed is null (all classes) or a list of names"
        )


def _check_cell(entry: Any, sections: Mapping[str, Any], where: str) -> None:
    _check_mapping(entry, where)
    _check_fields(entry, _CELL_FIELDS, _OPTIONAL_CELL_FIELDS, where)
    _check_name(entry.get("section"), sections, where)
    _check_text(entry, "group", where)
    _check_text(entry, "variant", where)
    for place, also in _entries(entry, "also", where):
        _check_fields(also, (), ("group", "column", "paper"), place)
        _check_text(also, "group", place)


def _check_name(key: Any, sections: Mapping[str, Any], where: str) -> None:
    """That `section: key` names one of the experiment's sections."""
    if key is None or key in sections:
        return
    if not sections:
        raise ConfigError(
            f"{where}.section: got {key!r}, but the experiment declares no sections; add "
            f"experiment.sections.{key} with title and means"
        )
    raise ConfigError(unknown(f"{where}.section", "section", str(key), list(sections)))


def _check_text(entry: Mapping[str, Any], field: str, where: str) -> None:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{where}.{field}: got {value!r}, allowed is a text")


def _entries(values: Mapping[str, Any], field: str, where: str) -> Iterator[tuple[str, Any]]:
    """Path and mapping of each entry of a list of mappings that may be left out."""
    entries = values.get(field) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{where}.{field}: got {entries!r}, allowed is a list")
    for number, entry in enumerate(entries):
        place = f"{where}.{field}[{number}]"
        _check_mapping(entry, place)
        yield place, entry


def _check_means(means: Any, where: str) -> None:
    """A name for each mean, and its classes as a list of names; null for all of them.

    Or {score: ..., classes: ...} where it is not the mean of IoU.
    """
    _check_mapping(means, where)
    if not means:
        raise ConfigError(f"{where}: is empty; name one mean, such as mIoU: null")
    for name, mean in means.items():
        classes = mean
        if isinstance(mean, Mapping):
            _check_fields(mean, ("score",), ("classes",), f"{where}.{name}")
            classes = mean.get("classes")
            if mean["score"] not in SCORES:
                place = f"{where}.{name}.score"
                raise ConfigError(unknown(place, "score", str(mean["score"]), SCORES))
            if mean["score"] == "accuracy" and classes is not None:
                raise ConfigError(
                    f"{where}.{name}.classes: got {classes!r}, but accuracy is of all pixels; "
                    "leave the classes out"
                )
        if classes is not None and not _texts(classes):
            raise ConfigError(
                f"{where}.{name}: got {classes!r}, allowed is null (all classes) or a list of names"
            )


def _check_fields(
    values: Mapping[str, Any], required: Sequence[str], optional: Sequence[str], where: str
) -> None:
    allowed = [*required, *optional]
    for field in values:
        if field not in allowed:
            raise ConfigError(unknown(f"{where}.{field}", "field", str(field), allowed))
    if missing := [field for field in required if field not in values]:
        raise ConfigError(f"{where}: the field {missing[0]!r} is missing")


def _check_mapping(values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: got {values!r}, allowed is a mapping of names")


def _texts(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(value, str) for value in values)
    )
