"""The files of a data set: OUT/audio/*.wav, its tables, and MANIFEST.

MANIFEST has a line for each recording. At any time, each clip of it that exists is as
its line says. So a run can be killed, and the next one completes the data set.
"""

import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from recordings.doubts import describe_range
from tagger.data.csv_files import class_names_of, write_csv
from tagger.errors import UserError
from tagger.hparams import SAMPLE_RATE
from tagger.terminal.files import locked, make_folder, write_whole
from tagger.terminal.progress import counted, in_parallel, print_result
from tools.make_dataset.conversion import Conversion, examine, write_clips
from tools.make_dataset.sources import Recording, is_annotated

MANIFEST = ".recordings.jsonl"
CLIPS_CSV, EVENTS_CSV = "clips.csv", "events.csv"


def make_dataset(
    found: Sequence[Recording], out: pathlib.Path, *, clip_seconds: float, skip: bool
) -> list[str]:
    """Makes a data set of recordings, or updates the one in the folder.

    Args:
      found: the recordings.
      out: the folder of the data set.
      clip_seconds: length of the longest clip, in seconds.
      skip: whether to convert the other recordings if some cannot be used.

    Returns:
      The problems of the recordings that were skipped.

    Raises:
      UserError: a recording cannot be used, and skip is not set, or none can be
        used; lists all.
      UserError: the data set cannot be read or written, or a recording can no longer be
        read when its clips are written.
    """
    names = os.listdir(out) if out.is_dir() else []
    if MANIFEST not in names and not all(name.startswith(".") for name in names):
        raise UserError(
            f"OUT must be new or a data set of this program, but {out} has other files"
        )
    make_folder(str(out), "OUT")
    error = UserError(f"OUT: another process writes to {out}; run this again later")
    with locked(out / ".lock", error):
        known = {item.name: item for item in read_manifest(out)}
        by_checksum = {item.checksum: item for item in known.values()}
        results = in_parallel(
            lambda item: examine(item.path, item.name, by_checksum, clip_seconds),
            found,
            what="checking recordings",
            unit="recording",
        )
        usable, problems = check(found, results)
        if problems and not (skip and usable):
            raise UserError(*problems)
        recordings = [recording for recording in found if recording.name in usable]
        for path, name, *_ in recordings:
            is_new = usable[name].checksum not in by_checksum
            if is_new and (doubt := describe_range(path, SAMPLE_RATE / 2)):
                print(f"note: {path}: {doubt}", file=sys.stderr)
        update(recordings, usable, known, out)
    return problems


def check(
    found: Sequence[Recording], results: Sequence[Conversion | UserError]
) -> tuple[dict[str, Conversion], list[str]]:
    """Checks recordings and the results of `examine`.

    Returns:
      The recordings that can be used, by name, and the problems of the others.
    """
    usable, problems, owners = {}, [], {}
    annotated = is_annotated(found)
    for recording, result in zip(found, results, strict=True):
        wrong = recording.problems(annotated=annotated)
        if isinstance(result, UserError):
            wrong.append(str(result))
        elif others := [owners[name] for name in result.clips if name in owners]:
            wrong.append(
                f"{recording.path}: its clips would have the names of the clips of "
                f"{min(others)}"
            )
        if not wrong:
            owners.update(dict.fromkeys(result.clips, recording.path))
            usable[recording.name] = result
        problems += wrong
    return usable, problems


