"""Bounds of the texts that clients give."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import UserError


def check_text(
    value: str | None, name: str, *, path: tuple[str, ...], most: int, least: int = 1
) -> Iterator[UserError]:
    """What is wrong with a text; nothing without one. `most` and `least` are characters."""
    if value is None:
        return
    if not least <= len(value) <= most:
        yield UserError(f"{name} must have {least} to {most} characters.", "INVALID", path)
    elif "\0" in value:
        yield UserError(f"{name} contains a NUL character.", "INVALID", path)
    elif any("\ud800" <= character <= "\udfff" for character in value):
        yield UserError(f"{name} contains half of a surrogate pair.", "INVALID", path)
