"""Makes kernel.ipynb from kernel.py, for Kaggle's editor.

    python kaggle/make_notebook.py

The docstring becomes a text cell, and each part after a line `# %%` a code cell.
"""

import ast
import json
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent
CELL_MARK = "# %%\n"


def notebook(source: str) -> str:
    """The notebook of a Python source text, as JSON."""
    text, *code = source.split(CELL_MARK)
    cells = [cell("markdown", 0, ast.literal_eval(text.strip()))]
    for number, part in enumerate(code, start=1):
        outputs = {"execution_count": None, "outputs": []}
        cells.append(cell("code", number, part) | outputs)
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": cells,
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def cell(kind: str, number: int, text: str) -> dict:
    """A cell of a notebook."""
    return {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.strip().splitlines(keepends=True),
    }


if __name__ == "__main__":
    kernel = (FOLDER / "kernel.py").read_text(encoding="utf-8")
    (FOLDER / "kernel.ipynb").write_text(notebook(kernel), encoding="utf-8")
