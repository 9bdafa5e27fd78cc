"""A `Table` as Markdown, LaTeX (booktabs), CSV and HTML; the same numbers in each."""

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from itertools import groupby

from pipeline.report.parts import Column, Row, Table
from pipeline.report.scores import Statistic
from pipeline.report.style import TABLE_CSS

ABSENT = "--"
_SEEDS = "seeds"
# On the label of a row whose runs are not as the paper has them; the notes say in what.
_MARK = "*"


def value_text(entry: Statistic, row: Row, column: Column) -> str:
    """The number alone; differences carry their sign, zero a plus."""
    if row.kind == "ratio":
        return f"{entry.mean:.{3 if column.exact else 2}f}"
    signed = row.kind in ("difference", "to_paper")
    decimals = _decimals(entry, column)
    # Adding 0.0 turns the -0.0 that rounding may leave into 0.0.
    value = round(entry.mean, decimals) + 0.0
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def spread_text(entry: Statistic, row: Row, column: Column) -> str:
    """What stands behind the number: "± 0.4", "[+0.2, +1.8]", "†" (one seed) or nothing."""
    if row.kind == "measured" and not column.exact:
        return "†" if entry.std is None else f"± {entry.std:.{_decimals(entry, column)}f}"
    if row.kind == "difference" and entry.low is not None and entry.high is not None:
        # As above: no -0.0.
        low, high = (round(end, 1) + 0.0 for end in (entry.low, entry.high))
        return f"[{low:+.1f}, {high:+.1f}]"
    return ""


def _decimals(entry: Statistic, column: Column) -> int:
    return column.decimals + 2 * (column.fine and abs(entry.mean) < 1)


def sections(table: Table) -> list[tuple[str, list[Row]]]:
    """(title, rows) of each block in order; one without a title for a table without blocks."""
    return [(title, list(rows)) for title, rows in groupby(table.rows, lambda row: row.section)]


