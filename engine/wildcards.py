"""Wildcard patterns over event types: `*` stands for any text, dots included (`push.*`, `*.failed`, `*`)."""

from __future__ import annotations


def split_pattern(pattern: str) -> tuple[str, ...]:
    """The texts around the wildcards. One text: there is no wildcard."""
    return tuple(pattern.split("*"))


def fits(name: str, parts: tuple[str, ...]) -> bool:
    """Whether the parts of a pattern occur in a name in order, the first at its start and the last at its end.

    Not a regular expression: with many wildcards one can be made to backtrack for ever.
    """
    if len(parts) == 1:
        return name == parts[0]
    first, *middle, last = parts
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    position, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
