"""The record of a training run, `hparams.json`: what it trains, and how.

Training writes it beside the checkpoints. Evaluation and inference read it, so that
users need not repeat the hyperparameters. This module needs no TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.hparams import FIELDS, MODEL_HPARAMS, MODEL_NAMES, Hparams, model_hparams
from tagger.terminal.files import read_json, write_json
from tagger.terminal.progress import printable

HPARAMS_FILE = "hparams.json"
ALL_SCOPES = "."  # This regular expression matches every name.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The contents of `hparams.json`. Earlier versions wrote only the first ones.

    Attributes:
      model: name of the model.
      hparams: hyperparameters of the run.
      class_names: C names.
      run: identifies the run, also after resuming; "": not known.
      copied_from: the same of the runs that this one was copied from.
      folder: where the run was trained last; "": not by training.
      training: how it was trained last: train_scopes, seed, mixed_precision, devices,
        and clips, see `Clips.identity`.
    """

    model: str
    hparams: Hparams
    class_names: list[str]
    run: str = ""
    copied_from: list[str] = dataclasses.field(default_factory=list)
    folder: str = ""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    def check_class_map(self, path: str, class_names: Sequence[str]) -> None:
        """Checks the C classes in use; see `Run.check_class_map`."""
        if difference := class_difference(class_names, self.class_names):
            raise UserError(
                f"class_names (--class_map_path): the class map differs from that of "
                f"training, in {path}: {difference}"
            )

    def settings(
        self,
        path: str,
        *,
        model_name: str | None,
        overrides: Mapping[str, Any],
        class_names: Sequence[str],
        to_train: bool,
    ) -> tuple[str, Hparams]:
        """The model and the hyperparameters in use; see `Run.settings`."""
        if model_name not in (None, self.model):
            raise UserError(
                f"model_name (--model): the model is {self.model} in {path}, not "
                f"{model_name}"
            )
        self.check_class_map(path, class_names)
        for name, value in overrides.items():
            trained = getattr(self.hparams, name)
            if value == trained or name == "warmstart":
                continue
            # The weights of another width have other shapes.
            if name == "width" or (to_train and name in MODEL_HPARAMS):
                advice = "; use another --train_dir" if to_train else ""
                if name != "width":
                    advice += ", with warmstart=1 to start from their weights"
                raise UserError(
                    f"--hparams: {name}={value} cannot replace the {trained} in {path} "
                    f"that the checkpoints were trained with{advice}"
                )
            if not to_train and name not in MODEL_HPARAMS:
                print(f"note: {name} matters only in training", file=sys.stderr)
                continue
            is_safe = to_train or name == "example_hop_seconds"
            wrong = "" if is_safe else "; scores will be wrong"
            print(
                f"warning: {name}={value} is used, not the {trained} of {path}{wrong}",
                file=sys.stderr,
            )
        return self.model, dataclasses.replace(self.hparams, **overrides)

    def is_copied_to(self, directory: str) -> bool:
        """Whether the folder in which the run was trained exists beside this one."""
        if not os.path.isdir(self.folder) or os.path.samefile(self.folder, directory):
            return False
        with contextlib.suppress(UserError):  # That folder's record is damaged.
            other = read_record(self.folder)
            return other is not None and other.run == self.run
        return False


def resumed_training(
    path: str, training: dict[str, Any], last: Mapping[str, Any]
) -> dict[str, Any]:
    """How training starts or resumes; see `Run.resumed_training`.

    Args:
      path: the file, for messages.
      training: see `RunRecord`.
      last: the same of the last training; empty: it starts, or this is not known.
    """
    scopes = training["train_scopes"] or last.get("train_scopes", [])
    scopes = [] if scopes == [ALL_SCOPES] else scopes
    if scopes and not training["train_scopes"]:
        print(
            f"note: --train_scopes={_shown(scopes)}, as in {path}; "
            f"--train_scopes={ALL_SCOPES} trains all layers",
            file=sys.stderr,
        )
    training = training | {"train_scopes": scopes}
    for change in changes(training, last):
        print(f"warning: resuming with {change}", file=sys.stderr)
    return training


# The types in the file. The values of the first ones are required.
KINDS = {"model": str, "hparams": dict, "class_names": list}
OPTIONAL_KINDS = {"run": str, "copied_from": list, "folder": str, "training": dict}


