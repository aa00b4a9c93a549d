"""Which variables a warm start restores, by their names and shapes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tagger.errors import UserError

MAX_NAMES = 8  # of skipped scopes or variables, per reason


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
