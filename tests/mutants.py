"""Changes the code at random: do the tests notice?

    python tests/mutants.py recordings tagger/data --number 20 --seed 1

Each change is to one operator, condition or number in a product file below the named
paths, in a copy of the repository. Type hints and messages are left out. The tests that
import the file run first, then those that import a module which imports it. Prints each
change that no test notices. Run by hand; it is no part of the tests.
"""

import argparse
import ast
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "demo")
PRODUCT = ("*.py", "tagger/**/*.py", "recordings/*.py", "tools/**/*.py")
MAX_DISTANCE = 2  # of imports between a test and the changed file
TIMEOUT_SECONDS = 600  # A change can make a loop endless, which counts as noticed.
PAIRS = (
    *((ast.FloorDiv, ast.Div), (ast.Mult, ast.Div), (ast.Add, ast.Sub)),
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn)),
    *((ast.Is, ast.IsNot), (ast.And, ast.Or)),
)
SWAPS = {a: b for first, second in PAIRS for a, b in ((second, first), (first, second))}
MESSAGES = ("print", "print_result", "UserError", "CheckpointError", "UnreadableError")

Change = tuple[ast.AST, str, Callable[[], None]]  # what is changed, into what, and how


def changes(node: ast.AST) -> Iterator[Change]:
    """Yields all changes of a tree."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            kind = type(child)
            if kind in SWAPS:
                place = (value, index) if isinstance(value, list) else (node, name)
                yield node, SWAPS[kind].__name__, _setter(*place, SWAPS[kind]())
            elif name in ("test", "ifs") and isinstance(child, ast.expr):
                place = (value, index) if name == "ifs" else (node, name)
                negated = ast.UnaryOp(ast.Not(), child)
                yield child, "not", _setter(*place, negated)
            if isinstance(child, ast.Constant) and isinstance(child.value, int | float):
                is_bool = isinstance(child.value, bool)
                new = not child.value if is_bool else child.value + 1
                yield child, repr(new), _setter(child, "value", new)
            elif isinstance(child, ast.AST) and not _is_message(child):
                yield from changes(child)


def _setter(place: object, name: str | int, value: object) -> Callable[[], None]:
    if isinstance(place, list):
        return lambda: place.__setitem__(name, value)
    return lambda: setattr(place, name, value)


def _is_message(node: ast.AST) -> bool:
    """Whether it is a formatted text, or a call that shows one."""
    called = node.func if isinstance(node, ast.Call) else None
    name = getattr(called, "id", getattr(called, "attr", ""))
    return isinstance(node, ast.JoinedStr) or name in MESSAGES or "DEFINE" in name


def imported(path: pathlib.Path, modules: dict[str, pathlib.Path]) -> set[pathlib.Path]:
    """The product files that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return {modules[name] for name in names if name in modules}


def tests_by_distance(file: pathlib.Path, root: pathlib.Path) -> list[list[str]]:
    """The tests that import a file, those that import what imports it, and so on."""
    product = {path for pattern in PRODUCT for path in root.glob(pattern)}
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): path for path in product
    }
    tests = sorted((root / "tests").glob("test_*.py"))
    tests.sort(key=lambda test: file.stem not in test.stem)  # its own ones first
    found, reached = [], {file}
    edges = {path: imported(path, modules) for path in (*product, *tests)}
    for _ in range(MAX_DISTANCE):
        new = [
            str(t) for t in tests if edges[t] & reached and str(t) not in sum(found, [])
        ]
        found.append(new)
        reached |= {path for path in product if edges[path] & reached}
    return [group for group in found if group]


def notice(tests: list[str], root: pathlib.Path) -> bool:
    """Whether a test fails, or does not end."""
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "paths", nargs="+", help="files, or folders of files, to change"
    )
    parser.add_argument("--number", type=int, default=10, help="number of changes")
    parser.add_argument("--seed", type=int, default=0, help="of the random selection")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(shutil.copytree(ROOT, f"{folder}/copy", ignore=IGNORED))
        candidates = []
        for path in sorted(path for pattern in PRODUCT for path in root.glob(pattern)):
            name = str(path.relative_to(root))
            if any(name == p or name.startswith(f"{p}/") for p in arguments.paths):
                number = sum(1 for _ in changes(ast.parse(path.read_text())))
                candidates += [(path, index) for index in range(number)]
        random.Random(arguments.seed).shuffle(candidates)
        survived = 0
        for path, index in candidates[: arguments.number]:
            text = path.read_text()
            tree = ast.parse(text)
            node, new, apply = list(changes(tree))[index]
            old = ast.unparse(node)
            apply()
            path.write_text(ast.unparse(tree))
            noticed = any(notice(t, root) for t in tests_by_distance(path, root))
            path.write_text(text)
            survived += not noticed
            where = f"{path.relative_to(root)}:{node.lineno}"
            print(f"{'noticed' if noticed else 'SURVIVED'}  {where}: {old}  ->  {new}")
        print(f"{survived} of {min(arguments.number, len(candidates))} survived")


if __name__ == "__main__":
    main()