def update(
    recordings: Sequence[Recording],
    usable: Mapping[str, Conversion],
    known: Mapping[str, Conversion],
    out: pathlib.Path,
) -> None:
    """Deletes clips that are not as they should be, then writes those that are missing.

    Only clips with labels are written. There are no tables of the clips meanwhile.

    Args:
      recordings: the recordings to convert.
      usable: how to convert them, by name.
      known: the recordings in MANIFEST, by name.
      out: the folder of the data set.

    Raises:
      UserError: recordings can no longer be read, or files not be written; lists all.
    """
    audio = out / "audio"
    for table in (CLIPS_CSV, EVENTS_CSV):
        (out / table).unlink(missing_ok=True)
    items = {
        name: known[name] if item.has_clips_of(known.get(name)) else item
        for name, item in usable.items()
    }
    for item in itertools.chain(known.values(), items.values()):
        if known.get(item.name) is not items.get(item.name):
            for name in item.clips:
                (audio / name).unlink(missing_ok=True)
    for path in itertools.chain(out.glob(".*.tmp"), audio.glob(".*.tmp")):
        path.unlink(missing_ok=True)  # of a run that was killed
    write_manifest(out, items.values())
    make_folder(str(audio), "OUT")
    wanted = {item.name: labelled_clips(item, items[item.name]) for item in recordings}
    existing = set(os.listdir(audio))
    for name, item in items.items():
        for clip in existing.intersection(item.clips) - wanted[name]:
            (audio / clip).unlink()  # It had labels before.
        # Silent clips that have lost their labels are not counted.
        silent = [clip for clip in item.silent if clip in wanted[name]]
        items[name] = item._replace(silent=silent)
    missing = [
        recording
        for recording in recordings
        if not items[recording.name].is_complete(wanted[recording.name], existing)
    ]
    written = in_parallel(
        lambda item: write_clips(item.path, items[item.name], wanted[item.name], audio),
        missing,
        what="writing clips",
        unit="recording",
    )
    if problems := [str(error) for error in written if isinstance(error, UserError)]:
        raise UserError(*problems)
    items |= {item.name: item for item in written}
    write_manifest(out, items.values())
    num_clips, num_classes = write_tables(recordings, items, out)
    if silent := sum(len(item.silent) for item in items.values()):
        print(f"{counted(silent, 'silent clip')} left out", file=sys.stderr)
    print_result(
        f"recordings: {len(missing)} written, {len(items) - len(missing)} unchanged, "
        f"{len(known.keys() - items)} removed; {out} has {counted(num_clips, 'clip')} "
        f"of {counted(num_classes, 'class')}"
    )


def labelled_clips(recording: Recording, item: Conversion) -> set[str]:
    """The names of the clips of a recording that have labels."""
    labelled = recording.label_clips(item.clip_times())
    return {
        clip for clip, (labels, _) in zip(item.clips, labelled, strict=True) if labels
    }


def write_tables(
    recordings: Sequence[Recording], items: Mapping[str, Conversion], out: pathlib.Path
) -> tuple[int, int]:
    """Writes the class map, CLIPS_CSV and, if there are annotations, EVENTS_CSV.

    Returns:
      The numbers of clips and of classes.
    """
    rows, events = [], []
    for recording in recordings:
        item = items[recording.name]
        times = item.clip_times()
        for clip, start, (labels, heard) in zip(
            item.clips, times, recording.label_clips(times)
        ):
            if labels and clip not in item.silent:
                rows.append((clip, labels, recording.name, f"{start:.3f}"))
                events += [
                    (clip, f"{event.start:.3f}", f"{event.end:.3f}", event.label)
                    for event in heard
                ]
    class_names = class_names_of(labels for _, labels, *_ in rows)
    write_csv(out / "class_map.csv", enumerate(class_names))
    header = ["fname", "labels", "recording"]
    if is_annotated(recordings):
        header.append("start")
        write_csv(out / EVENTS_CSV, [("fname", "start", "end", "label"), *events])
    rows = [(clip, ",".join(labels), *rest) for clip, labels, *rest in rows]
    write_csv(out / CLIPS_CSV, [header, *(row[: len(header)] for row in rows)])
    return len(rows), len(class_names)


def read_manifest(out: pathlib.Path) -> list[Conversion]:
    """The recordings in MANIFEST; none if it does not exist.

    Raises:
      UserError: it is damaged.
    """
    path = out / MANIFEST
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [Conversion(**json.loads(line)) for line in lines]
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete {out} to make it anew") from None


def write_manifest(out: pathlib.Path, items: Iterable[Conversion]) -> None:
    """Writes MANIFEST, atomically."""
    lines = [f"{json.dumps(item._asdict())}\n" for item in items]
    write_whole(out / MANIFEST, "".join(lines))
