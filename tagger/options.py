"""The options of the three modes. Each one is also a flag of runner.py.

The metadata of a field has what its flag needs. This module needs no TensorFlow.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tagger.errors import UserError
from tagger.hparams import MAX_SEED, MODEL_NAMES, model_hparams, parse_overrides
from tagger.runs import run_record

TRAIN_DIR = (
    "Folder of checkpoints and TensorBoard events; training resumes from its newest "
    "checkpoint."
)
CHECKPOINT_FORMS = (
    "model.ckpt-N, a train_dir for its newest one, or best:EVAL_DIR for the best one "
    "of an evaluation"
)


def _option(
    meaning: str,
    default: Any = dataclasses.MISSING,
    *,
    low: int | None = None,
    high: int | None = None,
    names: Sequence[str] = (),
    parse: Callable[[Any], Any] | None = None,
    unless: str = "",
) -> Any:
    """A field of a dataclass of options.

    Args:
      meaning: the help of the flag.
      default: of the flag; missing: the flag is required.
      low, high: the range of a whole number.
      names: the allowed names; empty: any text.
      unless: another flag of the mode, with which this required one may be missing.
      parse: returns the value of the field for that of the flag, or raises UserError.
    """
    required = default is dataclasses.MISSING
    metadata = dict(meaning=meaning, low=low, high=high, names=names, parse=parse)
    metadata["unless"] = unless
    metadata |= dict(required=required, default=None if required else default)
    if parse and not required:
        return dataclasses.field(
            default_factory=lambda: parse(default), metadata=metadata
        )
    return dataclasses.field(default=default, metadata=metadata)


def _parse_parts(parts: Sequence[str]) -> tuple[str, ...]:
    if not all(parts):
        raise UserError("must not have empty parts")
    return tuple(parts)


def _parse_shard(text: str) -> tuple[int, int]:
    """The index of a part and the number of parts in "i/n"."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError("must be i/n with i from 0 to n-1, such as 0/4")
    return int(match[1]), int(match[2])


def _parse_devices(devices: Sequence[str]) -> tuple[str, ...]:
    different = len(set(devices)) == len(devices)
    one_kind = len({name[:3] for name in devices}) <= 1
    known = all(re.fullmatch(r"(CPU|GPU):(0|[1-9]\d{0,2})", name) for name in devices)
    if not (different and one_kind and known):
        raise UserError(
            "must be different GPUs, such as GPU:0,GPU:1, or parts of the CPU, such as "
            "CPU:0"
        )
    return tuple(devices)


def _parse_folder(path: str) -> str:
    if path and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise UserError("must be a folder of this machine, not a URL")
    return path


