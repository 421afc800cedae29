"""Push tokens: one row per device that an app registered.

Guarantees: every function is one statement in the caller's transaction; whoever reads tokens to send to them locks them
FOR SHARE, in the order of their ids, so that a device cannot change hands in between. Leaves to others: what a token
may look like (`engine.push.registration`), and committing.

Where a statement is composed here, its text is made of constants; whatever a caller supplies is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from db.filter_terms import all_of, compare, equal_any
from db.statements import statements

if TYPE_CHECKING:
    import asyncpg

UNREGISTERED_BY_APP = "UnregisteredByApp"
"""Why a token is inactive whose app signed it off: its user left the device."""
TOO_MANY_DEVICES = "TooManyDevices"
"""Why a token was given up whose user has registered `MAX_ACTIVE_TOKENS_OF_USER` others since."""
MAX_ACTIVE_TOKENS_OF_USER = 25
"""Phones, tablets and browsers of a person, and what their reinstallations left: a send goes to all of them, and keys
in apps may register any number."""
MAX_TOKENS_OF_USER = 100
"""Shown of one person: the newest. Every reinstallation leaves an old one behind."""

_SQL = statements("push_tokens")
_COLUMNS = (
    "t.project_id, t.push_token_id, t.platform, t.environment, t.token, t.web_push_keys, t.user_id, t.timezone,"
    " t.locale, t.app_version, t.active, t.invalidated_reason, t.owner_generation, t.registered_at, t.last_used_at"
)


class PushTokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A device. `web_push_keys` is JSON text; `owner_generation` counts its owners."""

    project_id: UUID
    push_token_id: UUID
    platform: str
    environment: str
    token: str
    web_push_keys: msgspec.Raw | None
    user_id: str | None
    timezone: str | None
    locale: str | None
    app_version: str | None
    active: bool
    invalidated_reason: str | None
    owner_generation: int
    registered_at: datetime
    last_used_at: datetime | None

    def __repr__(self) -> str:
        return f"PushTokenRecord(push_token_id={self.push_token_id}, platform={self.platform})"


class NewPushToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a device registers. `web_push_keys` is JSON text. None leaves what is known already."""

    push_token_id: UUID
    platform: str
    environment: str
    token: str
    web_push_keys: str | None
    user_id: str | None
    timezone: str | None
    locale: str | None
    app_version: str | None


class PushTokenFilter(msgspec.Struct, frozen=True):
    """Which tokens a list holds. None and empty ask for nothing in particular."""

    user_id: str | None = None
    platforms: tuple[str, ...] | None = None
    active: bool | None = None


class PushTokenList(msgspec.Struct, frozen=True):
    """A page of tokens, newest first. `has_more`: the range asked for holds more than the page."""

    tokens: tuple[PushTokenRecord, ...]
    has_more: bool


class TokenOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What sends showed of a token. `environment` is the one that worked, `reason` why it is dead.

    `dead_since`: not if it was registered later than this.
    """

    push_token_id: UUID
    is_used: bool = False
    environment: str | None = None
    reason: str | None = None
    dead_since: datetime | None = None


async def register_push_token(
    connection: asyncpg.Connection, *, project_id: UUID, new: NewPushToken, now: datetime
) -> PushTokenRecord:
    """Make a token, or bring back the one that is there: a new user gets it, with the next `owner_generation`."""
    row = await connection.fetchrow(
        _SQL["register_push_token"],
        project_id,
        new.push_token_id,
        new.platform,
        new.environment,
        new.token,
        new.web_push_keys,
        new.user_id,
        new.timezone,
        new.locale,
        new.app_version,
        now,
        UNREGISTERED_BY_APP,
    )
    return _record(row)


async def give_up_excess_tokens(connection: asyncpg.Connection, *, project_id: UUID, user_id: str) -> list[UUID]:
    """Leave a user the `MAX_ACTIVE_TOKENS_OF_USER` active tokens that were registered last; gives those given up."""
    rows = await connection.fetch(
        _SQL["give_up_excess_tokens"], project_id, user_id, MAX_ACTIVE_TOKENS_OF_USER, TOO_MANY_DEVICES
    )
    return [row["push_token_id"] for row in rows]


async def unregister_push_token(
    connection: asyncpg.Connection, *, project_id: UUID, token: str
) -> PushTokenRecord | None:
    """Sign a device off; None when it was never registered."""
    return _optional(await connection.fetchrow(_SQL["unregister_push_token"], project_id, token, UNREGISTERED_BY_APP))


