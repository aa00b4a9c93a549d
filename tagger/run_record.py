"""The record of a training run, `hparams.json`: model, hyperparameters and classes.

It is kept beside the checkpoints, so that evaluation and inference need not be given
the hyperparameters again. This module needs no TensorFlow.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tagger.files import write_whole
from tagger.hparams import MODEL_HPARAMS, Hparams

HPARAMS_FILE = "hparams.json"


def write_hparams(
    directory: str,
    *,
    model_name: str,
    hparams: Hparams,
    class_names: Sequence[str],
    clips_crc32: int | None = None,
) -> None:
    """Writes what a training run uses to `hparams.json`, whole or not at all."""
    record = {
        "model": model_name,
        "hparams": dataclasses.asdict(hparams),
        "class_names": list(class_names),
        "clips_crc32": clips_crc32,
    }
    write_whole(
        pathlib.Path(directory) / HPARAMS_FILE, json.dumps(record, indent=2) + "\n"
    )


def trained_hparams(
    directory: str,
    *,
    model_name: str,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
) -> Hparams:
    """The hyperparameters for using the checkpoints in a directory.

    Those they were trained with, from the `hparams.json` beside them, under the values
    given on the command line. A directory without that file (one of the original's)
    gives the defaults under the values given. A value given that differs from the
    trained one is a warning on stderr.

    Raises:
      ValueError: the file is damaged, or of another model or other classes.
    """
    path = pathlib.Path(directory) / HPARAMS_FILE
    record = _read_record(directory)
    if record is None:
        print(
            f"note: there is no {path}; the defaults and what --hparams gives are used",
            file=sys.stderr,
        )
        return Hparams(**overrides)
    if record.model != model_name:
        raise ValueError(f"{path} is of a model {record.model}, not {model_name}")
    if problem := class_map_problem(directory, class_names):
        raise ValueError(problem)
    for name, value in _changed(overrides, record.hparams).items():
        wrong = "; scores will be wrong" if name in MODEL_HPARAMS else ""
        print(
            f"warning: --hparams: {name}={value} from the command line is used, not "
            f"the {getattr(record.hparams, name)} of {path}{wrong}",
            file=sys.stderr,
        )
    return dataclasses.replace(record.hparams, **overrides)


def resumed_hparams(
    directory: str,
    *,
    model_name: str,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
) -> Hparams:
    """As `trained_hparams`, for more training in that directory.

    Raises:
      ValueError: as there, or a value given would change what the checkpoints compute.
    """
    record = _read_record(directory)
    if record is not None:
        for name, value in _changed(overrides, record.hparams).items():
            if name in MODEL_HPARAMS:
                raise ValueError(
                    f"--hparams: {name}={value} cannot replace the "
                    f"{getattr(record.hparams, name)} that the checkpoints in "
                    f"{directory} were trained with; use another --train_dir, with "
                    f"warmstart=1 to start from their weights"
                )
    return trained_hparams(
        directory, model_name=model_name, overrides=overrides, class_names=class_names
    )


def warn_of_other_model(directory: str, hparams: Hparams) -> None:
    """Warns where weights come from a model with other features or pooling."""
    record = _read_record(directory)
    if record is None:
        return
    given = {name: getattr(hparams, name) for name in MODEL_HPARAMS}
    for name, value in _changed(given, record.hparams).items():
        print(
            f"warning: {name} is {value}, but {getattr(record.hparams, name)} where "
            f"the weights of the warm start come from",
            file=sys.stderr,
        )


def warn_of_other_clips(directory: str, clips_crc32: int) -> None:
    """Warns where training continues with other clips than before, if that is known."""
    record = _read_record(directory)
    if record is not None and record.clips_crc32 not in (None, clips_crc32):
        print(
            f"warning: training in {directory} continues with other clips or labels "
            f"than before",
            file=sys.stderr,
        )


def _changed(values: Mapping[str, Any], hparams: Hparams) -> dict[str, Any]:
    """Those of the values, by name, that differ from hyperparameters; not warmstart."""
    return {
        name: value
        for name, value in values.items()
        if value != getattr(hparams, name) and name != "warmstart"
    }


def class_map_problem(directory: str, class_names: Sequence[str]) -> str:
    """What is wrong with using these classes with the checkpoints there, or nothing.

    Raises:
      ValueError: `hparams.json` is damaged.
    """
    record = _read_record(directory)
    if record is None or record.class_names == list(class_names):
        return ""
    return (
        f"--class_map_path: the class map differs from the one trained with, which is "
        f"in {pathlib.Path(directory) / HPARAMS_FILE}: "
        f"{_first_difference(record.class_names, class_names)}"
    )


@dataclasses.dataclass(frozen=True)
class _Record:
    """What `hparams.json` holds."""

    model: str
    hparams: Hparams
    class_names: list[str]
    clips_crc32: int | None


def _read_record(directory: str) -> _Record | None:
    path = pathlib.Path(directory) / HPARAMS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return _Record(
            record["model"],
            Hparams(**record["hparams"]),
            record["class_names"],
            record.get("clips_crc32"),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _first_difference(trained: Sequence[str], given: Sequence[str]) -> str:
    if len(trained) != len(given):
        return f"{len(trained)} classes were trained, {len(given)} are given"
    index = next(i for i, pair in enumerate(zip(trained, given)) if pair[0] != pair[1])
    return f"class {index} is {given[index]}, but was {trained[index]}"
