"""`documents publish` against a gateway, over HTTP; and the folders and manifests that it reads."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import aiohttp
import pytest
import typer
from typer.testing import CliRunner

from bundles.command import register
from bundles.documents import MAX_AT_ONCE, MAX_REQUEST_CHARACTERS, Document, parts, read_documents
from bundles.errors import BundleMistakeError
from tests.integration.test_bundle_commands import Shell, own_collector, shell

__all__ = ["own_collector", "shell"]

WHO = "query Who { viewer { role } }\n"
HEAD = "query Head { viewer { project { head } } }"


async def publish(shell: Shell, path: Path, *, code: int = 0) -> str:
    """What is written."""
    app = typer.Typer()
    register(app)
    line = ["documents", "publish", str(path), "--url", shell.server.url]
    result = await asyncio.to_thread(CliRunner().invoke, app, line, env={"SENDORA_API_KEY": shell.key})
    assert result.exit_code == code, (result.output, result.exception)
    return str(result.output)


async def published(shell: Shell) -> dict[str, str]:
    """Names and ids of what the project has."""
    query = "{ trustedDocuments(first: 100) { edges { node { id name } } } }"
    async with (
        aiohttp.ClientSession(headers={"x-api-key": shell.key}) as client,
        client.post(f"{shell.server.url}/graphql", json={"query": query}) as response,
    ):
        edges = (await response.json())["data"]["trustedDocuments"]["edges"]
    return {edge["node"]["name"]: edge["node"]["id"] for edge in edges}


def id_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


async def test_a_folder_is_published_byte_for_byte_and_again_changes_nothing(shell: Shell) -> None:
    folder = shell.folder / "queries"
    (folder / "deep").mkdir(parents=True)
    windows = WHO.replace("\n", "\r\n")
    (folder / "deep" / "who.graphql").write_bytes(windows.encode())
    (folder / "head.gql").write_text(HEAD)
    (folder / "again.graphql").write_text(HEAD)
    (folder / "notes.txt").write_text("no document")

    for _ in range(2):
        assert await publish(shell, folder) == "documents: 2\n"
        assert await published(shell) == {"again.graphql": id_of(HEAD), "deep/who.graphql": id_of(windows)}


@pytest.mark.parametrize(
    "manifest",
    [
        {
            "format": "apollo-persisted-query-manifest",
            "version": 1,
            "operations": [{"id": "x", "name": "Who", "type": "query", "body": WHO}],
        },
        {"Who": WHO},
    ],
)
async def test_a_manifest_is_published(shell: Shell, manifest: object) -> None:
    path = shell.folder / "manifest.json"
    path.write_text(json.dumps(manifest))

    assert await publish(shell, path) == "documents: 1\n"
    assert await published(shell) == {"Who": id_of(WHO)}


async def test_what_the_gateway_refuses_is_told_by_its_name(shell: Shell) -> None:
    folder = shell.folder / "queries"
    folder.mkdir()
    (folder / "a.graphql").write_text(HEAD)
    (folder / "b.graphql").write_text("query B { viewer { rol } }")

    told = await publish(shell, folder, code=1)

    assert "b.graphql: Cannot query field 'rol' on type 'Viewer'. Did you mean 'role'?" in told
    assert await published(shell) == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no JSON"),
        (b"[]", "is no manifest"),
        (b'{"operations": [{"id": "x"}]}', "is no manifest"),
        (b'{"x": 1}', "is no manifest"),
        (b"{}", "holds no documents"),
        (b'{"x": "\xff"}', "is no UTF-8"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(BundleMistakeError, match=sentence):
        read_documents(tmp_path / "manifest.json")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleMistakeError, match="No such file"):
        read_documents(tmp_path / "nothing")
    with pytest.raises(BundleMistakeError, match="holds no documents"):
        read_documents(tmp_path)


def test_a_request_holds_so_many_documents_and_characters() -> None:
    many = [Document(str(number), "x") for number in range(2 * MAX_AT_ONCE + 1)]
    large = [Document(str(number), "x" * (MAX_REQUEST_CHARACTERS // 2)) for number in range(3)]

    assert [len(part) for part in parts(many)] == [MAX_AT_ONCE, MAX_AT_ONCE, 1]
    assert [len(part) for part in parts(large)] == [2, 1]
    assert [each for part in parts(many) for each in part] == many
    assert list(parts([])) == []
