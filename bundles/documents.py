"""Documents of a client, as its tools leave them: a folder of GraphQL files, or a manifest with all operations.

Guarantees: a text is taken byte for byte, because clients name it by the hash of its bytes; the same text comes once;
the order is that of the names. What is no such thing raises `BundleMistakeError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bundles.errors import BundleMistakeError

SUFFIXES = (".graphql", ".gql")
MAX_BYTES = 64 * 1024 * 1024
"""Of a manifest: far beyond what a project may register."""
MAX_AT_ONCE = 100
"""In one request, as the gateway takes them."""
MAX_REQUEST_CHARACTERS = 250_000
"""Of the texts of one request: escaped as JSON they may be six times as long, and a request has 2 MiB."""
NAME_CHARACTERS = 200
"""As the gateway takes them; the end of a path says more than its beginning."""


class Document(NamedTuple):
    """A text and what people call it."""

    name: str
    text: str


def read_documents(path: Path) -> list[Document]:
    """Those of a folder, or of a manifest of Apollo's or Relay's."""
    try:
        found = list(_of_folder(path) if path.is_dir() else _of_manifest(path))
    except OSError as error:
        raise BundleMistakeError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise BundleMistakeError(f"{path} holds what is no UTF-8.") from None
    if not found:
        raise BundleMistakeError(f"{path} holds no documents: give a folder of {SUFFIXES[0]} files, or a manifest.")
    by_text = {document.text: document for document in sorted(found, reverse=True)}
    return sorted(Document(each.name[-NAME_CHARACTERS:], each.text) for each in by_text.values())


def parts(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """As many at a time as one request holds."""
    part: list[Document] = []
    size = 0
    for document in documents:
        if part and (len(part) == MAX_AT_ONCE or size + len(document.text) > MAX_REQUEST_CHARACTERS):
            yield part
            part, size = [], 0
        part.append(document)
        size += len(document.text)
    if part:
        yield part


def _of_folder(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            yield Document(path.relative_to(folder).as_posix(), path.read_bytes().decode())


def _of_manifest(path: Path) -> Iterator[Document]:
    if path.stat().st_size > MAX_BYTES:
        raise BundleMistakeError(f"{path} is larger than {MAX_BYTES // 2**20} MiB: that is no manifest of a client.")
    try:
        manifest = json.loads(path.read_bytes().decode())
    except (json.JSONDecodeError, RecursionError):
        raise BundleMistakeError(f"{path} is no JSON: give a manifest, or a folder.") from None
    if not isinstance(manifest, dict):
        raise _strange(path)
    operations = manifest.get("operations")
    if isinstance(operations, list):
        yield from (_of_apollo(path, each) for each in operations)
        return
    for name, text in manifest.items():
        if not isinstance(text, str):
            raise _strange(path)
        yield Document(name, text)


def _of_apollo(path: Path, operation: Any) -> Document:
    found = (operation.get("name"), operation.get("body")) if isinstance(operation, dict) else (None, None)
    name, body = found
    if not isinstance(name, str) or not isinstance(body, str):
        raise _strange(path)
    return Document(name, body)


def _strange(path: Path) -> BundleMistakeError:
    return BundleMistakeError(
        f'{path} is no manifest: it holds {{"operations": [{{"name", "body"}}]}} (Apollo) or hashes and texts (Relay).'
    )
