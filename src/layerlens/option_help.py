"""What `--help` says of an option beside its description: the values that it takes, and its default."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from layerlens.commands import Option
from layerlens.config.spellings import bytes_as_typed, bytes_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def described_argument(option: Option) -> str:
    """The help of an argument that is no config field."""
    if option.is_required:
        return f"{option.help} (required)"
    return option.help if option.default is None else f"{option.help} (default: {option.default})"


def described_field(info: FieldInfo) -> str:
    """The help of a config's field, with its default as a person would type it."""
    default = info.default if info.default is not PydanticUndefined else info.get_default(call_default_factory=True)
    if default is None or default == [] or default == {}:
        return str(info.description)
    if any(getattr(each, "func", None) is bytes_of for each in info.metadata):
        default = bytes_as_typed(default)
    return f"{info.description} (default: {_as_typed(default)})"


def shown_value(field: str, annotation: Any) -> str:
    """What stands for a field's value: the names on offer in braces, where it takes no others."""
    kind = _without_none(annotation)
    if get_origin(kind) is dict:
        return "NAME=NUMBER,..."
    names = _names_on_offer(kind)
    shown = f"{{{','.join(names)}}}" if names else field.upper()
    return f"{shown},..." if get_origin(kind) is list else shown


def _without_none(annotation: Any) -> Any:
    """The one type that an optional field has beside None, without its validators."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if type(None) in get_args(annotation):
        return _without_none(parts[0]) if len(parts) == 1 else annotation
    return parts[0] if hasattr(annotation, "__metadata__") else annotation


def _names_on_offer(kind: Any) -> list[str]:
    if kind is bool:
        return ["true", "false"]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [member.value for member in kind]
    if get_origin(kind) is Literal:
        return list(map(str, get_args(kind)))
    return _names_on_offer(get_args(kind)[0]) if get_origin(kind) is list else []


def _as_typed(default: Any) -> str:
    if isinstance(default, dict):
        return ",".join(f"{key}={value}" for key, value in default.items())
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, list) else str(default)
