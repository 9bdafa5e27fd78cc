"""What an experiment is to the report: its cells and blocks, and which of them compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ecocseg.iou import Score

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """One number of a run."""

    classes: tuple[str, ...] | None = None
    """The classes that it is the mean of; None is all of the block."""
    score: Score | Literal["accuracy"] = "iou"
    """Of each class iou or dice; or accuracy, of all pixels."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a table with its own heading: rows are ranked and compared within it."""

    key: str
    title: str
    classes: tuple[str, ...] | None
    """The classes that the block is scored on; None is all of them."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published row of a method that is not run here."""

    label: str
    table: str
    where: Mapping[str, Any]
    column: str | None
    """The paper's column of the first mean, where it is not the mean over printed classes."""
    block: str | None
    """Key of the block that it stands in."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of an experiment: a configuration that is run once per seed."""

    name: str
    label: str
    method: str
    encoding: str
    column: str | None
    paper: Mapping[str, Any] | None
    selection: str
    ranked: bool
    means: Mapping[str, Mean]
    """By name; the first is what figures and rankings of a grid are of."""
    group: str | None = None
    """The row of a grid that cells of several labels or encodings share."""
    block: Block | None = None
    also: tuple[Mapping[str, Any], ...] = ()
    """Further places of a grid (group, column, paper) that show the same runs."""
    run_ids: dict[int, str] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    deviations: list[str] = field(default_factory=list)
    """What keeps its finished runs from the paper's setting."""
    scores: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict, compare=False)
    """By selection and mean, what `lines.cell_means` found: many parts of the report ask for it."""

    @property
    def row(self) -> str:
        """The label of the row that it stands in."""
        return self.group or self.label

    @property
    def place(self) -> str:
        """The column of a grid that it stands in; the mean's name in a grid of one column."""
        return self.column or next(iter(self.means))

    @property
    def full_name(self) -> str:
        """The row, with the column in a grid."""
        return f"{self.row}, {self.column}" if self.column else self.row

    @property
    def title(self) -> str:
        """`full_name` after its block, where that tells more."""
        if self.block is None or self.block.title == self.row:
            return self.full_name
        return f"{self.block.title}, {self.full_name}"

    @property
    def contest(self) -> str:
        """What it competes in: its block, and its group or column; "" where all compete."""
        block = self.block.title if self.block and self.block.title != self.group else None
        return ", ".join(filter(None, (block, self.group or self.column)))

    @property
    def contender(self) -> str:
        """What it is called among those of its contest: the column in a group, else the label."""
        return self.place if self.group is not None else self.label

    @property
    def places(self) -> "list[Cell]":
        """This cell in every place of the grid that shows it; runs and records are shared."""
        if not self.also:
            return [self]
        return [replace(self, also=(), **place) for place in ({}, *self.also)]

    @property
    def class_score(self) -> Score:
        """What single classes are scored by: as in the first mean that has classes."""
        of_classes = [mean.score for mean in self.means.values() if mean.score != "accuracy"]
        return of_classes[0] if of_classes else "iou"

    def subset(self, mean: str) -> Sequence[str] | None:
        """The classes that `mean` is taken over; None is all of the record."""
        chosen = self.means[mean].classes
        return chosen if chosen is not None or self.block is None else self.block.classes


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table's worth of cells, in the order of their rows."""

    name: str
    title: str
    description: str
    layout: str
    cells: tuple[Cell, ...]
    references: tuple[Reference, ...] = ()
    mixed_protocols: bool = False
    """Whether its runs are declared to be evaluated in different ways."""
    columns: str | None = None
    """What the columns of a grid are, such as "% of labels wrong"; numbers are a scale then."""

    @property
    def planned(self) -> int:
        """Number of runs in the plan."""
        return sum(len(cell.run_ids) for cell in self.cells)

    @property
    def records(self) -> list[Record]:
        """Records of the finished runs, by cell, then seed."""
        return [cell.records[seed] for cell in self.cells for seed in sorted(cell.records)]

    @property
    def classes(self) -> list[str]:
        """Class names; empty before the first run is finished."""
        records = self.records
        return list(records[0]["classes"]) if records else []

    @property
    def protocol(self) -> dict[str, Any]:
        """The evaluation protocol of the first finished run; empty before there is one."""
        records = self.records
        return dict(records[0]["protocol"]) if records else {}

    @property
    def means(self) -> list[str]:
        """Names of the means of all blocks, in order; the first is what figures show."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.means))

    @property
    def blocks(self) -> list[Block | None]:
        """The blocks in order; [None] for a table without."""
        found: dict[str | None, Block | None] = {}
        for cell in self.cells:
            found.setdefault(cell.block.key if cell.block else None, cell.block)
        return list(found.values())

    @property
    def contests(self) -> dict[str, list[Cell]]:
        """The cells that compete with each other, in every place that shows them."""
        found: dict[str, list[Cell]] = {}
        for place in (place for cell in self.cells for place in cell.places):
            found.setdefault(place.contest, []).append(place)
        return found

    @property
    def status(self) -> str:
        """Such as "6 of 8 runs finished"."""
        return f"{len(self.records)} of {self.planned} runs finished"


def pairs(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """(ECOC, one-hot) cells that compare, where the one-hot cell is the only one.

    They are of equal block, method and column; in a grid with groups of equal block and group, as
    far as they are ranked.
    """
    places = [place for cell in cells for place in cell.places]
    found = []
    for cell in places:
        if cell.encoding.lower() != "ecoc" or _rivals(cell) is None:
            continue
        base = [
            other
            for other in places
            if other.encoding.lower() == "one-hot" and _rivals(other) == _rivals(cell)
        ]
        if len(base) == 1:
            found.append((cell, base[0]))
    return found


def shortest_names(cells: Sequence[Cell], everyone: Sequence[Cell]) -> list[str]:
    """What tells `cells` from the rest: methods, else rows, else single cells or their titles."""
    rest = [cell for cell in everyone if cell not in cells]

    def name(cell: Cell) -> str:
        for told in ("method", "row", "full_name"):
            if getattr(cell, told) not in {getattr(other, told) for other in rest}:
                return str(getattr(cell, told))
        return cell.title

    return list(dict.fromkeys(name(cell) for cell in cells))


def _rivals(cell: Cell) -> tuple[str | None, ...] | None:
    """What two cells share that compare; None for a cell that is above comparison."""
    block = cell.block.key if cell.block else None
    if cell.group is None:
        return block, cell.method, cell.column
    return (block, cell.group) if cell.ranked else None
