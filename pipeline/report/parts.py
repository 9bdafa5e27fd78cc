"""What a table is made of: columns, rows with ranks and spreads, and the lines they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.report.cells import Block, Cell
from pipeline.report.scores import Statistic

Kind = Literal["measured", "paper", "to_paper", "difference", "reference", "ratio"]
Values = dict[str, dict[int, float]]  # column -> seed -> percent, or what the column counts


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of numbers; a mean shows its spread wherever it stands, a class where it fits."""

    name: str
    is_mean: bool
    decimals: int = 1
    exact: bool = False
    """Counted and not measured: the same for every seed, so that there is no spread."""
    further: bool = False
    """Of a grid: of another mean than the first."""
    fine: bool = False
    """Whether numbers below 1 take two more decimals."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: an entry per column (None is absent), ranks 1 and 2 for best and second."""

    kind: Kind
    label: str
    method: str
    encoding: str
    seeds: str
    entries: tuple[Statistic | None, ...]
    ranks: tuple[int, ...]
    section: str = ""
    """Title of the block that it stands in, which is printed above the block's first row."""
    deviates: bool = False
    """Whether a run behind it is not as the paper has it: its label is marked."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A finished table; measured rows carry percent, difference rows points."""

    name: str
    title: str
    description: str
    layout: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    columns_are: str | None = None
    """What the columns of a grid are, such as "% of labels wrong"."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row in the making: the cells it shows and its values by column and seed."""

    label: str
    cells: tuple[Cell, ...]
    values: Values
    paper: Mapping[str, float | None] | None
    along: bool = False
    """Whether its columns compete with each other, not with other rows."""

    @property
    def block(self) -> Block | None:
        """The block of its cells."""
        return self.cells[0].block

    def cell(self, column: str) -> Cell | None:
        """The cell behind a column; the only one of a line that shows one cell."""
        if not self.along:
            return self.cells[0]
        return next((cell for cell in self.cells if cell.place == column), None)