async def read_push_tokens(
    connection: asyncpg.Connection, *, project_id: UUID, push_token_ids: Sequence[UUID]
) -> list[PushTokenRecord]:
    """Tokens by their ids, in no order; unknown ones are absent."""
    return _records(await connection.fetch(_SQL["read_push_tokens"], project_id, push_token_ids))


async def share_push_tokens(
    connection: asyncpg.Connection, *, project_id: UUID, push_token_ids: Sequence[UUID]
) -> list[PushTokenRecord]:
    """The same, locked FOR SHARE, by id."""
    return _records(await connection.fetch(_SQL["share_push_tokens"], project_id, push_token_ids))


async def share_active_tokens(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[PushTokenRecord]:
    """The active tokens of some users, locked FOR SHARE, by id."""
    return _records(await connection.fetch(_SQL["share_active_tokens"], project_id, user_ids))


async def share_token_of_device(
    connection: asyncpg.Connection, *, project_id: UUID, token: str
) -> PushTokenRecord | None:
    """What a device registered under this token, locked FOR SHARE."""
    return _optional(await connection.fetchrow(_SQL["share_token_of_device"], project_id, token))


async def find_owner_of_device(connection: asyncpg.Connection, *, project_id: UUID, token: str) -> str | None:
    """Whose a device is, before it registers again; None where nobody is known to use it."""
    user_id: str | None = await connection.fetchval(_SQL["find_owner_of_device"], project_id, token)
    return user_id


async def is_token_of_owner(
    connection: asyncpg.Connection, *, project_id: UUID, push_token_id: UUID, owner_generation: int
) -> bool:
    """Whether a device is active and still belongs to whom it belonged to when this was its `owner_generation`."""
    is_owners: bool = await connection.fetchval(_SQL["is_token_of_owner"], project_id, push_token_id, owner_generation)
    return is_owners


async def read_tokens_by_user(
    connection: asyncpg.Connection, *, project_id: UUID, user_ids: Sequence[str]
) -> list[PushTokenRecord]:
    """The newest `MAX_TOKENS_OF_USER` tokens of each user, inactive ones included, newest first."""
    return _records(await connection.fetch(_SQL["read_tokens_by_user"], project_id, user_ids, MAX_TOKENS_OF_USER))


async def list_push_tokens(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    from_end: bool = False,
    token_filter: PushTokenFilter,
) -> PushTokenList:
    """Up to `limit` tokens, newest first, between two ids in that order; `from_end` takes the last ones instead."""
    parameters: list[Any] = [project_id, limit + 1]
    terms = [
        compare("t.push_token_id <", after, parameters),
        compare("t.push_token_id >", before, parameters),
        compare("t.user_id =", token_filter.user_id, parameters),
        compare("t.active =", token_filter.active, parameters),
        equal_any("t.platform", token_filter.platforms, parameters),
    ]
    text = f"""
        SELECT {_COLUMNS}
        FROM push_tokens AS t
        WHERE t.project_id = $1 AND {all_of(terms)}
        ORDER BY t.push_token_id {"ASC" if from_end else "DESC"}
        LIMIT $2"""  # noqa: S608
    found = _records(await connection.fetch(text, *parameters))
    page = found[:limit]
    return PushTokenList(tuple(reversed(page)) if from_end else tuple(page), has_more=len(found) > limit)


async def settle_push_tokens(
    connection: asyncpg.Connection, *, project_id: UUID, outcomes: Sequence[TokenOutcome], now: datetime
) -> set[UUID]:
    """Keep what sends showed, one outcome per token; gives the tokens that were active and are no longer."""
    rows = await connection.fetch(
        _SQL["settle_push_tokens"],
        project_id,
        [each.push_token_id for each in outcomes],
        [each.is_used for each in outcomes],
        [each.environment for each in outcomes],
        [each.reason for each in outcomes],
        [each.dead_since for each in outcomes],
        now,
    )
    return {row["push_token_id"] for row in rows if row["is_invalidated"]}


def _optional(row: Mapping[str, Any] | None) -> PushTokenRecord | None:
    return None if row is None else _record(row)


def _records(rows: Iterable[Mapping[str, Any]]) -> list[PushTokenRecord]:
    return [_record(row) for row in rows]


def _record(row: Mapping[str, Any]) -> PushTokenRecord:
    values = dict(row.items())
    keys = values["web_push_keys"]
    values["web_push_keys"] = None if keys is None else msgspec.Raw(keys.encode())
    return PushTokenRecord(**values)
