"""Values that this viewer may not see: they stand in a field, and reading the field is refused.

So what depends on the viewer is decided once, where a record becomes its type, and the fields themselves stay plain
attributes, which cost nothing to read.
"""

from __future__ import annotations

from typing import Any, Final

from engine.errors import Forbidden


class Withheld:
    """Stands where a value would be."""


WITHHELD: Final[Any] = Withheld()
"""The value of a field that is null with FORBIDDEN. `Any`, because it takes the place of every type."""


def read_attribute(source: Any, name: str) -> object:
    """How a plain field is read. Raises `Forbidden` where the value is withheld."""
    value = getattr(source, name)
    if value is WITHHELD:
        raise Forbidden("This needs the role VIEWER: a key in an app sees ids, and what it wrote itself.")
    return value
