"""Makes kernel.ipynb of kernel.py, for Kaggle's editor.

    python kaggle/make_notebook.py

The docstring becomes a cell of text, and what follows each line `# %%` one of code.
"""

import argparse
import ast
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
CELL_MARK = "# %%\n"


def notebook(source: str) -> str:
    """The notebook of a Python source, as JSON."""
    text, *code = source.split(CELL_MARK)
    cells = [_cell("markdown", 0, ast.literal_eval(text.strip()))]
    for number, part in enumerate(code, start=1):
        cells.append(
            _cell("code", number, part) | {"execution_count": None, "outputs": []}
        )
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": cells,
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, number: int, text: str) -> dict:
    return {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.strip().splitlines(keepends=True),
    }


def main() -> int:
    """Writes the notebook; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    source = (FOLDER / "kernel.py").read_text(encoding="utf-8")
    (FOLDER / "kernel.ipynb").write_text(notebook(source), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
