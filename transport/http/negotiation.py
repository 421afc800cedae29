"""Which media type a client is answered in, and whether what it sent is in one we read.

`Accept` is weighed as RFC 9110 §12.5.1 says: the most specific range that matches a type gives its quality, 0 means
never, names have no case. Between types of equal quality the client's order decides, and where one range covers several
(`*/*`) the server's. A request without `Accept` takes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class MediaType(Enum):
    """What a GraphQL request can be answered in, the server's favourite first.

    JSON comes first although the other type is the newer one: clients that say `*/*` were written before it.
    """

    JSON = "application/json"
    GRAPHQL_RESPONSE = "application/graphql-response+json"
    EVENT_STREAM = "text/event-stream"


RESPONSES = (MediaType.JSON, MediaType.GRAPHQL_RESPONSE)
EVERYTHING = (*RESPONSES, MediaType.EVENT_STREAM)


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of `Accept`. `*` stands for any; `quality` is from 0 to 1."""

    type: str
    subtype: str
    quality: float

    def specificity(self, media_type: MediaType) -> int:
        """0 if this range does not cover the type, and the more the closer it comes."""
        main, _, sub = media_type.value.partition("/")
        if self.type == main and self.subtype == sub:
            return 3
        if self.type == main and self.subtype == "*":
            return 2
        return 1 if self.type == self.subtype == "*" else 0


CACHED_LENGTH = 256
"""Characters of an `Accept` header whose choice is remembered. Clients' are shorter and always the same."""


def choose_media_type(accept: str | None, offers: tuple[MediaType, ...] = RESPONSES) -> MediaType | None:
    """The offer that the client likes best; None if it accepts none of them."""
    if accept is None:
        return offers[0]
    return _remembered_choice(accept, offers) if len(accept) <= CACHED_LENGTH else _choice(accept, offers)


def parse_accept(accept: str) -> tuple[MediaRange, ...]:
    """The media ranges of an `Accept` header in its order. Elements that are none are left out."""
    return tuple(found for element in _split(accept, ",") if (found := _media_range(element)))


def is_json(content_type: str | None) -> bool:
    """Whether a request body of this `Content-Type` is JSON in UTF-8. Nothing like it counts, only it."""
    if content_type is None:
        return False
    name, *parameters = _split(content_type, ";")
    if name.strip().lower() != MediaType.JSON.value:
        return False
    return all(_charset(parameter) in (None, "utf-8", "utf8") for parameter in parameters)


def _choice(accept: str, offers: tuple[MediaType, ...]) -> MediaType | None:
    ranges = parse_accept(accept)
    weights = [_weigh(ranges, offer) for offer in offers]
    quality, _, index = min((-quality, position, index) for index, (quality, position) in enumerate(weights))
    return offers[index] if quality < 0 else None


_remembered_choice = lru_cache(maxsize=256)(_choice)


def _weigh(ranges: Sequence[MediaRange], media_type: MediaType) -> tuple[float, int]:
    """Quality and position of the range that speaks about the type."""
    best = (0, 0.0, len(ranges))
    for position, media_range in enumerate(ranges):
        specificity = media_range.specificity(media_type)
        if specificity > best[0]:
            best = (specificity, media_range.quality, position)
    return best[1], best[2]


def _media_range(element: str) -> MediaRange | None:
    name, *parameters = _split(element, ";")
    main, slash, sub = name.strip().lower().partition("/")
    if not (main and slash and sub):
        return None
    quality = _quality(parameters)
    return None if quality is None else MediaRange(main, sub, quality)


def _quality(parameters: Sequence[str]) -> float | None:
    """1 where none is given, None where it is no number from 0 to 1."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value.strip())
            except ValueError:
                return None
            return quality if 0 <= quality <= 1 else None
    return 1.0


def _charset(parameter: str) -> str | None:
    name, _, value = parameter.partition("=")
    return value.strip().strip('"').lower() if name.strip().lower() == "charset" else None


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that do not stand in a quoted string."""
    if '"' not in text:
        return text.split(separator)
    parts, start, quoted, escaped = [], 0, False, False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
