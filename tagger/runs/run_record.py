"""The record of a training run, `hparams.json`: model, hyperparameters and classes.

Training writes it beside the checkpoints. Evaluation and inference read it, so that
users need not repeat the hyperparameters. This module needs no TensorFlow.
"""

import dataclasses
import json
import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.hparams import FIELDS, MODEL_HPARAMS, MODEL_NAMES, Hparams, model_hparams
from tagger.terminal.files import write_whole

HPARAMS_FILE = "hparams.json"
LAST_LAYER = "fully_connected"  # has a column per class


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The contents of `hparams.json`. `run` identifies a run, also after resuming."""

    model: str
    hparams: Hparams
    class_names: list[str]
    run: str = ""


def write_hparams(
    directory: str,
    *,
    model_name: str,
    hparams: Hparams,
    class_names: Sequence[str],
    resumed: bool = False,
) -> None:
    """Writes the record of a training run to `hparams.json`, atomically."""
    run = run_of(directory) if resumed else uuid.uuid4().hex
    record = RunRecord(model_name, hparams, list(class_names), run)
    text = json.dumps(dataclasses.asdict(record), indent=2)
    write_whole(pathlib.Path(directory) / HPARAMS_FILE, text + "\n")


def read_record(directory: str) -> RunRecord | None:
    """Reads the `hparams.json` of a folder; None if there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(directory) / HPARAMS_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model_name, class_names = values["model"], list(values["class_names"])
        if model_name not in MODEL_NAMES:
            raise UserError(f"there is no model {model_name}")
        if unknown := set(values["hparams"]) - set(FIELDS):
            raise UserError(f"there is no hyperparameter {', '.join(sorted(unknown))}")
        if not all(name and isinstance(name, str) for name in class_names):
            raise UserError("class_names must be names that are not empty")
        # A file of an earlier version has fewer hyperparameters.
        hparams = model_hparams(model_name, values["hparams"])
        return RunRecord(model_name, hparams, class_names, values.get("run", ""))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except KeyError as error:
        raise UserError(f"{path} is damaged: it has no {error}") from None
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def run_of(directory: str) -> str:
    """What distinguishes the run in a folder from others; "" if that is not known."""
    record = read_record(directory)
    return record.run if record else ""


def trained_model(
    directory: str,
    *,
    model_name: str | None,
    overrides: Mapping[str, Any],
    class_names: Sequence[str],
    resuming: bool = False,
) -> tuple[str, Hparams]:
    """The model and the hyperparameters to use with the checkpoints in a directory.

    They come from the `hparams.json` beside the checkpoints. Checkpoints of the
    original have no such file, and get the defaults. Given values override both. A line
    on stderr reports a missing file, and each value that differs from the file.

    Args:
      directory: the folder of the checkpoints.
      model_name: the name of the model; None: that of the file, or the default.
      overrides: the given values, by name.
      class_names: the C names of the class map in use.
      resuming: whether training resumes. If so, the overrides must not change what the
        network computes.

    Raises:
      UserError: the file is damaged, has another model or other classes, or an
        override is not allowed.
    """
    path = pathlib.Path(directory) / HPARAMS_FILE
    record = read_record(directory)
    if record is None:
        if overrides:
            text = (
                f"note: there is no {path}; values that are not given are the defaults"
            )
        else:
            text = (
                f"warning: there is no {path}; using the defaults. The original stored "
                f"no hyperparameters, and wrong values give wrong scores: repeat those "
                f"of the training in --hparams (hparam_overrides in Python)"
            )
        print(text, file=sys.stderr)
        model_name = model_name or MODEL_NAMES[0]
        return model_name, model_hparams(model_name, overrides)
    if model_name not in (None, record.model):
        raise UserError(
            f"--model: the model (model_name in Python) is {record.model} in {path}, "
            f"not {model_name}"
        )
    check_class_map(directory, class_names)
    for name, value in overrides.items():
        trained = getattr(record.hparams, name)
        if value == trained or name == "warmstart":
            continue
        if resuming and name in MODEL_HPARAMS:
            raise UserError(
                f"--hparams: {name}={value} cannot replace the {trained} that the "
                f"checkpoints in {directory} were trained with; use another "
                f"--train_dir, with warmstart=1 to start from their weights"
            )
        if not resuming and name not in MODEL_HPARAMS:
            print(f"note: {name} matters only in training", file=sys.stderr)
            continue
        wrong = "" if resuming else "; scores will be wrong"
        print(
            f"warning: {name}={value} is used, not the {trained} of {path}{wrong}",
            file=sys.stderr,
        )
    return record.model, dataclasses.replace(record.hparams, **overrides)


def check_class_map(directory: str, class_names: Sequence[str]) -> None:
    """Checks the C classes against those of the checkpoints in a directory, if any.

    Raises:
      UserError: they differ, or `hparams.json` is damaged.
    """
    record = read_record(directory)
    if record is None or record.class_names == list(class_names):
        return
    differences = [
        f"class {index} is {given}, not {trained}"
        for index, (trained, given) in enumerate(zip(record.class_names, class_names))
        if trained != given
    ] or [f"it has {len(class_names)} classes, not {len(record.class_names)}"]
    raise UserError(
        f"--class_map_path: the class map (class_names in Python) differs from that of "
        f"training, in {pathlib.Path(directory) / HPARAMS_FILE}: {differences[0]}"
    )


def check_last_layer(
    directory: str, class_names: Sequence[str], restored: Sequence[str]
) -> None:
    """Checks that a warm start restores the last layer only for the same classes.

    Raises:
      UserError: the classes of the checkpoint, or their order, differ.
    """
    record = read_record(directory)
    last_layer = any(name.startswith(LAST_LAYER + "/") for name in restored)
    if record and record.class_names != list(class_names) and last_layer:
        raise UserError(
            f"--warmstart_checkpoint was trained with other classes, or in another "
            f"order; leave out its last layer with "
            f"--warmstart_exclude_scopes={LAST_LAYER}"
        )


def check_warm_start(directory: str, model_name: str, hparams: Hparams) -> None:
    """Warns if a warm start's weights had other features, pooling or batch norm.

    Raises:
      UserError: the weights are of another model.
    """
    record = read_record(directory)
    if record and record.model != model_name:
        raise UserError(
            f"--warmstart_checkpoint has the model {record.model}; use "
            f"--model={record.model}"
        )
    for name in MODEL_HPARAMS if record else ():
        value, trained = getattr(hparams, name), getattr(record.hparams, name)
        if value != trained:
            print(
                f"warning: {name} is {value}, but the weights of the warm start were "
                f"trained with {trained}",
                file=sys.stderr,
            )
