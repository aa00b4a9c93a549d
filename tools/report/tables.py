"""Tables in HTML. Values from few clips are marked."""

import html
from collections.abc import Container, Iterable, Sequence

import numpy as np

from tools.report.diagnosis import FEW_CLIPS

FEW_MARK = "<sup>†</sup>"


def escape(name: str) -> str:
    """HTML of a name, whose lines can also break after underscores."""
    return html.escape(name).replace("_", "_<wbr>")


def table_row(values: Sequence[str | int | float], *, few: bool = False) -> str:
    """A row of an HTML table; empty cells for NaN.

    Args:
      values: texts, whole numbers, or values, which are rounded to three digits.
      few: whether the values are from few clips, and are marked.
    """
    cells = []
    for value in values:
        if isinstance(value, str):
            cells.append(f"<td>{escape(value)}</td>")
        elif np.isnan(value):
            cells.append('<td class="number"></td>')
        else:
            whole = isinstance(value, int)
            text = str(value) if whole else f"{value:.3f}"
            text += FEW_MARK if few and not whole else ""
            cells.append(f'<td class="number" data-value="{value}">{text}</td>')
    return f"<tr{' class=few' if few else ''}>{''.join(cells)}</tr>\n"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | int | float]],
    *,
    few: Container[str],
    foot: str = "",
) -> str:
    """An HTML table that can be sorted.

    Args:
      headings: the headings of its columns.
      rows: its rows. The first value of each is a class.
      few: the classes with few clips.
      foot: a row that remains at the end.
    """
    head = "".join(
        f'<th><button type="button">{html.escape(heading)}</button></th>'
        for heading in headings
    )
    body = "".join(table_row(row, few=row[0] in few) for row in rows)
    note = (
        f"<p>{FEW_MARK} These values rest on fewer than {FEW_CLIPS} clips of "
        f"the class. They can be very different for other clips.</p>"
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table></div>"
        f"{note if FEW_MARK in body else ''}"
    )
