"""Bundles over the HTTP API: one request each, whose answer is taken as it is or told in sentences.

Guarantees: raises `BundleMistakeError` for whatever goes wrong, the key never in it. An import whose answer was lost
may have been done: doing it again changes nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import aiohttp

from bundles.documents import Document, parts
from bundles.errors import BundleMistakeError
from importer.sender import Endpoint

REQUEST_TIMEOUT = timedelta(seconds=60)
"""The gateway gives up long before."""
MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""What the gateway takes in one request: it stops reading there, which the connection may not survive."""
MAX_SHOWN_ERRORS = 20
"""More are told by their number."""

_FIND = """query Find($name: String!) { workflows(search: $name, first: 100) { edges { node { id name } } } }"""
_EXPORT = """query Export($ids: [ID!]) { exportWorkflows(ids: $ids) }"""
_IMPORT = """mutation Import($bundle: JSON!, $dryRun: Boolean) {
  importWorkflows(bundle: $bundle, dryRun: $dryRun) { before after userErrors { code message path } }
}"""

_PUBLISH = """mutation Publish($documents: [TrustedDocumentInput!]!) {
  saveTrustedDocuments(documents: $documents) { trustedDocuments { id } userErrors { message path } }
}"""

_TOO_LARGE = f"The bundle is larger than one request may be ({MAX_REQUEST_BYTES // 2**20} MiB): import it in parts."


class Client:
    """One gateway."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def export(self, names: Sequence[str]) -> dict[str, Any]:
        """The workflows of some names with their audiences; everything without names."""
        ids = [await self._find(name) for name in names]
        data = await self._ask(_EXPORT, {"ids": ids or None})
        bundle: dict[str, Any] = data["exportWorkflows"]
        return bundle

    async def bring(self, bundle: Any, *, is_dry_run: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Import a bundle, or try to: what the project had under its names, and what it has then."""
        payload = (await self._ask(_IMPORT, {"bundle": bundle, "dryRun": is_dry_run}))["importWorkflows"]
        if payload["userErrors"]:
            raise BundleMistakeError(_told(payload["userErrors"]))
        return payload["before"], payload["after"]

    async def publish(self, documents: Sequence[Document]) -> None:
        """Register documents, as many requests as it takes: those before one that is refused are registered."""
        for part in parts(documents):
            given = [{"name": document.name, "document": document.text} for document in part]
            payload = (await self._ask(_PUBLISH, {"documents": given}))["saveTrustedDocuments"]
            if payload["userErrors"]:
                raise BundleMistakeError(_refused_documents(part, payload["userErrors"]))

    async def _find(self, name: str) -> str:
        edges = (await self._ask(_FIND, {"name": name}))["workflows"]["edges"]
        found: str | None = next((edge["node"]["id"] for edge in edges if edge["node"]["name"] == name), None)
        if found is None:
            raise BundleMistakeError(f"The project has no workflow named {name!r}.")
        return found

    async def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({"query": query, "variables": variables}, ensure_ascii=False, separators=(",", ":"))
        body = text.encode("utf-8", "surrogatepass")
        if len(body) > MAX_REQUEST_BYTES:
            raise BundleMistakeError(_TOO_LARGE)
        status, answer = await self._post(body)
        if not isinstance(answer, dict):
            raise BundleMistakeError(_strange(status))
        errors, data = answer.get("errors"), answer.get("data")
        if errors:
            raise BundleMistakeError(_refused(errors[0]))
        if not isinstance(data, dict):
            raise BundleMistakeError(_strange(status))
        return data

    async def _post(self, body: bytes) -> tuple[int, Any]:
        headers = {
            "content-type": "application/json",
            "accept": "application/graphql-response+json, application/json;q=0.9",
            "x-api-key": self._endpoint.key,
        }
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT.total_seconds())
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._endpoint.url, data=io.BytesIO(body), headers=headers) as response,
            ):
                return response.status, _json_of(await response.read())
        except aiohttp.InvalidURL:
            raise BundleMistakeError(
                f"{self._endpoint.url!r} is not an address: give --url http://host:port."
            ) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BundleMistakeError(
                f"{self._endpoint.url} does not answer ({type(error).__name__}): is the gateway running there?"
            ) from None


def _json_of(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _strange(status: int) -> str:
    if status == 413:
        return _TOO_LARGE
    return f"What answers is no Sendora gateway (HTTP {status}): give its address with --url http://host:port."


def _refused(error: dict[str, Any]) -> str:
    message, code = error.get("message"), (error.get("extensions") or {}).get("code")
    if code in ("UNAUTHENTICATED", "FORBIDDEN"):
        return f"The gateway refuses the key ({message}): give one with SENDORA_API_KEY that may do this."
    return f"The gateway refuses this: {message}"


def _told(errors: Sequence[dict[str, Any]]) -> str:
    """One line for each, with where it is in the bundle."""
    lines = [f"{'.'.join(error['path'][1:]) or 'bundle'}: {error['message']}" for error in errors[:MAX_SHOWN_ERRORS]]
    if len(errors) > MAX_SHOWN_ERRORS:
        lines.append(f"and {len(errors) - MAX_SHOWN_ERRORS} more")
    return "\n".join(
        ["the gateway does not take this bundle, and nothing was changed:", *(f"  {line}" for line in lines)]
    )


def _refused_documents(part: Sequence[Document], errors: Sequence[dict[str, Any]]) -> str:
    """One line for each, with whose it is."""
    lines = []
    for error in errors[:MAX_SHOWN_ERRORS]:
        index = error["path"][1] if len(error["path"]) > 1 else ""
        lines.append(f"{part[int(index)].name}: {error['message']}" if index.isdigit() else error["message"])
    return "\n".join(["the gateway does not take these documents:", *(f"  {line}" for line in lines)])
