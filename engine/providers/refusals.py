"""What a provider refuses a whole account for, kept where the customer looks: at the provider.

Guarantees: an account shows what it was last refused for, and nothing any more once something is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from db.providers import set_provider_error
from engine.channels.base import Accepted, Deferred, Outcome

if TYPE_CHECKING:
    import asyncpg

MAX_ERROR_CHARACTERS = 500
"""Of a provider's last error: a sentence or two."""


async def settle_accounts(
    connection: asyncpg.Connection, project_id: UUID, outcomes: Iterable[tuple[UUID | None, Outcome]]
) -> None:
    """Keep the last word about each provider among the outcomes of a round. A provider of None is no customer's."""
    said: dict[UUID, str | None] = {}
    for provider_id, outcome in outcomes:
        if provider_id is None:
            continue
        if isinstance(outcome, Accepted):
            said[provider_id] = None
        elif isinstance(outcome, Deferred) and outcome.is_account:
            said[provider_id] = f"{outcome.error.message} {outcome.error.hint or ''}".strip()
    for provider_id, sentence in sorted(said.items()):
        await note_provider_error(connection, project_id, provider_id, sentence)


async def note_provider_error(
    connection: asyncpg.Connection, project_id: UUID, provider_id: UUID, sentence: str | None
) -> None:
    """Keep what the provider refuses the whole account for, or with None that it does not. No secrets in it."""
    last_error = None if sentence is None else sentence.replace("\0", "")[:MAX_ERROR_CHARACTERS]
    await set_provider_error(connection, project_id=project_id, provider_id=provider_id, last_error=last_error)
