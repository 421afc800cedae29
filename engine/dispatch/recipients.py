"""Whom mail and text messages are for: people and addresses, and whether anything may be sent to them.

An address is a mailbox or a number in E.164. Guarantees: one decision (`held_back`) for acceptance, where it makes the
answer's counts true, and for dispatch, where it counts; what it is made from is read under locks that keep it true
until the commit. Lock order: persons (sorted), then consents, then suppressions (sorted), all FOR SHARE. Leaves to
others: devices, which have a policy of their own (`engine.push.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.consents import read_consents
from db.profiles import read_profiles_by_user, share_profiles
from db.suppressions import read_suppressions
from engine.channels.base import Suppress
from engine.consent import ConsentPurpose, ConsentState, allows
from engine.contacts import Malformed, parse_email, parse_phone
from engine.dispatch.sending import MAX_RECIPIENTS
from engine.dispatch.values import Channel, SuppressedReason
from engine.errors import UserError
from engine.events import MAX_ID_CHARACTERS
from engine.project_settings import read_settings

if TYPE_CHECKING:
    import asyncpg


class Addresses(msgspec.Struct, frozen=True):
    """What a channel's addresses are called, which trait of a person has theirs, and how one is read."""

    plural: str
    trait: str
    parse: Callable[[str], str | Malformed]


EMAIL_ADDRESSES = Addresses("addresses", "email", parse_email)
PHONE_NUMBERS = Addresses("numbers", "phone", parse_phone)


class Recipient(msgspec.Struct, frozen=True):
    """Whom one delivery is for. A person without an address has None, and so has an address without a person."""

    user_id: str | None
    address: str | None


class Standing(msgspec.Struct, frozen=True):
    """What is known of a recipient. `consent` is None for an address that no person stands behind, `is_known` says
    whether the person is there; `suppression` is why the address is suppressed, if it is."""

    consent: ConsentState | None
    is_known: bool
    suppression: str | None


class Standings(msgspec.Struct, frozen=True):
    """What is known of some people and addresses; `unknown_allowed` is their project's policy."""

    unknown_allowed: bool
    known: frozenset[str]
    consents: Mapping[str, ConsentState]
    suppressions: Mapping[str, str]

    def held_back(self, user_id: str | None, address: str | None, *, is_system: bool = False) -> Suppress | None:
        """As `held_back`, of one recipient: a person with an address, or an address alone."""
        return held_back(self.of(user_id, address), unknown_allowed=self.unknown_allowed, is_system=is_system)

    def of(self, user_id: str | None, address: str | None) -> Standing:
        """Of one recipient."""
        consent = None if user_id is None else self.consents.get(user_id, ConsentState.UNKNOWN)
        suppression = None if address is None else self.suppressions.get(address.lower())
        return Standing(consent, is_known=user_id in self.known, suppression=suppression)


def held_back(standing: Standing, *, unknown_allowed: bool, is_system: bool = False) -> Suppress | None:
    """Why nothing may be sent, if so. Mail of the platform itself (a password reset) asks for no consent, and only
    what came back for good keeps it from an address."""
    if standing.consent is not None:
        if not standing.is_known:
            return Suppress(reason=SuppressedReason.ERASED)
        if not is_system and not allows(standing.consent, unknown_allowed=unknown_allowed):
            return Suppress(reason=SuppressedReason.CONSENT)
    if standing.suppression is None or (is_system and standing.suppression == SuppressedReason.UNSUBSCRIBED):
        return None
    return Suppress(reason=SuppressedReason(standing.suppression))


def check_recipients(
    addresses: Addresses, *, user_ids: Sequence[str], to: Sequence[str], has_audience: bool = False
) -> list[UserError]:
    """Why a send cannot be for these. Paths begin with `input`. `has_audience`: they need not be all whom it is for."""
    count = len(user_ids) + len(to)
    if count == 0 and not has_audience:
        message = f"Name somebody to send to: in userIds, or {addresses.plural} in to."
        return [UserError(message, "INVALID", ("input", "to"))]
    if count > MAX_RECIPIENTS:
        message = f"At most {MAX_RECIPIENTS} people and {addresses.plural} at once, and these are {count}."
        return [UserError(message, "LIMIT_EXCEEDED", ("input", "userIds" if user_ids else "to"))]
    return [*_check_user_ids(user_ids), *_check_addresses(addresses, to)]