def write_record(
    directory: str,
    *,
    model_name: str,
    hparams: Hparams,
    class_names: Sequence[str],
    run: str | None = None,
    **more: Any,
) -> RunRecord:
    """Writes the record of a run to `hparams.json`, atomically; returns it.

    Args:
      directory: the folder.
      model_name, hparams, class_names: see `RunRecord`.
      run: the id of the run; None: it is a new run.
      more: further fields of `RunRecord`.
    """
    record = RunRecord(
        model=model_name, hparams=hparams, class_names=list(class_names), **more
    )
    run = _new_id(record) if run is None else run
    record = dataclasses.replace(record, run=run)
    write_json(pathlib.Path(directory) / HPARAMS_FILE, dataclasses.asdict(record))
    return record


def _new_id(record: RunRecord) -> str:
    """An id for a run. Runs that repeat each other, by their seed, have equal ones."""
    if record.training.get("seed") is None:
        return uuid.uuid4().hex
    values = dataclasses.asdict(record) | {"folder": ""}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def read_record(directory: str) -> RunRecord | None:
    """Reads the `hparams.json` of a folder; None if there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(directory) / HPARAMS_FILE
    values = read_json(path)
    if values is None:
        return None
    for problem in _problems(values):
        raise UserError(f"{path} is damaged: {problem}")
    try:
        # A file of an earlier version has fewer hyperparameters.
        hparams = model_hparams(values["model"], values["hparams"])
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    known = {name: values[name] for name in KINDS | OPTIONAL_KINDS if name in values}
    return RunRecord(**known | {"hparams": hparams})


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong in the contents of a record."""
    for name in KINDS:
        if name not in values:
            yield f"it has no {name}"
    for name, kind in (KINDS | OPTIONAL_KINDS).items():
        if not isinstance(values.get(name, kind()), kind):
            yield f"{name} must not be {values[name]}"
    if values["model"] not in MODEL_NAMES:
        yield f"there is no model {values['model']}"
    if unknown := set(values["hparams"]) - set(FIELDS):
        yield f"there is no hyperparameter {', '.join(sorted(unknown))}"
    for name in values["class_names"]:
        if not isinstance(name, str) or not name or name != printable(name):
            yield f"a class must have a name without control characters, not {name!r}"
    scopes = values.get("training", {}).get("train_scopes", [])
    if not isinstance(scopes, list) or not all(isinstance(s, str) for s in scopes):
        yield "train_scopes must be regular expressions"


def report_missing(path: str, overrides: Mapping[str, Any]) -> None:
    """Reports on stderr that there is no record, and what is used instead.

    Args:
      path: where it would be.
      overrides: the given hyperparameters, by name.
    """
    if overrides:
        text = f"note: there is no {path}; values that are not given are the defaults"
    else:
        text = (
            f"warning: there is no {path}; using the defaults. The original stored no "
            f"hyperparameters, and wrong values give wrong scores: repeat those of the "
            f"training in --hparams (hparam_overrides in Python)"
        )
    print(text, file=sys.stderr)


def class_difference(new: Sequence[Any], old: Sequence[Any]) -> str:
    """How C class names differ from others; "" if they do not."""
    if len(new) != len(old):
        return f"it has {len(new)} classes, not {len(old)}"
    pairs = enumerate(zip(new, old, strict=True))
    return next((f"class {i} is {a}, not {b}" for i, (a, b) in pairs if a != b), "")


def changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """In what new values differ from old ones, such as "seed 5, not 3".

    Args:
      new: values by name. `clips` are from `Clips.identity`, `hparams` are values of
        hyperparameters by name, and `class_names` are names.
      old: the same, from a file. Values that it does not have are not compared.
    """
    found = []
    for name in filter(old.__contains__, new):
        value, before = new[name], old[name]
        if isinstance(value, dict | list) and not isinstance(before, type(value)):
            before = type(value)()  # The file was edited.
        if value == before:
            continue
        if name == "clips":
            found.append(_clip_change(value, before))
        elif name == "class_names":
            found.append(class_difference(value, before))
        elif name == "run":
            found.append("another run")  # Its id would tell users nothing.
        elif name == "hparams":
            if before:  # A file of an earlier version has fewer, which were defaults.
                before = {hparam: FIELDS[hparam].default for hparam in value} | before
            found += [
                f"{hparam}={value[hparam]}, not {before.get(hparam)}"
                for hparam in value
                if value[hparam] != before.get(hparam)
            ]
        else:
            found.append(f"{name} {_shown(value)}, not {_shown(before)}")
    return found


def _clip_change(new: Mapping[str, int], old: Mapping[str, Any]) -> str:
    """In what clips differ from others. Checksums would tell users nothing."""
    if new["clips"] != old.get("clips"):
        return f"{new['clips']} clips, not {old.get('clips')}"
    different = [name for name in new if new[name] != old.get(name)]
    # Clips of other names cannot be compared further.
    different = ["names"] if "names" in different else different
    return f"other {' and '.join(different)} of the clips"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "unset"
    return "unset" if value is None else str(value)
