"""Warm start: takes the weights of a network from a checkpoint of another run."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import keras

from tagger.errors import UserError
from tagger.hparams import Hparams
from tagger.network.layers import LAST_LAYER
from tagger.runs import checkpoints
from tagger.runs.run import Run
from tagger.runs.run_record import RunRecord

MAX_NAMES = 8  # of skipped scopes or variables, per reason


def warm_start(
    network: keras.Model,
    checkpoint: str,
    *,
    include_scopes: Sequence[str],
    exclude_scopes: Sequence[str],
    moving_averages: bool,
    hparams: Hparams,
    class_names: Sequence[str],
) -> None:
    """Restores the variables that the scopes select, and prints which.

    Args:
      network: from `model.define_model`; its name is that of the model.
      checkpoint: see `Run.find`.
      include_scopes, exclude_scopes: see `plan_warm_start`.
      moving_averages: whether the moving averages of batch norm are restored, too. As
        in the original, they are not by default.
      hparams: hyperparameters of the new run.
      class_names: C class names of the new run.

    Raises:
      UserError: the checkpoint or a scope cannot be used, or the checkpoint is of
        another model, of another width or of other classes.
    """
    run, prefix = Run.find(checkpoint, "--warmstart_checkpoint")
    if run.record and run.record.model != network.name:
        raise UserError(
            f"--warmstart_checkpoint has the model {run.record.model}; use "
            f"--model={run.record.model}"
        )
    if run.record and run.record.hparams.width != hparams.width:
        raise UserError(
            f"--warmstart_checkpoint has width={run.record.hparams.width:g}, not "
            f"{hparams.width:g}; a warm start needs the same width"
        )
    variables = {
        name: variable
        for name, variable in checkpoints.network_variables(network).items()
        if moving_averages or not checkpoints.is_moving_average(name)
    }
    plan = plan_warm_start(
        {name: tuple(variable.shape) for name, variable in variables.items()},
        checkpoints.shapes(prefix),
        include_scopes=include_scopes,
        exclude_scopes=exclude_scopes,
    )
    if run.record:
        _check_record(run.record, plan.restored, hparams, class_names)
    checkpoints.restore(prefix, {name: variables[name] for name in plan.restored})
    print(plan.report(prefix), file=sys.stderr)


def _check_record(
    record: RunRecord,
    restored: Sequence[str],
    hparams: Hparams,
    class_names: Sequence[str],
) -> None:
    """Warns of other hyperparameters; a UserError if the classes are others."""
    last_layer = any(name.startswith(LAST_LAYER + "/") for name in restored)
    if last_layer and record.class_names != list(class_names):
        raise UserError(
            f"--warmstart_checkpoint was trained with other classes, or in another "
            f"order; leave out its last layer with "
            f"--warmstart_exclude_scopes={LAST_LAYER}"
        )
    for name, value in hparams.model_values().items():
        if value != (trained := getattr(record.hparams, name)):
            print(
                f"warning: {name} is {value}, but the weights of the warm start were "
                f"trained with {trained}",
                file=sys.stderr,
            )


class WarmStart(NamedTuple):
    """The variables that a warm start restores, and those that it skips.

    Attributes:
      restored: names of the variables to restore.
      skipped: names of the other variables, by the reason.
    """

    restored: list[str]
    skipped: dict[str, list[str]]

    def report(self, prefix: str) -> str:
        """Lines with the number of restored variables, and what is skipped, and why.

        A scope that is skipped as a whole is listed instead of its variables.
        """
        everything = sum(self.skipped.values(), list(self.restored))
        lines = [
            f"warm start from {prefix}: {len(self.restored)} of {len(everything)} "
            f"variables restored; all other state is reset"
        ]
        for reason, names in self.skipped.items():
            others = {scope_of(name) for name in set(everything).difference(names)}
            shown = {
                name if scope_of(name) in others else scope_of(name): None
                for name in names
            }
            listed = [*shown][:MAX_NAMES]
            if len(shown) > MAX_NAMES:
                listed.append(f"and {len(shown) - MAX_NAMES} more")
            lines.append(f"  skipped, {reason}: {', '.join(listed)}")
        return "\n".join(lines)


def scope_of(name: str) -> str:
    """The first scope of a variable, such as "Conv_1/"."""
    return name.split("/")[0] + "/"


def plan_warm_start(
    network_shapes: Mapping[str, tuple[int, ...]],
    checkpoint_shapes: Mapping[str, tuple[int, ...]],
    *,
    include_scopes: Sequence[str],
    exclude_scopes: Sequence[str],
) -> WarmStart:
    """Selects the variables of a warm start by names and shapes.

    Args:
      network_shapes: shapes of the network's variables to restore, by name.
      checkpoint_shapes: shapes of the variables in the checkpoint by name.
      include_scopes: regular expressions that match from the start of a name; empty:
        all variables.
      exclude_scopes: the same, for included variables to skip; empty: none.

    Raises:
      UserError: a scope matches no variable, a shape differs, or there is no variable
        to restore; the message names the flag to change.
    """
    included = matching(
        network_shapes, include_scopes or [""], "--warmstart_include_scopes"
    )
    excluded = matching(network_shapes, exclude_scopes, "--warmstart_exclude_scopes")
    restored, skipped = [], {}
    for name, shape in network_shapes.items():
        if name not in included:
            skipped.setdefault("not in --warmstart_include_scopes", []).append(name)
        elif name in excluded:
            skipped.setdefault("in --warmstart_exclude_scopes", []).append(name)
        elif name not in checkpoint_shapes:
            skipped.setdefault("not in the checkpoint", []).append(name)
        elif checkpoint_shapes[name] != shape:
            scopes = [*exclude_scopes, scope_of(name)]
            raise UserError(
                f"warm start: {name} has shape {list(checkpoint_shapes[name])} in the "
                f"checkpoint, but {list(shape)} in the network; skip it with "
                f"--warmstart_exclude_scopes={','.join(scopes)}"
            )
        else:
            restored.append(name)
    if not restored:
        raise UserError(
            "warm start: nothing to restore, all variables are skipped; check "
            "--warmstart_include_scopes and --warmstart_exclude_scopes, and that "
            "--warmstart_checkpoint has this model"
        )
    return WarmStart(restored, skipped)


def matching(names: Iterable[str], scopes: Sequence[str], flag: str) -> set[str]:
    """The names that at least one of the scopes matches from the start."""
    matching = set()
    for scope in scopes:
        try:
            found = {name for name in names if re.match(scope, name)}
        except (re.error, OverflowError) as error:
            raise UserError(
                f"{flag}: '{scope}' is not a regular expression: {error}"
            ) from None
        if not found:
            raise UserError(
                f"{flag}: '{scope}' matches no variable of the network; names are "
                f"like {next(iter(names))}"
            )
        matching |= found
    return matching
