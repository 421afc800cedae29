"""Where to send an import to: what the options say, else what `make run` left in its data folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from importer.errors import ImportMistakeError
from importer.sender import Endpoint
from launch.data_folder import Keys
from settings import read_settings

GRAPHQL_PATH = "/graphql"


def find_endpoint(url: str | None, key: str | None) -> Endpoint:
    """The gateway and the key. Raises `ImportMistakeError`.

    The key of `make run` goes to the gateway of `make run` only: with an address of one's own comes a key of one's own.
    """
    if url is not None and key is not None:
        return Endpoint(_graphql_url(url), key)
    path = read_settings().data_dir / "keys.json"
    keys = _read_keys(path)
    if keys is None:
        raise ImportMistakeError(
            f"There is no {path}, where `make run` leaves its address and key: start it, or give --url and --key."
        )
    local = _graphql_url(keys.url)
    chosen = local if url is None else _graphql_url(url)
    if key is None and chosen != local:
        raise ImportMistakeError(
            f"{url} is not the gateway of `make run`, so its key is not sent there: give --key, too."
        )
    return Endpoint(chosen, keys.secret_key if key is None else key)


def _read_keys(path: Path) -> Keys | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keys)
    except (OSError, msgspec.DecodeError):
        return None


def _graphql_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ImportMistakeError(f"{url!r} is not an address: give --url http://host:port.")
    return parts._replace(path=GRAPHQL_PATH).geturl() if parts.path in ("", "/") else url
