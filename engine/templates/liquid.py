"""Rendering Liquid: subjects, bodies and texts of messages, and what webhook steps send.

Guarantees: a template sees the values it is given and nothing else; it ends within bounds (engine/templates/bounds.py);
in HTML every value is escaped, unless the template itself says `safe`; what is missing is written as nothing, and
reported. Leaves to others: finding the person and the event, and checking templates when they are saved.

    user.*      traits of the person, and `id`        trait.*   the traits alone
    profile.*   id, userId, anonymous, traits, createdAt, lastSeenAt
    event.*     properties of the event; where it has none of that name, its envelope (eventType, timestamp, userId …)
    run.*       the workflow run, in workflows        now       the time of the rendering, UTC
    anything else comes from `vars`, at the top level
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from liquid.exceptions import LiquidError, ResourceLimitError
from liquid.template import BoundTemplate

from db.records import EventRecord, ProfileRecord
from engine.node_ids import NodeKind, write_event_id, write_node_id
from engine.templates.bounds import (
    MAX_OUTPUT_BYTES,
    BoundedContext,
    BoundedEnvironment,
    unaltered_output,
)

MAX_TEMPLATE_BYTES = 256 * 1024
"""Of one subject, body or text."""
CACHED_TEMPLATES = 128
MAX_CACHED_CHARACTERS = 64 * 1024
"""Longer ones are parsed each time, so that the cache stays small."""
MAX_MISSING = 20
"""Paths reported of one rendering."""
_MAX_SENTENCE = 200
"""Characters of what the parser says: it may quote a line."""

_HTML = BoundedEnvironment(autoescape=True)
_TEXT = BoundedEnvironment(autoescape=False)


class CannotRender(Exception):
    """The template cannot be rendered with these values. The text says why and quotes none of them."""


class Rendered(msgspec.Struct, frozen=True):
    """A finished text. `missing`: paths that were written out and are not there, e.g. `trait.first_name`."""

    text: str
    missing: tuple[str, ...] = ()


class TemplateValues(msgspec.Struct, frozen=True):
    """What a template sees, by root. Made by `template_values`."""

    roots: Mapping[str, Any]


def template_values(
    *,
    now: datetime,
    user_id: str | None = None,
    profile: ProfileRecord | None = None,
    event: EventRecord | None = None,
    variables: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> TemplateValues:
    """Put the roots together; names of `variables` never hide them. `now` is business time."""
    traits: dict[str, Any] = {} if profile is None else msgspec.json.decode(profile.traits)
    roots: dict[str, Any] = {
        "user": traits | ({} if user_id is None else {"id": user_id}),
        "profile": {} if profile is None else _profile(profile, traits),
        "trait": traits,
        "event": {} if event is None else _event(event),
        "now": now,
    }
    if run is not None:
        roots["run"] = run
    return TemplateValues({**(variables or {}), **roots})


def check_template(text: str) -> str | None:
    """Why this is not a template, in a sentence; None when it is one."""
    if len(text.encode()) > MAX_TEMPLATE_BYTES:
        return f"A template has at most {MAX_TEMPLATE_BYTES // 1024} KiB."
    try:
        template = _parsed(text, html=False)
        used = () if template is None else template.analyze().filters
    except CannotRender as error:
        return str(error)
    unknown = next((name for name in used if name not in _TEXT.filters), None)
    return None if unknown is None else f"Not a Liquid template: there is no filter {unknown[:_MAX_SENTENCE]}."


def render(text: str, values: TemplateValues, *, html: bool = False) -> Rendered:
    """Fill a template in. `html`: values are escaped. Raises `CannotRender`."""
    template = _parsed(text, html=html)
    if template is None:
        return Rendered(text)
    context = BoundedContext(template, globals=values.roots)
    output = unaltered_output(MAX_OUTPUT_BYTES)
    try:
        template.render_with_context(context, output)
    except ResourceLimitError as error:
        raise CannotRender(f"The template {error.message}{_line(error)}.") from None
    except LiquidError as error:
        raise CannotRender(f"The template fails{_line(error)}: {type(error).__name__}.") from None
    except Exception as error:
        # Whatever a value makes the library raise (a date out of range, a comparison): it is this template's fault.
        raise CannotRender(f"The template fails: {type(error).__name__}.") from None
    # A decoding filter can make a NUL, which nothing stores and no message holds.
    return Rendered(output.getvalue().replace("\0", ""), tuple(context.missing)[:MAX_MISSING])


def _parsed(text: str, *, html: bool) -> BoundTemplate | None:
    """None for a text without any markup, which is most of them. Raises `CannotRender`."""
    if "{{" not in text and "{%" not in text:
        return None
    if len(text) > MAX_CACHED_CHARACTERS:
        return _parse(text, html)
    return _parse_once(text, html)


def _parse(text: str, html: bool) -> BoundTemplate:
    try:
        return (_HTML if html else _TEXT).from_string(text)
    except LiquidError as error:
        raise CannotRender(f"Not a Liquid template{_line(error)}: {str(error.message)[:_MAX_SENTENCE]}.") from None


_parse_once = lru_cache(maxsize=CACHED_TEMPLATES)(_parse)


def _line(error: LiquidError) -> str:
    found = error.context()
    return "" if found is None else f" in line {found[0]}"


def _profile(profile: ProfileRecord, traits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": write_node_id(NodeKind.PROFILE, profile.profile_id),
        "userId": profile.user_id,
        "anonymous": profile.anonymous,
        "traits": traits,
        "createdAt": _instant(profile.created_at),
        "lastSeenAt": None if profile.last_seen_at is None else _instant(profile.last_seen_at),
    }


def _event(event: EventRecord) -> dict[str, Any]:
    properties: dict[str, Any] = msgspec.json.decode(event.properties)
    envelope: dict[str, Any] = {
        "id": write_event_id(event.project_id, event.seq),
        "seq": event.seq,
        "key": event.key,
        "module": event.module,
        "eventType": event.event_type,
        "timestamp": _instant(event.timestamp),
        "receivedAt": _instant(event.received_at),
        "userId": event.user_id,
        "anonymousId": event.anonymous_id,
        "properties": properties,
        "context": msgspec.json.decode(event.context),
    }
    return envelope | properties


def _instant(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
