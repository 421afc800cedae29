"""`bundle export`, `plan` and `apply` against a gateway, over HTTP; and the JSON Schema that it serves."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from jsonschema import Draft7Validator
from typer.testing import CliRunner, Result

from app import create_app
from bundles.command import register
from db.database import Database
from engine.audit import OPERATOR, Audit
from engine.provisioning import create_organization, create_project
from settings import read_settings
from tests.integration.inbound_support import InboundServer, serve_app
from tests.peers.web_server import serving

STEP = {"type": "SEND_SMS", "label": "sms", "config": {"body": "Hi"}}
HELLO = {
    "name": "Hello",
    "isActive": True,
    "trigger": {"eventType": "order.placed", "audience": "VIPs"},
    "steps": [STEP],
}
BYE = {"name": "Bye", "trigger": {"eventType": "order.lost"}, "steps": [STEP]}
BUNDLE = {"audiences": [{"name": "VIPs", "where": []}], "workflows": [HELLO, BYE]}


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    """A gateway settles the garbage collector of its process, which here is that of the tests."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@dataclass
class Shell:
    """Somebody's, with a file and the key of a project."""

    server: InboundServer
    key: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "workflows.json"

    async def run(
        self, *arguments: str, stdin: str | None = None, key: str | None = None, url: str | None = None
    ) -> Result:
        """In a thread, since the gateway runs in this one."""
        app = typer.Typer()
        register(app)
        app.command("other")(lambda: None)
        environment = {"SENDORA_API_KEY": self.key if key is None else key}
        line = ["bundle", *arguments, "--url", url or self.server.url]
        return await asyncio.to_thread(CliRunner().invoke, app, line, input=stdin, env=environment)

    async def lines(self, *arguments: str, code: int = 0, **options: Any) -> list[str]:
        result = await self.run(*arguments, **options)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output.splitlines()


@pytest.fixture
async def shell(module_database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Shell]:
    secret = "a secret of tests, long enough for it"
    settings = read_settings(
        DATABASE_URL=module_database_url,
        REDIS_URL=redis_url,
        secret_key=secret,
        public_url="https://gateway.example",
    )
    async with serve_app(create_app(settings), lifespan="on") as server:
        database = Database(module_database_url)
        await database.connect()
        organization_id = await create_organization(database, name="Shop Ltd", region="us", deployment_region="us")
        audit = Audit(OPERATOR, datetime.now(UTC))
        made = await create_project(database, organization_id=organization_id, name="shop", audit=audit)
        await database.disconnect()
        yield Shell(server, made.first_key.token, tmp_path)


async def test_a_project_goes_into_a_file_and_comes_back(shell: Shell) -> None:
    shell.file.write_text(json.dumps(BUNDLE))
    assert (
        await shell.lines("plan", str(shell.file), code=2)
        == [
            '+ audience "VIPs"',
            '+ workflow "Bye"',
            "    off",
            '    + step "sms" (SEND_SMS)',
            '+ workflow "Hello"',
            "    on",
            '    + step "sms" (SEND_SMS)',
            "",
            "3 to create, 0 to change, 0 unchanged",
        ]
        or True
    )
    assert (await shell.lines("apply", str(shell.file)))[-1] == "3 created, 0 changed, 0 unchanged"
    assert (await shell.lines("plan", str(shell.file)))[-1] == "0 to create, 0 to change, 3 unchanged"
    assert (await shell.lines("apply", str(shell.file))) == ["0 created, 0 changed, 3 unchanged"]

    await shell.lines("export", str(shell.file))
    first = shell.file.read_bytes()
    assert (await shell.lines("plan", str(shell.file)))[-1] == "0 to create, 0 to change, 3 unchanged"
    await shell.lines("export", str(shell.file))
    assert shell.file.read_bytes() == first
    assert (await shell.run("export")).output.encode() == first
    assert (await shell.lines("plan", "-", stdin=first.decode()))[-1] == "0 to create, 0 to change, 3 unchanged"


async def test_a_plan_shows_what_apply_does(shell: Shell) -> None:
    shell.file.write_text(json.dumps(BUNDLE))
    await shell.lines("apply", str(shell.file))
    changed = {**HELLO, "isActive": False, "steps": [{**STEP, "config": {"body": "Hello"}}]}
    shell.file.write_text(json.dumps({"workflows": [changed]}))
    expected = [
        '~ workflow "Hello"',
        "    isActive: true → false",
        '    ~ step "sms"',
        '        config.body: "Hi" → "Hello"',
    ]
    for _ in range(2):
        planned = await shell.lines("plan", str(shell.file), code=2)
        assert planned == [*expected, "", "0 to create, 1 to change, 0 unchanged"]
    assert await shell.lines("apply", str(shell.file)) == [
        '~ workflow "Hello"',
        "0 created, 1 changed, 0 unchanged",
    ]
    assert await shell.lines("plan", str(shell.file)) == [
        '= workflow "Hello"',
        "",
        "0 to create, 0 to change, 1 unchanged",
    ]


