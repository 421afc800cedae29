"""Models, as the runner of workflows asks them: each project its own, through the account that it has configured.

Guarantees: at most `PLACES` questions are under way in a process, and at most `PLACES_OF_A_PROJECT` of one project, so
that a slow model of one holds up no other; `ask` ends within `LONGEST` but for the database, and never raises for what
a model does. What is wrong with the account as a whole is kept at the provider until a model answers again. Logs say
how long and how it ended, never what was asked or answered.
Leaves to others: asking again, and what an answer means (`engine.workflows.transition`). Stops with `close`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID
from weakref import WeakValueDictionary

from db.database import Database
from db.providers import ProviderRecord, read_providers_by_kind
from engine.ai.ollama import OllamaAccount, Refusal, Reply, ask_ollama
from engine.channels.http import HttpClient
from engine.egress import Egress
from engine.providers.credentials import open_credentials
from engine.providers.refusals import note_provider_error
from engine.providers.shapes import missing
from engine.providers.values import ProviderKind
from engine.vault import CannotOpen, Vault
from engine.workflows.state import AskModel, ModelAnswer, ModelLate, ModelUnavailable

PLACES = 64
"""Questions of a process at once: each is a connection and an answer in memory."""
PLACES_OF_A_PROJECT = 16
"""More than a server of a size that one project has answers at once; it keeps a queue of its own besides."""
PLACE_TIMEOUT = timedelta(seconds=30)
"""For a place among them."""
ANSWER_TIMEOUT = timedelta(seconds=30)
"""For an answer once it was asked: what takes longer is asked again later, when the model is loaded."""
LONGEST = PLACE_TIMEOUT + ANSWER_TIMEOUT
"""How long `ask` may take. Whoever holds a lease meanwhile needs one that is longer."""

_NOT_CONFIGURED = Refusal(
    "The project has no model: set one up with configureProvider (OLLAMA, with baseUrl and model)."
)
_UNREADABLE = Refusal("The API key of the model server cannot be opened: give it again with configureProvider.")

_logger = logging.getLogger(__name__)


class Models:
    """One per worker process."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        egress: Egress,
        *,
        place_timeout: timedelta = PLACE_TIMEOUT,
        answer_timeout: timedelta = ANSWER_TIMEOUT,
    ) -> None:
        self._database = database
        self._vault = vault
        self._http = HttpClient(egress)
        self._place_timeout = place_timeout
        self._answer_timeout = answer_timeout
        self._places = asyncio.Semaphore(PLACES)
        # Kept by those who wait for them or hold them.
        self._of_projects: WeakValueDictionary[UUID, asyncio.Semaphore] = WeakValueDictionary()

    async def ask(self, project_id: UUID, effect: AskModel) -> ModelAnswer | ModelUnavailable | ModelLate:
        """One question, outside of any transaction. Raises what the database raises."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._place_timeout.total_seconds()):
                    await held.enter_async_context(self._places_of(project_id))
                    await held.enter_async_context(self._places)
            except TimeoutError:
                return ModelLate()
            reply = await self._ask(project_id, effect)
        return ModelUnavailable(reply.reason) if isinstance(reply, Refusal) else reply

    async def close(self) -> None:
        """Close connections; what is under way ends as unavailable."""
        await self._http.close()

    def _places_of(self, project_id: UUID) -> asyncio.Semaphore:
        return self._of_projects.setdefault(project_id, asyncio.Semaphore(PLACES_OF_A_PROJECT))

    async def _ask(self, project_id: UUID, effect: AskModel) -> Reply:
        async with self._database.connection() as connection:
            records = await read_providers_by_kind(connection, project_id=project_id, kinds=[ProviderKind.OLLAMA])
        if not records:
            return _NOT_CONFIGURED
        account = _account_of(self._vault, records[0])
        if isinstance(account, Refusal):
            return account
        clock = asyncio.get_running_loop().time
        begun = clock()
        reply = await ask_ollama(self._http, account, effect, within=self._answer_timeout)
        _logger.info(
            "model.asked",
            extra={
                "project_id": str(project_id),
                "reply": type(reply).__name__,
                "seconds": round(clock() - begun, 3),
            },
        )
        await self._note(project_id, records[0], reply)
        return reply

    async def _note(self, project_id: UUID, record: ProviderRecord, reply: Reply) -> None:
        """Keep what is wrong with the account, or that nothing is, when that is news."""
        if isinstance(reply, Refusal) and reply.is_account:
            sentence: str | None = reply.reason
        elif isinstance(reply, ModelAnswer):
            sentence = None
        else:
            return
        if sentence != record.last_error:
            async with self._database.transaction() as connection:
                await note_provider_error(connection, project_id, record.provider_id, sentence)


def _account_of(vault: Vault, record: ProviderRecord) -> OllamaAccount | Refusal:
    try:
        held = open_credentials(vault, record)
    except CannotOpen:
        return _UNREADABLE
    if missing(held.kind, held.settings, held.secrets):
        return _NOT_CONFIGURED
    return OllamaAccount(held.settings["baseUrl"], held.settings["model"], held.secrets.get("apiKey"))
