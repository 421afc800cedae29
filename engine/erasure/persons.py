"""Whom a user id stands for: the ids and addresses under which something may be kept of one person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from db.erasure import AliasRecord, read_addresses, read_aliases
from db.personal_records import PersonIds
from db.records import ProjectRecord
from engine.accounts.storms import subjects_of
from engine.contacts import parse_email, parse_phone

if TYPE_CHECKING:
    import asyncpg

ReadTraits = Callable[[Sequence[str]], Awaitable[Iterable[msgspec.Raw]]]
"""The traits of the profiles of some users, those that are there."""


async def know_person(
    connection: asyncpg.Connection, project: ProjectRecord, user_id: str, read_traits: ReadTraits
) -> PersonIds:
    """Everything that stands for somebody whom nobody took over. Their own user id is the first."""
    project_id = project.project_id
    aliases = await read_aliases(connection, project_id=project_id, user_id=user_id)
    user_ids = (user_id, *_of_kind(aliases, "USER_ID"))
    known = await read_addresses(connection, project_id=project_id, user_ids=user_ids)
    said = [address for traits in await read_traits(user_ids) for address in addresses_in(msgspec.json.decode(traits))]
    addresses = tuple(sorted({*known, *said}))
    accounts = (
        subject.key for address in addresses for subject in subjects_of(project.salt, email=address, client=None)
    )
    return PersonIds(
        project_id=project_id,
        user_ids=user_ids,
        anonymous_ids=_of_kind(aliases, "ANONYMOUS_ID"),
        addresses=addresses,
        accounts=tuple(accounts),
    )


def addresses_in(traits: Mapping[str, Any]) -> set[str]:
    """The email address and the phone number of traits: as they were written, and as they are sent to. Pure."""
    found: set[str] = set()
    for trait, parse in (("email", parse_email), ("phone", parse_phone)):
        written = traits.get(trait)
        if isinstance(written, str) and written:
            parsed = parse(written)
            found |= {written.lower(), parsed.lower()} if isinstance(parsed, str) else {written.lower()}
    return found


def _of_kind(aliases: Sequence[AliasRecord], kind: str) -> tuple[str, ...]:
    return tuple(sorted(each.alias for each in aliases if each.kind == kind))
