"""A `Table` for a terminal, which is narrow: classes in rows, in parts of a few rows each."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.report.formats import markdown_table, sections
from pipeline.report.parts import Row, Table


def terminal_text(table: Table, width: int = 130) -> str:
    """The table as Markdown for a terminal: of classes, these in rows and a part for few labels."""
    if table.layout != "per_class":
        return markdown_table(table)
    headline = next(i for i, column in enumerate(table.columns) if column.is_mean)
    parts = []
    for title, rows in sections(table):
        parts += [f"## {title}\n"] if title else []
        columns = [
            i
            for i in range(len(table.columns))
            if not title or i == headline or any(row.entries[i] for row in rows)
        ]
        chosen: list[Row] = []
        for belonging in _belonging(rows):
            wider = _narrowed(table, [*chosen, *belonging], columns)
            if chosen and len(wider.partition("\n")[0]) > width:
                parts.append(_narrowed(table, chosen, columns))
                chosen = []
            chosen += belonging
        parts.append(_narrowed(table, chosen, columns))
    return "\n".join(parts)


def _belonging(rows: Sequence[Row]) -> list[list[Row]]:
    """Measured rows with the paper's beneath them, the others by themselves."""
    found: list[list[Row]] = []
    for row in rows:
        if row.kind in ("paper", "to_paper") and found:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _narrowed(table: Table, rows: Sequence[Row], columns: Sequence[int]) -> str:
    """These rows and columns, as rows of classes."""
    part = replace(
        table,
        columns=tuple(table.columns[i] for i in columns),
        rows=tuple(
            replace(
                row,
                section="",
                entries=tuple(row.entries[i] for i in columns),
                ranks=tuple(row.ranks[i] for i in columns),
            )
            for row in rows
        ),
    )
    return markdown_table(part, transpose=True)
