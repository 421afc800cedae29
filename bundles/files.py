"""A bundle in a file, or on standard input and output (`-`).

Guarantees: what is written is the same bytes for the same bundle, and replaces a file as a whole; a file that already
holds a bundle keeps the `$schema` that it has, so that exports of two deployments do not differ in that line. What is
read is JSON to the letter: a member that is there twice, NaN and the like are refused, not guessed at.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from bundles.errors import BundleMistakeError

STANDARD = "-"
"""Stands for standard input or output."""
MAX_BYTES = 16 * 1024 * 1024
"""Of a file: several times of what a gateway takes, blanks included."""
SCHEMA_KEY = "$schema"


def read_bundle(name: str) -> Any:
    """The JSON of a file. Raises `BundleMistakeError`."""
    text = _read(name)
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BundleMistakeError(
            f"{name} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleMistakeError(f"{name} is no JSON: {error}.") from None


def write_bundle(name: str, bundle: dict[str, Any]) -> None:
    """Replace a file. Raises `BundleMistakeError`."""
    if name == STANDARD:
        sys.stdout.write(bundle_text(bundle))
        return
    path = Path(name)
    kept = _schema_of(path)
    text = bundle_text(bundle if kept is None else {**bundle, SCHEMA_KEY: kept})
    try:
        with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(text)
        Path(file.name).chmod(0o666 & ~_umask())
        os.replace(file.name, path)
    except OSError as error:
        raise BundleMistakeError(f"{name} cannot be written: {error.strerror}.") from None


def bundle_text(bundle: dict[str, Any]) -> str:
    """As it stands in a file: in the order in which the gateway gave it."""
    return json.dumps(bundle, indent=2, ensure_ascii=False) + "\n"


def _read(name: str) -> str:
    try:
        if name == STANDARD:
            read = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                read = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BundleMistakeError(f"{name} cannot be read: {error.strerror}.") from None
    if len(read) > MAX_BYTES:
        raise BundleMistakeError(f"{name} is larger than {MAX_BYTES // 2**20} MiB: that is no bundle.")
    try:
        return read.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BundleMistakeError(f"{name} is not in UTF-8.") from None


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice)} is there twice in one object")
    return found


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON knows")


def _schema_of(path: Path) -> str | None:
    """The `$schema` of a bundle that is there already."""
    try:
        held = read_bundle(str(path))
    except BundleMistakeError:
        return None
    schema = held.get(SCHEMA_KEY) if isinstance(held, dict) else None
    return schema if isinstance(schema, str) else None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
