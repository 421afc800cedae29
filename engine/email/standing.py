"""Reading what is known of the recipients of mail, under locks that keep it true until the commit.

Lock order: persons (sorted), then consents, then suppressions (sorted), all FOR SHARE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from db.consents import read_consents
from db.profiles import share_profiles
from db.suppressions import read_suppressions
from engine.consent import ConsentPurpose, ConsentState
from engine.dispatch.values import Channel
from engine.email.policy import Standing

if TYPE_CHECKING:
    import asyncpg


class Standings(msgspec.Struct, frozen=True):
    """What is known of some people and addresses."""

    known: frozenset[str]
    consents: Mapping[str, ConsentState]
    suppressions: Mapping[str, str]

    def of(self, user_id: str | None, address: str | None) -> Standing:
        """Of one recipient: a person with an address, or an address alone."""
        consent = None if user_id is None else self.consents.get(user_id, ConsentState.UNKNOWN)
        suppression = None if address is None else self.suppressions.get(address.lower())
        return Standing(consent, is_known=user_id in self.known, suppression=suppression)


async def lock_standings(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Iterable[str | None],
    addresses: Iterable[str | None],
) -> Standings:
    """Lock and read."""
    people = sorted({user_id for user_id in user_ids if user_id is not None})
    lowered = sorted({address.lower() for address in addresses if address is not None})
    known = await share_profiles(connection, project_id=project_id, user_ids=people) if people else set()
    said = await read_consents(connection, project_id=project_id, user_ids=people, purposes=[ConsentPurpose.EMAIL])
    held = await read_suppressions(connection, project_id=project_id, channel=Channel.EMAIL, addresses=lowered)
    return Standings(
        frozenset(known),
        {each.user_id: ConsentState(each.state) for each in said},
        {each.address: each.reason for each in held},
    )