def markdown_table(table: Table, transpose: bool = False) -> str:
    """GitHub Markdown, padded so that it can be read as it is.

    `transpose` puts classes in rows with a spread each: for terminals, which are narrow.
    """

    def cell(row: Row, column: Column, entry: Statistic | None, rank: int) -> str:
        if entry is None:
            return ABSENT
        text = value_text(entry, row, column)
        second = f"_{text}_" if transpose else f"<u>{text}</u>"
        text = {1: f"**{text}**", 2: second}.get(rank, text)
        spread = spread_text(entry, row, column) if column.is_mean or transpose else ""
        return f"{text} {spread}".strip()

    lines = [["", _SEEDS, *(_markdown(column.name) for column in table.columns)]]
    for title, rows in sections(table):
        if title:
            lines.append([f"**{_markdown(title)}**", *("" for _ in lines[0][1:])])
        for row in rows:
            entries = zip(table.columns, row.entries, row.ranks, strict=True)
            label = _markdown(row.label + _MARK * row.deviates)
            lines.append([label, row.seeds, *(cell(row, *entry) for entry in entries)])
    if transpose:
        lines = [list(line) for line in zip(*lines, strict=True)]
    return markdown_lines(lines)


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the headings first, as a Markdown table; numbers stand on the right."""
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], ruler, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded) + "\n"


def markdown(table: Table) -> str:
    """Title, description, table and notes, as Markdown."""
    parts = [f"# {_markdown(table.title)}"]
    if table.description:
        parts.append(_markdown(table.description.strip()))
    parts.append(markdown_table(table).rstrip())
    parts.append("\n".join(f"- {_markdown(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def csv_text(table: Table) -> str:
    """One line per row: the numbers, then their std, then the interval's ends; absent is empty.

    A table with blocks has a column `section` in front.
    """
    blocks = any(row.section for row in table.rows)
    names = [column.name for column in table.columns]
    fields: dict[str, Callable[[Statistic], float | None]] = {
        "": lambda entry: entry.mean,
        " std": lambda entry: entry.std,
        " low": lambda entry: entry.low,
        " high": lambda entry: entry.high,
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["section"] * blocks
        + ["label", "kind", "method", "encoding", "seeds"]
        + [name + ending for ending in fields for name in names]
    )
    for row in table.rows:
        values = [
            None if entry is None else get(entry)
            for get in fields.values()
            for entry in row.entries
        ]
        writer.writerow(
            [row.section] * blocks
            + [row.label + _MARK * row.deviates, row.kind, row.method, row.encoding, row.seeds]
            + ["" if value is None else f"{value:.4f}" for value in values]
        )
    return out.getvalue()


def latex(table: Table) -> str:
    """A `table*` float that needs the packages booktabs and graphicx, nothing else."""

    def cell(row: Row, column: Column, entry: Statistic | None, rank: int) -> str:
        if entry is None:
            return ABSENT
        number = value_text(entry, row, column)
        sign, digits = (number[0], number[1:]) if number[0] in "+-" else ("", number)
        text = {1: rf"\textbf{{{digits}}}", 2: rf"\underline{{{digits}}}"}.get(rank, digits)
        text = f"${sign}${text}" if sign else text
        spread = spread_text(entry, row, column) if column.is_mean else ""
        if spread == "†":
            return rf"{text}$^{{\dagger}}$"
        if spread.startswith("±"):
            return rf"{text} {{\tiny $\pm$ {spread[2:]}}}"
        return rf"{text} {{\tiny ${spread}$}}" if spread else text

    head = [
        name if column.is_mean else rf"\rotatebox{{90}}{{{name}}}"
        for column in table.columns
        for name in [_latex(column.name)]
    ]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}. {' '.join(_latex(note) for note in table.notes)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
        r"  \scriptsize",
        r"  \setlength{\tabcolsep}{3pt}",
        r"  \resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{lr{'r' * len(table.columns)}}}",
        r"    \toprule",
        f"    & {_SEEDS} & {' & '.join(head)} \\\\",
        r"    \midrule",
    ]
    for i, (title, rows) in enumerate(sections(table)):
        if i:
            lines.append(r"    \midrule")
        if title:
            width = len(table.columns) + 2
            lines += [
                rf"    \multicolumn{{{width}}}{{c}}{{{_latex(title)}}} \\",
                r"    \midrule",
            ]
        previous = ""
        for row in rows:
            if previous in _ABOVE and row.kind not in _ABOVE[previous]:
                lines.append(r"    \midrule")
            previous = row.kind
            entries = zip(table.columns, row.entries, row.ranks, strict=True)
            label = _latex(row.label)
            if row.kind == "reference":
                label = rf"\textit{{{label}}}"
            label += "$^{*}$" * row.deviates
            texts = [label, row.seeds, *(cell(row, *entry) for entry in entries)]
            lines.append(f"    {' & '.join(texts)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


# A rule stands between rows of the first kind and rows of any kind that does not belong to them.
_OURS = ("measured", "paper", "to_paper")
_ABOVE = {"reference": ("reference",), **dict.fromkeys(_OURS, _OURS)}


def html_table(table: Table) -> str:
    """The `<table>` and its notes, to stand in a page that has `style.TABLE_CSS`."""
    heads = "".join(
        f'<th scope="col" class="{"mean" if column.is_mean else "class"}">'
        f"<span>{html.escape(column.name)}</span></th>"
        for column in table.columns
    )
    body = ""
    for title, rows in sections(table):
        if title:
            body += (
                f'<tr class="section"><th scope="rowgroup" colspan="{len(table.columns) + 2}">'
                f"{html.escape(title)}</th></tr>\n"
            )
        for row in rows:
            cells = "".join(
                _html_cell(row, column, entry, rank)
                for column, entry, rank in zip(table.columns, row.entries, row.ranks, strict=True)
            )
            mark = f"<sup>{_MARK}</sup>" * row.deviates
            body += (
                f'<tr class="{row.kind}"><th scope="row">{html.escape(row.label)}{mark}</th>'
                f'<td class="seeds">{row.seeds}</td>{cells}</tr>\n'
            )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f'<div class="scroll"><table class="scores {table.layout}"><thead><tr>'
        f'<th scope="col"></th>'
        f'<th scope="col" class="mean"><span>{_SEEDS}</span></th>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
        f'<ul class="notes">{notes}</ul>'
    )


def html_page(table: Table) -> str:
    """One self-contained page with just this table."""
    title = html.escape(table.title)
    about = f"<p>{html.escape(table.description)}</p>" if table.description else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{TABLE_CSS}</style></head>\n<body><h1>{title}</h1>{about}\n"
        f"{html_table(table)}\n</body></html>\n"
    )


def _html_cell(row: Row, column: Column, entry: Statistic | None, rank: int) -> str:
    kind = "mean" if column.is_mean else "class"
    if entry is None:
        return f'<td class="{kind} absent">{ABSENT}</td>'
    text = value_text(entry, row, column).replace("-", "−")
    text = {1: f"<b>{text}</b>", 2: f"<u>{text}</u>"}.get(rank, text)
    spread = spread_text(entry, row, column).replace("-", "−")
    if spread == "†":
        text += "<sup>†</sup>" if column.is_mean else ""
    # Intervals of 19 classes would push the means out of sight; the CSV has them.
    elif spread and (column.is_mean or row.kind == "measured"):
        text += f" <small>{spread.replace('± ', '±')}</small>"
    return f'<td class="{kind}">{text}</td>'


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text.replace("\n", " "))


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "†": r"$^{\dagger}$", "−": "$-$", "→": r"$\rightarrow$", "×": r"$\times$",
    "λ": r"$\lambda$", "τ": r"$\tau$", "₁": "$_{1}$", "₂": "$_{2}$", "′": "$'$", "\n": " ",
}  # fmt: skip


def _latex(text: str) -> str:
    """Text that LaTeX prints as it is, without packages beyond its kernel."""
    return "".join(_LATEX.get(character, character) for character in text)


def write_all(table: Table) -> Sequence[tuple[str, str]]:
    """(file ending, content) of every format."""
    return (
        ("md", markdown(table)),
        ("tex", latex(table)),
        ("csv", csv_text(table)),
        ("html", html_page(table)),
    )
