"""Terms that filters of every lane are made of. Columns are constants of ours; values travel as parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def bind(value: object, parameters: list[Any]) -> str:
    """Append a value to the parameters; returns what stands for it in the text."""
    parameters.append(value)
    return f"${len(parameters)}"


def all_of(terms: Sequence[str]) -> str:
    """Every term that says something; `true` when none does."""
    return " AND ".join(term for term in terms if term) or "true"


def compare(test: str, value: object, parameters: list[Any]) -> str:
    """`test`, as in `e.seq >`, against a value; empty without one."""
    return "" if value is None else f"{test} {bind(value, parameters)}"


def equal_any(column: str, values: Sequence[object] | None, parameters: list[Any]) -> str:
    """The column holds one of the values; empty when there is no list."""
    return "" if values is None else f"{column} = ANY({bind(list(values), parameters)})"


def like_any(column: str, names: Sequence[str] | None, parameters: list[Any]) -> str:
    """The column holds one of the names, wildcards (`push.*`) allowed; NULL is none of them. Empty without a list."""
    if names is None:
        return ""
    exact = [name for name in names if "*" not in name]
    patterns = [_like(name) for name in names if "*" in name]
    if not patterns:
        return equal_any(column, exact, parameters)
    likes = f"{column} LIKE ANY({bind(patterns, parameters)})"
    return f"({equal_any(column, exact, parameters)} OR {likes})" if exact else likes


def _like(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
