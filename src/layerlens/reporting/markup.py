"""HTML that is escaped unless it says that it is HTML already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is safe to put into a page as it is."""

    __slots__ = ()


Child = str | int | Markup | None


def join(children: Iterable[Child], between: str = "") -> Markup:
    """Put children one after another; plain text is escaped, None is left out."""
    return Markup(between.join(_safe(child) for child in children if child is not None))


def element(tag: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """Build one element.

    Args:
        tag: Tag name.
        children: Escaped unless they are `Markup`; None is left out.
        attributes: `class_` becomes `class`, `aria_label` becomes `aria-label`; True is a bare attribute, None and
            False are left out.
    """
    head = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if tag in _VOID:
        return Markup(f"<{tag}{head}>")
    return Markup(f"<{tag}{head}>{join(children)}</{tag}>")


_VOID = {"meta", "br", "wbr"}


def _attribute(key: str, value: str | int | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'


def _safe(child: Child) -> str:
    return child if isinstance(child, Markup) else escape(str(child), quote=True)
