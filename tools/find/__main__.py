"""Finds sounds in an archive of tools.tag, by example or by class, and reviews them.

    python -m tools.find bark.wav --archive field.db
    python -m tools.find night.flac@12.5-14 --archive field.db --page similar.html
    python -m tools.find --archive field.db --classes Dog,Rain --scores 0.3,0.7 \\
        --order uncertain --page review.html

An example is a sound file, or a part of one from one time to another in seconds. This
prints the parts of the recordings that are most similar to one of the examples. With
--classes, it prints parts by their scores. --page writes a page on which one listens
and decides. It works without a network, and its decisions are a CSV for
`tools.make_dataset --annotations`.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from recordings.archive import Archive, Example
from tagger.data.csv_files import composed, write_csv
from tagger.errors import UserError
from tagger.runs.checkpoint_files import fingerprint
from tagger.terminal import program
from tagger.terminal.files import make_folder, write_whole
from tagger.terminal.progress import print_result, printable
from tools.find import search
from tools.find.review import make_page
from tools.tag.scoring import Tagger, load

FLAGS = flags.FLAGS
Found = list[tuple[Example, str]]  # each with its class; "" if it has none


def define_flags() -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string("archive", None, "Archive of tools.tag.", required=True)
    flags.DEFINE_string(
        "checkpoint", "", "The checkpoint of the archive, if it has moved."
    )
    flags.DEFINE_integer("number", 50, "Examples to find, of each class.", 1)
    flags.DEFINE_list("classes", [], "Classes to find examples of, by their scores.")
    flags.DEFINE_list("scores", ["0", "1"], "With --classes: lowest,highest score.")
    flags.DEFINE_enum(
        "order", "highest", search.ORDERS, "With --classes: the first examples."
    )
    flags.DEFINE_integer("seed", 0, "Seed of --order random.", lower_bound=0)
    flags.DEFINE_string(
        "reviewed",
        "",
        "File or folder with annotations, such as earlier reviews. Examples that "
        "overlap these are left out.",
    )
    flags.DEFINE_string("csv", "", "CSV to write: one row per example.")
    flags.DEFINE_string("page", "", "HTML file to write, for the review.")
    flags.DEFINE_string("label", "", "Class of similar sounds, as default of the page.")
    for name, suffix in (("csv", ".csv"), ("page", ".html")):
        flags.register_validator(
            name,
            lambda path, suffix=suffix: not path or path.endswith(suffix),
            message=f"must end with {suffix}",
        )


def main(argv: Sequence[str]) -> int:
    """Runs the program; returns the exit status."""
    queries = [search.parse_query(text) for text in argv[1:]]
    if bool(queries) == bool(FLAGS.classes):
        raise UserError("expected examples or --classes, and not both; see --help")
    low, high = _parse_range(FLAGS.scores)
    for name in ("csv", "page"):
        if path := FLAGS[name].value:
            make_folder(os.path.dirname(path) or ".", f"--{name}")
    with Archive(FLAGS.archive) as archive:
        known = archive.settings.class_names
        classes = [composed(name.strip()) for name in FLAGS.classes]
        if unknown := [name for name in classes if name not in known]:
            raise UserError(
                f"--classes: the archive has no class {unknown[0]}; it has "
                f"{len(known)}, such as {known[0]}"
            )
        without = []
        if FLAGS.reviewed:
            without = search.read_reviewed(archive, FLAGS.reviewed)
        if queries or FLAGS.page:
            program.start_tensorflow()
        if queries:
            found = _similar(archive, queries, without)
        else:
            found = [
                (example, name)
                for name in classes
                for example in search.find_scores(
                    archive,
                    name,
                    low=low,
                    high=high,
                    order=FLAGS.order,
                    most=FLAGS.number,
                    seed=FLAGS.seed,
                    without=without,
                )
            ]
        hparams = archive.settings.hparams
    _write(found, "similarity" if queries else "score", known, hparams)
    return 0


def _parse_range(texts: Sequence[str]) -> tuple[float, float]:
    """Raises a UserError if the texts are not two scores."""
    try:
        low, high = map(float, texts)
        if 0 <= low <= high <= 1:
            return low, high
    except ValueError:
        pass
    raise UserError(
        f"--scores: expected lowest,highest from 0 to 1, but got {','.join(texts)}"
    )


def _similar(
    archive: Archive, queries: Sequence[search.Query], without: Sequence[search.Query]
) -> Found:
    """The examples that are similar to queries, without these and other parts.

    Raises:
      UserError: a query or the checkpoint cannot be used.
    """
    tagger = _load(archive)
    embeddings = np.stack([search.embed(query, tagger) for query in queries])
    found = search.find_similar(archive, embeddings, FLAGS.number, [*queries, *without])
    return [(example, "") for example in found]


def _load(archive: Archive) -> Tagger:
    """Loads the checkpoint of an archive.

    Raises:
      UserError: it cannot be used, or is another one.
    """
    from tagger.runs.run import Run

    settings = archive.settings
    prefix = Run.find(FLAGS.checkpoint or settings.checkpoint, "--checkpoint").prefix
    if fingerprint(prefix) != settings.fingerprint:
        raise UserError(
            f"--checkpoint: {prefix} is not the checkpoint of the archive, which was "
            f"{settings.checkpoint}"
        )
    return load(prefix, mixed_precision=settings.mixed_precision)


def _write(found: Found, value: str, class_names: list[str], hparams) -> None:
    """Prints what was found, and writes the CSV and the page."""
    rows = [
        (
            *(printable(example.path), f"{example.start:.3f}", f"{example.end:.3f}"),
            *([name] if name else []),
            f"{example.value:.6f}",
        )
        for example, name in found
    ]
    for row in rows:
        print_result("  ".join(row))
    if FLAGS.csv:
        header = ("file", "start", "end", *(["class"] if FLAGS.classes else []), value)
        write_csv(FLAGS.csv, [header, *rows])
    if FLAGS.page:
        page = make_page(
            found,
            title=f"Review of {FLAGS.archive}",
            value=value,
            label=FLAGS.label,
            class_names=class_names,
            hparams=hparams,
            page_dir=os.path.dirname(os.path.abspath(FLAGS.page)),
        )
        write_whole(pathlib.Path(FLAGS.page), page)


if __name__ == "__main__":
    define_flags()
    program.run(main)
