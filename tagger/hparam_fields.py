"""The fields of a dataclass of hyperparameters: allowed values, and their checks."""

import dataclasses
import numbers
import sys
from collections.abc import Callable
from typing import Any

from tagger.errors import UserError

# Allowed values: a description for documentation and messages, and a predicate.
Allowed = tuple[str, Callable[[Any], bool]]
POSITIVE: Allowed = ("above 0", lambda value: value > 0)
NOT_NEGATIVE: Allowed = ("0 or more", lambda value: value >= 0)
FRACTION: Allowed = ("from 0 to 1", lambda value: 0 <= value <= 1)
SWITCH: Allowed = ("0 or 1", lambda value: value in (0, 1))
# The types of their values, with a description.
KINDS = {
    int: (int, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a name"),
}


def up_to(high: float) -> Allowed:
    """Numbers above 0, up to a highest one."""
    return f"above 0, at most {high:g}", lambda value: 0 < value <= high


def from_to(low: float, high: float) -> Allowed:
    """Numbers from a lowest to a highest one."""
    return f"from {low:g} to {high:g}", lambda value: low <= value <= high


def one_of(*names: str) -> Allowed:
    """Some names."""
    return " or ".join(names), lambda value: value in names


def hparam(default: Any, unit: str, allowed: Allowed, meaning: str) -> Any:
    """A field with this metadata."""
    metadata = {"unit": unit, "allowed": allowed, "meaning": meaning}
    return dataclasses.field(default=default, metadata=metadata)


def describe(field: dataclasses.Field) -> str:
    """A line about a field."""
    default = field.default if field.type is str else f"{field.default:g}"
    unit = f" {field.metadata['unit']}".rstrip()
    allowed, meaning = field.metadata["allowed"][0], field.metadata["meaning"]
    return f"{field.name}={default}{unit} ({allowed})  {meaning}"


def problem_of(field: dataclasses.Field, value: Any) -> str:
    """What is wrong with a value; "" if it is allowed."""
    text, is_allowed = field.metadata["allowed"]
    kind, description = KINDS[field.type]
    if not isinstance(value, kind):
        expected = text if field.metadata["allowed"] is SWITCH else description
    elif field.type is not str and not abs(value) <= sys.float_info.max:
        expected = "finite"
    elif not is_allowed(value):
        expected = text
    else:
        return ""
    return f"{field.name} must be {expected}, but got {value}"


def parse_value(field: dataclasses.Field, text: str) -> Any:
    """The value in a text.

    Raises:
      UserError: it is not allowed.
    """
    try:
        value = field.type(text)
    except ValueError:
        value = text  # of a wrong type
    if problem := problem_of(field, value):
        raise UserError(problem)
    return value
