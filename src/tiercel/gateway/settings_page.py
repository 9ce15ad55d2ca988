"""The tables of docs/configuration.md, written from the fields of `sections`: types, defaults, docstrings."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from msgspec import NODEFAULT
from msgspec.structs import fields

from tiercel.errors import DataError
from tiercel.gateway import sections
from tiercel.gateway._section_reader import description_of, is_secret
from tiercel.gateway.settings import DEFAULT_URLS, SECTIONS
from tiercel.gateway.settings_changes import RESTART

__all__ = ["settings_tables", "with_tables"]

BEGIN = "<!-- begin: settings -->"
END = "<!-- end: settings -->"


def with_tables(page: str) -> str:
    """A page with its tables of settings written anew.

    Args:
        page: Markdown with the two comments that the tables stand between.

    Raises:
        DataError: the page has no place for them.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise DataError(f"the page has no place for the settings; put {BEGIN} and {END} into it")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{settings_tables()}{END}{rest.partition(END)[2]}"


def settings_tables() -> str:
    """Every section as a heading, a sentence and a table."""
    told = _docstrings()
    parts: list[str] = []
    for name, kind in SECTIONS.items():
        head, _, about = (inspect.getdoc(kind) or "").partition(": ")
        parts += [f"### {head}", "", about[:1].upper() + about[1:], ""]
        parts += ["| setting | may be | default | what it is |", "|---|---|---|---|"]
        for field in fields(kind):
            if is_secret(field.type):
                continue
            restart = " Waits for a restart." if f"{name}.{field.name}" in RESTART else ""
            about = " ".join(told[kind.__name__, field.name].split()) + restart
            cells = [f"`{field.name}`", description_of(field.type), _default(field, kind), about]
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _default(field: Any, kind: type[Any]) -> str:
    if field.required:
        return "needed"
    if kind is sections.Provider and field.name == "url":
        return " or ".join(DEFAULT_URLS.values())
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (int, float)):
        return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return "`{}`" if isinstance(value, dict) else "`[]`"


def _docstrings() -> dict[tuple[str, str], str]:
    """The string below each field of a class, by class and field: Python keeps none of them at run time."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(sections)).body:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        found[node.name, name] = words
                    case _:
                        pass
    return found
