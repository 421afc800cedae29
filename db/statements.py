"""Named SQL statements, read from `db/sql/<family>.sql` once per process.

A file is a list of statements, each under a line `-- name: read_head` and one sentence that says what it gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statements(family: str) -> Mapping[str, str]:
    """The statements of `db/sql/<family>.sql` by name, ready to prepare."""
    text = files("db").joinpath("sql", f"{family}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return MappingProxyType({name: body.strip().removesuffix(";") for name, body in _pairs(parts[1:])})


def _pairs(parts: list[str]) -> list[tuple[str, str]]:
    return list(zip(parts[0::2], parts[1::2], strict=True))
