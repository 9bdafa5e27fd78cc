"""The papers' printed numbers: pipeline/published/*.csv, one file per table, package data."""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from ecocseg.errors import ConfigError

# The tables use the paper's short names, the data sets Cityscapes' own.
_SHORT = {"traffic light": "light", "traffic sign": "sign", "motorbike": "motorcycle"}


@cache
def published_tables() -> tuple[str, ...]:
    """Names of the tables that are there, such as "table01_uda", sorted."""
    folder = files("pipeline").joinpath("published")
    return tuple(sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".csv")))


@cache
def published_table(name: str) -> tuple[dict[str, str], ...]:
    """Every row of table `name` as {column: printed text}; an empty text is an absent value.

    Raises ConfigError when there is no such table.
    """
    if name not in published_tables():
        raise ConfigError(
            f"paper.table: got {name!r}, allowed {', '.join(published_tables())}; "
            f"a new one is a file pipeline/published/<name>.csv"
        )
    text = files("pipeline").joinpath("published", f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def published_row(name: str, where: Mapping[str, object]) -> dict[str, str]:
    """The one row of table `name` whose columns hold what `where` says.

    Raises ConfigError when a column is unknown, or when no row or more than one fits.
    """
    rows = published_table(name)
    unknown = set(where) - set(rows[0])
    if unknown:
        raise ConfigError(
            f"paper.where: got column {sorted(unknown)[0]!r}, allowed {', '.join(rows[0])} "
            f"(table {name})"
        )
    found = [row for row in rows if all(row[key] == str(value) for key, value in where.items())]
    if len(found) != 1:
        raise ConfigError(
            f"paper.where: {dict(where)} fits {len(found)} rows of table {name}, allowed exactly "
            f"1; name more columns of {', '.join(rows[0])}"
        )
    return found[0]


def table_number(name: str) -> str:
    """What the paper calls it: "table01_uda" -> "Table 1"."""
    digits = "".join(c for c in name.split("_")[0] if c.isdigit())
    return f"Table {int(digits)}" if digits else name


def class_value(row: Mapping[str, str], class_name: str) -> float | None:
    """Printed IoU of a class in percent; None where the paper prints none."""
    name = class_name.lower().replace("_", " ")
    text = row.get(_SHORT.get(name, name), "") or row.get(class_name, "")
    return float(text) if text else None


def mean_value(row: Mapping[str, str], class_names: Sequence[str] | None) -> float | None:
    """The paper's mean over exactly `class_names` (None: all that it prints), in percent.

    It is the printed mean where the row prints just these classes (or no classes at all), the
    mean of the printed classes where it prints more of them, else None.
    """
    values = [class_value(row, name) for name in class_names or ()]
    printed = _printed_classes(row)
    if not printed or class_names is None or (len(printed) == len(values) and None not in values):
        return float(row["miou"]) if row.get("miou") else None
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def column_value(name: str, row: Mapping[str, str], column: str) -> float | None:
    """The value under `column` of a row of table `name`, for tables whose columns are settings.

    `column` is the CSV's own column, however it spells case, hyphens and spaces ("ResNet-50 1/8"
    for "resnet50_1/8"), or the part after the network's name when only one column ends so ("1/8").
    Raises ConfigError when it is neither.
    """
    found = [key for key in row if same_column(key, column)]
    found = found or [key for key in row if key.endswith(f"_{column}")]
    if len(found) != 1:
        raise ConfigError(
            f"paper.column: {column!r} fits {found or 'no column'} of table {name}, allowed "
            f"exactly one of {', '.join(row)}"
        )
    return float(row[found[0]]) if row[found[0]] else None


def same_column(first: str, second: str) -> bool:
    """Whether two columns are the same but for case, hyphens, underscores and spaces."""
    plain = (re.sub(r"[\s_-]", "", column.lower()) for column in (first, second))
    return next(plain) == next(plain)


def audit(row: Mapping[str, str]) -> float | None:
    """The mean of the printed classes when the printed mean is not it (by 0.15 or more)."""
    values = _printed_classes(row)
    if not values or not row.get("miou"):
        return None
    mean = sum(values) / len(values)
    return mean if abs(mean - float(row["miou"])) >= 0.15 else None


def _printed_classes(row: Mapping[str, str]) -> list[float]:
    """Printed per-class values of a row; empty for tables without classes."""
    if "road" not in row:
        return []
    columns = list(row)
    classes = columns[columns.index("road") : columns.index("miou")]
    return [float(row[name]) for name in classes if row[name]]
