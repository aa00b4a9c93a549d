"""Changes the code at random: do the tests notice?

    python tests/mutants.py recordings tagger/data --number 20 --seed 1

Each change is to one operator, condition or number in a product file below the named
paths, in a copy of the repository. Type hints and messages are left out. First, the
tests that import the changed file run for each change, up to the first failure. Then,
the tests that import a module which imports the file run for the changes that survived.
Prints what became of each change. Tests in tests/system do not run. Run the tests
without a change first, because one that fails then notices every change. Run by
hand; it is no part of the tests.
"""

import argparse
import ast
import concurrent.futures
import functools
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "demo")
PRODUCT = ("*.py", "tagger/**/*.py", "recordings/*.py", "tools/**/*.py")
MAX_DISTANCE = 2  # of imports between a test and the changed file
TIMEOUT_SECONDS = 300  # of a test: an endless loop counts as noticed.
COPIES = 2  # of the repository, whose tests run at the same time
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


def product_files() -> list[pathlib.Path]:
    """The files that can be changed."""
    return sorted(path for pattern in PRODUCT for path in ROOT.glob(pattern))


@functools.cache
def imports() -> dict[pathlib.Path, set[pathlib.Path]]:
    """The product files that each product file and each test imports."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in product_files()
    }
    found = {}
    for path in (*product_files(), *sorted((ROOT / "tests").glob("test_*.py"))):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        found[path] = {modules[name] for name in names if name in modules}
    return found


def tests_at_distance(file: pathlib.Path, distance: int) -> list[str]:
    """The tests that import a file (1), or a module which imports it (2), and so on."""
    reached, tests = {file}, set()
    for _ in range(distance):
        earlier = tests
        users = {path for path, used in imports().items() if used & reached}
        tests = {path for path in users if path.name.startswith("test_")}
        reached |= users
    new = sorted(tests - earlier, key=lambda test: (file.stem not in test.stem, test))
    return [str(test.relative_to(ROOT)) for test in new]


def first_failure(tests: list[str], root: pathlib.Path) -> str:
    """The test in a copy of the repository that fails first, or an empty text."""
    if not tests:
        return ""
    limit = f"-ofaulthandler_timeout={TIMEOUT_SECONDS}"
    options = ["-qx", "-pno:cacheprovider", limit, "-ofaulthandler_exit_on_timeout=1"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return (failed[1] if failed else "no end") if done.returncode else ""


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "paths", nargs="+", help="files, or folders of files, to change; . for all"
    )
    parser.add_argument("--number", type=int, default=10, help="number of changes")
    parser.add_argument("--seed", type=int, default=0, help="of the random selection")
    arguments = parser.parse_args()
    folders = [ROOT / path for path in arguments.paths]
    candidates = [
        (path, index)
        for path in product_files()
        if any(path.is_relative_to(folder) for folder in folders)
        for index, _ in enumerate(changes(ast.parse(path.read_text())))
    ]
    random.Random(arguments.seed).shuffle(candidates)
    survivors = chosen = candidates[: arguments.number]
    copies = queue.SimpleQueue()

    def is_noticed(change: tuple[pathlib.Path, int], distance: int) -> bool:
        """Makes a change, runs the tests at a distance, and prints what happened."""
        file, index = change
        root = copies.get()
        path = root / file.relative_to(ROOT)
        text = path.read_text()
        tree = ast.parse(text)
        node, new, apply = list(changes(tree))[index]
        where = f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)} -> {new}"
        apply()
        try:
            path.write_text(ast.unparse(tree))
            failed = first_failure(tests_at_distance(file, distance), root)
        finally:
            path.write_text(text)
            copies.put(root)
        result = f"noticed by {failed}" if failed else f"SURVIVED at {distance}"
        print(f"{result}  {where}", flush=True)
        return bool(failed)

    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(COPIES) as pool,
    ):
        for number in range(COPIES):
            root = shutil.copytree(ROOT, f"{folder}/{number}/copy", ignore=IGNORED)
            copies.put(pathlib.Path(root))
        for distance in range(1, MAX_DISTANCE + 1):
            noticed = pool.map(is_noticed, survivors, [distance] * len(survivors))
            survivors = [change for change, n in zip(survivors, noticed) if not n]
            print(f"{len(survivors)} of {len(chosen)} survived the tests at {distance}")


if __name__ == "__main__":
    main()