def _parse_service(address: str) -> str:
    if address and not re.fullmatch(r"grpc://[^/]+:\d{1,5}", address):
        raise UserError("must be grpc://host:port")
    return address


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of all modes. `hparams` has only the values in --hparams."""

    class_map_path: str = _option("CSV of index,name lines, one per class.")
    model: str | None = _option(
        f"Name of the model. By default that of the checkpoints, or {MODEL_NAMES[0]}.",
        None,
        names=MODEL_NAMES,
    )
    hparams: Mapping[str, Any] = _option(
        "Hyperparameters as name=value,name=value. --hparams help lists them; "
        "docs/reference.md explains them.",
        "",
        parse=parse_overrides,
    )
    mixed_precision: bool = _option(
        "Compute convolutions in bfloat16, for GPUs from Ampere on and CPUs with "
        "bfloat16; checkpoints stay float32.",
        False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(CommonOptions):
    """What to train, and how."""

    train_clip_dir: str = _option("Folder of the WAV clips to train on.")
    train_csv_path: str = _option("CSV of the clips to train on and their labels.")
    train_dir: str = _option(TRAIN_DIR, parse=_parse_folder)
    epoch_num_batches: int = _option(
        "Batches per epoch, for lrdecay; 0: computed from the WAV headers.",
        0,
        low=0,
        high=2**31,
    )
    warmstart_checkpoint: str = _option(
        f"Checkpoint to take weights from: {CHECKPOINT_FORMS}. Needs --hparams "
        f"warmstart=1.",
        "",
    )
    warmstart_include_scopes: Sequence[str] = _option(
        "Variables to warm-start: regular expressions, matched from the start of their "
        "names. Empty: all.",
        (),
        parse=_parse_parts,
    )
    warmstart_exclude_scopes: Sequence[str] = _option(
        "Included variables not to warm-start, in the same form. Empty: none.",
        (),
        parse=_parse_parts,
    )
    warmstart_moving_averages: bool = _option(
        "Warm-start the moving averages of batch norm, too.", False
    )
    train_scopes: Sequence[str] = _option(
        "Variables to train, in the same form. All layers and batch norms without such "
        "a variable are frozen. Empty: as before if the run resumes, else all are "
        "trained. `.` trains all.",
        (),
        parse=_parse_parts,
    )
    max_steps: int = _option(
        "Total number of steps (batches) to train; 0: 1000 passes over the data.",
        0,
        low=0,
    )
    checkpoint_steps: int = _option(
        "Steps between checkpoints. Checkpoints are also saved at step 0 and at the "
        "end.",
        100,
        low=1,
    )
    keep_checkpoints: int = _option(
        "Keep only this number of the newest checkpoints, plus the one that training "
        "resumed from and the best one of each evaluation whose eval_dir is inside "
        "train_dir; 0: as in the original, the newest 10,000 and one per 15 minutes.",
        0,
        low=0,
    )
    summary_steps: int = _option("Steps between values in TensorBoard.", 10, low=1)
    seed: int | None = _option(
        "Seed. Runs with the same seed give the same losses and weights on one "
        "machine.",
        None,
        low=0,
        high=MAX_SEED - 1,
    )
    devices: Sequence[str] = _option(
        "Devices that train together, such as GPU:0,GPU:1. Empty: all GPUs, or the "
        "CPU.",
        (),
        parse=_parse_devices,
    )
    data_service: str = _option(
        "grpc://host:port of the dispatcher of a tf.data service (tools.data_service) "
        "that computes the features. Empty: this process computes them.",
        "",
        parse=_parse_service,
    )

    def check(self) -> None:
        """Checks the options that depend on one another.

        Raises:
          UserError: some contradict each other; the message names the flags.
        """
        try:
            model_hparams(self.model or MODEL_NAMES[0], self.hparams)
        except UserError:
            record = run_record.read_record(self.train_dir)
            if record is None:
                raise
            # They may fit together with those of the run that is resumed.
            dataclasses.replace(record.hparams, **self.hparams)
        warmstart = self.hparams.get("warmstart")
        if warmstart and not self.warmstart_checkpoint:
            raise UserError("--hparams warmstart=1 needs --warmstart_checkpoint")
        for field in dataclasses.fields(self):
            is_warm_start = field.name.startswith("warmstart_")
            if is_warm_start and getattr(self, field.name) and not warmstart:
                raise UserError(f"--{field.name} needs --hparams warmstart=1")
        if self.hparams.get("bn_ramp") and self.warmstart_moving_averages:
            raise UserError(
                "--hparams bn_ramp=1 would soon replace the moving averages that "
                "--warmstart_moving_averages restores"
            )
        if warmstart and self.train_scopes and not self.warmstart_moving_averages:
            raise UserError(
                "--train_scopes needs --warmstart_moving_averages, because frozen "
                "layers use their moving averages"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions(CommonOptions):
    """What to evaluate, and how."""

    eval_clip_dir: str = _option("Folder of the WAV clips to evaluate on.")
    eval_csv_path: str = _option("CSV of the clips to evaluate on and their labels.")
    train_dir: str = _option(TRAIN_DIR, parse=_parse_folder, unless="eval_checkpoint")
    eval_dir: str = _option(
        "Folder for the results and TensorBoard events.", parse=_parse_folder
    )
    eval_checkpoint: Sequence[str] = _option(
        f"Checkpoint to evaluate, instead of all of --train_dir: {CHECKPOINT_FORMS}. "
        f"The scores of several, separated by commas, are averaged.",
        (),
        parse=_parse_parts,
    )
    eval_every_k: int = _option("Evaluate every k-th checkpoint.", 1, low=1)
    eval_shard: tuple[int, int] = _option(
        "i/n: evaluate only part i of n, i from 0 to n-1: every n-th checkpoint.",
        "0/1",
        parse=_parse_shard,
    )
    eval_timeout_secs: float = _option(
        "Seconds to wait for a new checkpoint; 0: evaluate the existing ones and exit; "
        "-1: wait without limit.",
        600,
        low=-1,
    )

    def check(self) -> None:
        """Checks the options that depend on one another.

        Raises:
          UserError: some contradict each other; the message names the flags.
        """
        others = (self.train_dir, self.eval_every_k > 1, self.eval_shard != (0, 1))
        for name, given in zip(("train_dir", "eval_every_k", "eval_shard"), others):
            if given and self.eval_checkpoint:
                raise UserError(
                    f"--eval_checkpoint and --{name} are mutually exclusive"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceOptions(CommonOptions):
    """What to score, and how."""

    inference_clip_dir: str = _option("Folder of the *.wav clips to score.")
    inference_checkpoint: Sequence[str] = _option(
        f"Checkpoint to use: {CHECKPOINT_FORMS}. The scores of several, separated by "
        f"commas, are averaged.",
        parse=_parse_parts,
    )
    predictions_csv_path: str = _option("CSV to write the scores to.")
    inference_shard: tuple[int, int] = _option(
        "i/n: score only part i of n, i from 0 to n-1: every n-th clip. The CSV is "
        "named X-i-of-n.csv; tools.join_predictions joins the parts.",
        "0/1",
        parse=_parse_shard,
    )


MODES = {"train": TrainOptions, "eval": EvalOptions, "inference": InferenceOptions}
# The fields of each mode, by name. Modes that share a name share its flag.
FIELDS = {
    mode: {field.name: field for field in dataclasses.fields(options)}
    for mode, options in MODES.items()
}