async def find_recipients(
    connection: asyncpg.Connection,
    addresses: Addresses,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    to: Sequence[str],
) -> list[Recipient]:
    """People first, each address once: whoever is named twice gets one message."""
    people = list(dict.fromkeys(user_ids))
    stored = await _hold_addresses(connection, addresses, project_id, people)
    found = [Recipient(user_id, stored.get(user_id)) for user_id in people]
    found += [Recipient(None, address) for address in map(addresses.parse, to) if isinstance(address, str)]
    first: dict[str, Recipient] = {}
    for each in found:
        if each.address is not None:
            first.setdefault(each.address.lower(), each)
    return [each for each in found if each.address is None or first[each.address.lower()] is each]


async def find_people(
    connection: asyncpg.Connection,
    addresses: Addresses,
    *,
    project_id: UUID,
    user_ids: Sequence[str],
    taken: frozenset[str],
) -> list[Recipient]:
    """People, each for themselves: two with one address are two. Whose address is in `taken` (lower case) is absent."""
    stored = await _hold_addresses(connection, addresses, project_id, user_ids)
    found = [Recipient(user_id, stored.get(user_id)) for user_id in user_ids]
    return [each for each in found if each.address is None or each.address.lower() not in taken]


async def lock_standings(
    connection: asyncpg.Connection,
    channel: Channel,
    *,
    project_id: UUID,
    user_ids: Iterable[str | None],
    addresses: Iterable[str | None],
) -> Standings:
    """Lock and read. `channel` is EMAIL or SMS, of whose consents and suppressions it is.

    Raises `LookupError` for an unknown project.
    """
    people = sorted({user_id for user_id in user_ids if user_id is not None})
    lowered = sorted({address.lower() for address in addresses if address is not None})
    known = await share_profiles(connection, project_id=project_id, user_ids=people) if people else set()
    said = await read_consents(connection, project_id=project_id, user_ids=people, purposes=[ConsentPurpose(channel)])
    held = await read_suppressions(connection, project_id=project_id, channel=channel, addresses=lowered)
    settings = await read_settings(connection, project_id=project_id)
    return Standings(
        settings.unknown_allowed,
        frozenset(known),
        {each.user_id: ConsentState(each.state) for each in said},
        {each.address: each.reason for each in held},
    )


async def _hold_addresses(
    connection: asyncpg.Connection, addresses: Addresses, project_id: UUID, user_ids: Sequence[str]
) -> dict[str, str | None]:
    """By person. They are held first: of somebody whose erasure was waited for there is no address to write down."""
    if not user_ids:
        return {}
    await share_profiles(connection, project_id=project_id, user_ids=sorted(user_ids))
    profiles = await read_profiles_by_user(connection, project_id=project_id, user_ids=user_ids)
    return {each.user_id: _address_in(addresses, msgspec.json.decode(each.traits)) for each in profiles}


def _address_in(addresses: Addresses, traits: Mapping[str, Any]) -> str | None:
    written = traits.get(addresses.trait)
    parsed = addresses.parse(written) if isinstance(written, str) else None
    return parsed if isinstance(parsed, str) else None


def _check_user_ids(user_ids: Sequence[str]) -> list[UserError]:
    message = f"A user id has 1 to {MAX_ID_CHARACTERS} characters without NUL."
    return [
        UserError(message, "INVALID", ("input", "userIds", str(index)))
        for index, user_id in enumerate(user_ids)
        if not 1 <= len(user_id) <= MAX_ID_CHARACTERS or "\0" in user_id
    ]


def _check_addresses(addresses: Addresses, to: Sequence[str]) -> list[UserError]:
    return [
        UserError(parsed.message, "INVALID", ("input", "to", str(index)))
        for index, parsed in enumerate(map(addresses.parse, to))
        if isinstance(parsed, Malformed)
    ]
