"""Models, asked through the real session at an Ollama on loopback, with the accounts that projects have configured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

import engine.ai.models as models_module
from db.database import Database
from db.providers import list_providers
from engine.ai.models import LONGEST, Models
from engine.ai.ollama import MAX_ANSWER_BYTES
from engine.egress import Egress
from engine.providers.credentials import lock_credentials, store_credentials
from engine.vault import Vault
from engine.workflows.asking import ASK_TIMEOUT
from engine.workflows.asking import LEASE as ASKING_LEASE
from engine.workflows.definition import AiFlavor
from engine.workflows.state import AskModel, ModelAnswer, ModelLate, ModelUnavailable
from tests.integration.dispatch_support import START
from tests.integration.log_support import make_project, open_database
from tests.peers.ollama import MODEL, Action, Fails, HangsUp, OllamaPeer, Raw, Says, Stalls

VAULT = Vault(b"a secret of tests, long enough for it")
SOON = timedelta(milliseconds=150)


@dataclass
class Desk:
    """A project with a model server of its own."""

    database: Database
    models: Models
    peer: OllamaPeer
    project_id: UUID

    async def configure(self, vault: Vault = VAULT, *, secrets: dict[str, Any] | None = None, **settings: Any) -> None:
        async with self.database.transaction() as connection:
            held = await lock_credentials(connection, VAULT, project_id=self.project_id, kind="OLLAMA", now=START)
            changed = msgspec.structs.replace(
                held,
                settings=self.peer.settings(**settings),
                secrets=self.peer.secrets() if secrets is None else secrets,
            )
            await store_credentials(connection, vault, changed, project_id=self.project_id, now=START)

    async def ask(
        self,
        prompt: str = "Say hello.",
        *,
        flavor: AiFlavor = AiFlavor.GENERATE,
        model: str | None = None,
        json_mode: bool = False,
    ) -> ModelAnswer | ModelUnavailable | ModelLate:
        return await self.models.ask(self.project_id, AskModel(flavor, prompt, model, json_mode))

    async def last_error(self) -> str | None:
        async with self.database.connection() as connection:
            [record] = await list_providers(connection, project_id=self.project_id)
        return record.last_error


@asynccontextmanager
async def opened(url: str, *, api_key: str | None = None, **options: Any) -> AsyncIterator[Desk]:
    async with open_database(url) as database, OllamaPeer.running(api_key=api_key) as peer:
        models = Models(database, VAULT, Egress(allowed="127.0.0.0/8"), **options)
        try:
            yield Desk(database, models, peer, await make_project(database))
        finally:
            await models.close()


@pytest.fixture
async def desk(module_database_url: str) -> AsyncIterator[Desk]:
    async with opened(module_database_url, api_key="k3y") as desk:
        await desk.configure()
        yield desk


def reason(reply: object) -> str:
    assert isinstance(reply, ModelUnavailable), reply
    return reply.reason


async def test_a_text_is_asked_for_in_one_piece_with_the_projects_model_and_key(desk: Desk) -> None:
    assert await desk.ask("Say hello to {% Ada %}.") == ModelAnswer("An answer to: Say hello to {% Ada %}.")
    [asked] = desk.peer.asked
    assert (asked["model"], asked["stream"], "format" in asked) == (MODEL, False, False)
    assert [each["role"] for each in asked["messages"]] == ["system", "user"]
    assert asked["messages"][1]["content"] == "Say hello to {% Ada %}."
    assert asked["options"] == {"num_predict": 4096}


async def test_a_decision_is_asked_for_as_yes_or_no(desk: Desk) -> None:
    assert await desk.ask("Is it late?", flavor=AiFlavor.DECIDE, json_mode=True) == ModelAnswer("yes")
    [asked] = desk.peer.asked
    assert "format" not in asked
    assert asked["options"]["temperature"] == 0


@pytest.mark.parametrize(
    ("flavor", "json_mode", "temperature"), [(AiFlavor.EXTRACT, False, 0), (AiFlavor.GENERATE, True, None)]
)
async def test_where_json_is_wanted_the_server_is_asked_for_json(
    desk: Desk, flavor: AiFlavor, json_mode: bool, temperature: int | None
) -> None:
    assert await desk.ask("the order", flavor=flavor, json_mode=json_mode) == ModelAnswer('{"answer":"the order"}')
    [asked] = desk.peer.asked
    assert asked["format"] == "json"
    assert "JSON" in asked["messages"][0]["content"]
    assert asked["options"].get("temperature") == temperature


async def test_a_step_may_name_another_model(desk: Desk) -> None:
    desk.peer.models = frozenset({MODEL, "mistral"})
    await desk.ask(model="mistral")
    assert desk.peer.asked[0]["model"] == "mistral"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>Let me see.\nIt is late.</think>\n\nyes", "yes"),  # models that think aloud, on older servers
        ("I <think> so</think>", "I <think> so</think>"),  # only what is in front
        ("a\0b", "a\ufffdb"),
        ('{"a": "\\u0000"}', '{"a": "\\ufffd"}'),  # would be NUL once it is read
        ("naïve 😀", "naïve 😀"),
        ("", ""),
    ],
)
async def test_an_answer_is_what_can_be_stored(desk: Desk, said: str, text: str) -> None:
    desk.peer.script = [Says(said)]
    assert await desk.ask() == ModelAnswer(text)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (Fails(400), "The model server refused the question with HTTP 400."),
        (Fails(500), "The model server refused the question with HTTP 500."),
        (Fails(502, is_page=True), "The model server refused the question with HTTP 502."),
        (HangsUp(), "The model server could not be asked: The connection ended before an answer came."),
        (Raw(b"<html>hello</html>"), "What came back is not an answer of Ollama's API"),
        (Raw(b'{"message": {"role": "assistant", "content": "hel"}, "done": false}'), "What came back is not"),
        (Raw(b'{"message": {"content": "\xff"}, "done": true'), "What came back is not"),
        (Raw(b'{"message": {"content": "\\ud800"}, "done": true}'), "What came back is not"),
        (Says("x" * MAX_ANSWER_BYTES), "The model's answer has more than 256 KiB."),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_gives_no_answer_says_why(desk: Desk, action: Action, sentence: str) -> None:
    desk.peer.script = [action]
    assert reason(await desk.ask()).startswith(sentence)


@pytest.mark.parametrize("status", [408, 429, 503, 504])
async def test_a_server_that_is_busy_is_late(desk: Desk, status: int) -> None:
    desk.peer.script = [Fails(status)]
    assert await desk.ask() == ModelLate()
    assert await desk.last_error() is None


@pytest.mark.parametrize("action", [Stalls(), Stalls(b'{"message": {"content": "hel')], ids=["silent", "begun"])
async def test_a_model_that_takes_too_long_is_late(module_database_url: str, action: Action) -> None:
    async with opened(module_database_url, answer_timeout=SOON) as desk:
        await desk.configure()
        desk.peer.script = [action]
        assert await desk.ask() == ModelLate()


async def test_without_an_account_there_is_no_model(module_database_url: str) -> None:
    async with opened(module_database_url) as desk:
        assert reason(await desk.ask()).startswith("The project has no model: set one up with configureProvider")
        await desk.configure(model=MODEL, baseUrl=desk.peer.url)
        assert isinstance(await desk.ask(), ModelAnswer)
        assert "Authorization" not in repr(desk.peer.asked)


async def test_an_account_that_is_not_complete_or_not_readable_says_so(desk: Desk) -> None:
    await desk.configure(Vault(b"another secret, also long enough"))
    assert reason(await desk.ask()).startswith("The API key of the model server cannot be opened")
    async with desk.database.transaction() as connection:
        await connection.execute(
            "UPDATE providers SET settings = '{}', sealed_secrets = NULL WHERE project_id = $1", desk.project_id
        )
    assert reason(await desk.ask()).startswith("The project has no model")
    assert desk.peer.asked == []


async def test_the_guard_applies(module_database_url: str) -> None:
    async with opened(module_database_url) as desk:
        await desk.configure(baseUrl="http://10.0.0.1:11434")
        assert reason(await desk.ask()) == (
            "The model server could not be asked: This address may not be called: it is private."
        )


async def test_what_is_wrong_with_the_account_is_kept_until_a_model_answers(desk: Desk) -> None:
    await desk.configure(secrets={"apiKey": "wrong"})
    refused = reason(await desk.ask())
    assert refused == "The model server refused the API key: check secrets.apiKey of the provider."
    assert await desk.last_error() == refused
    await desk.configure(model="gone")
    unknown = reason(await desk.ask())
    assert unknown == "The model server has no model 'gone': pull it there, or name another."
    assert await desk.last_error() == unknown
    await desk.configure()
    await desk.ask()
    assert await desk.last_error() is None


async def test_a_model_that_only_one_step_names_is_not_the_accounts_fault(desk: Desk) -> None:
    assert reason(await desk.ask(model="x" * 512)).startswith(f"The model server has no model '{'x' * 64}'")
    assert await desk.last_error() is None


async def test_neither_prompt_nor_answer_nor_key_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    desk.peer.script = [Says("4242 4242"), Fails(400, "prompt was: 4711 4711")]
    await desk.ask("4711 4711")
    refused = reason(await desk.ask("4711 4711"))
    said = refused + "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert "model.asked" in said
    assert not {"4711", "4242", "k3y"} & set(said.replace("'", " ").split())


async def test_a_slow_model_of_one_project_holds_up_no_other(
    module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "PLACES_OF_A_PROJECT", 2)
    async with opened(module_database_url, place_timeout=SOON, answer_timeout=4 * SOON) as desk:
        await desk.configure()
        desk.peer.script = [Stalls(), Stalls()]
        asking = [asyncio.create_task(desk.ask()) for _ in range(3)]
        other = Desk(desk.database, desk.models, desk.peer, await make_project(desk.database))
        await other.configure()
        for _ in range(2):
            await desk.peer.arrivals.acquire()
        assert isinstance(await other.ask(), ModelAnswer)
        assert await asyncio.gather(*asking) == [ModelLate()] * 3
        # The third found no place in time, and was not sent.
        assert (desk.peer.most_under_way, len(desk.peer.asked)) == (3, 3)
        assert isinstance(await desk.ask(), ModelAnswer)


def test_who_waits_for_an_answer_waits_longer_than_it_may_take() -> None:
    assert LONGEST < ASK_TIMEOUT < ASKING_LEASE
