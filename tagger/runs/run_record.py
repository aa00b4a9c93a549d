"""The record of a training run, `hparams.json`: model, hyperparameters and classes.

Training writes it beside the checkpoints. Evaluation and inference read it, so that
users need not repeat the hyperparameters. This module needs no TensorFlow.
"""

import dataclasses
import json
import pathlib
import uuid
from collections.abc import Sequence

from tagger.errors import UserError
from tagger.hparams import FIELDS, MODEL_NAMES, Hparams, model_hparams
from tagger.terminal.files import write_whole

HPARAMS_FILE = "hparams.json"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The contents of `hparams.json`. `run` identifies a run, also after resuming."""

    model: str
    hparams: Hparams
    class_names: list[str]
    run: str = ""


def write_record(
    directory: str,
    *,
    model_name: str,
    hparams: Hparams,
    class_names: Sequence[str],
    run: str | None = None,
) -> RunRecord:
    """Writes the record of a run to `hparams.json`, atomically; returns it.

    Args:
      run: the id of the run; None: it is a new run.
    """
    run = uuid.uuid4().hex if run is None else run
    record = RunRecord(model_name, hparams, list(class_names), run)
    text = json.dumps(dataclasses.asdict(record), indent=2)
    write_whole(pathlib.Path(directory) / HPARAMS_FILE, text + "\n")
    return record


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