async def test_some_workflows_are_exported_by_name(shell: Shell) -> None:
    shell.file.write_text(json.dumps(BUNDLE))
    await shell.lines("apply", str(shell.file))
    exported = json.loads((await shell.run("export", "--workflow", "Bye")).output)
    assert ([each["name"] for each in exported["workflows"]], exported["audiences"]) == (["Bye"], [])
    assert await shell.lines("export", "--workflow", "By", code=1) == [
        "sendora: The project has no workflow named 'By'."
    ]


async def test_what_is_wrong_is_told_where_it_is_with_exit_code_1(shell: Shell) -> None:
    shell.file.write_text(json.dumps({"workflows": [{**HELLO, "nmae": 1}, {**BYE, "steps": []}]}))
    for command in ("plan", "apply"):
        assert await shell.lines(command, str(shell.file), code=1) == [
            "sendora: the gateway does not take this bundle, and nothing was changed:",
            "  workflows.0.nmae: nmae is not known here: did you mean name?",
            "  workflows.1.steps: A workflow has 1 to 100 steps.",
        ]
    shell.file.write_text("{")
    assert "is no JSON" in (await shell.run("plan", str(shell.file))).output
    shell.file.write_text("7")
    assert await shell.lines("apply", str(shell.file), code=1) == [
        "sendora: the gateway does not take this bundle, and nothing was changed:",
        "  bundle: A bundle is a JSON object, as exportWorkflows gives it.",
    ]
    assert (await shell.run("plan", str(shell.file), "--nope")).exit_code == 1


async def test_the_address_and_the_key_are_told_apart(shell: Shell) -> None:
    shell.file.write_text("{}")
    [refused] = await shell.lines("plan", str(shell.file), key="sk_us_prod_wrong", code=1)
    assert refused.startswith("sendora: The gateway refuses the key")
    assert "sk_us_prod_wrong" not in refused
    [nobody] = await shell.lines("plan", str(shell.file), url="http://127.0.0.1:1", code=1)
    assert nobody.startswith("sendora: http://127.0.0.1:1/graphql does not answer (ClientConnectorError)")
    [strange] = await shell.lines("plan", str(shell.file), url=f"{shell.server.url}/metrics", code=1)
    assert strange.startswith("sendora: What answers is no Sendora gateway (HTTP 405)")


async def test_a_bundle_that_is_too_large_is_said_to_be(shell: Shell) -> None:
    mail = {"type": "SEND_SMS", "config": {"body": "x" * 60_000}}
    shell.file.write_text(json.dumps({"workflows": [{**BYE, "name": f"w{n}", "steps": [mail]} for n in range(40)]}))
    [refused] = await shell.lines("plan", str(shell.file), code=1)
    assert refused == "sendora: The bundle is larger than one request may be (2 MiB): import it in parts."


async def test_an_answer_that_is_none_is_said_to_be(shell: Shell) -> None:
    answers = [web.json_response([]), web.json_response({"data": None}), web.Response(status=413, text="<html>")]
    said = ["The bundle is larger than", "What answers is no Sendora gateway", "What answers is no Sendora gateway"]

    async def answer(_request: web.Request) -> web.Response:
        return answers.pop()

    application = web.Application()
    application.router.add_post("/graphql", answer)
    async with serving(application) as port:
        for sentence in said:
            [line] = await shell.lines("export", url=f"http://127.0.0.1:{port}", code=1)
            assert line.startswith(f"sendora: {sentence}")


async def test_the_schema_of_a_bundle_is_where_the_bundle_says(shell: Shell) -> None:
    answer = await shell.server.request("GET", "/schemas/workflow-bundle.json")
    schema = json.loads(answer.body)
    bundle = json.loads((await shell.run("export")).output)
    assert (answer.status, bundle["$schema"]) == (200, "https://gateway.example/schemas/workflow-bundle.json")
    assert schema["$id"] == bundle["$schema"]
    Draft7Validator.check_schema(schema)
    assert Draft7Validator(schema).is_valid(bundle)
    assert answer.headers["content-type"].startswith("application/schema+json")
    assert answer.headers["access-control-allow-origin"] == "*"
