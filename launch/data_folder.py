"""The data folder of `make run`: one start at a time, a secret, and the keys of the first project.

Guarantees: whatever holds a secret is readable by its owner only, and a file is either the old or the new one, never
half of it. The lock goes with the process that holds it, also after kill -9. Leaves to others: what the services keep
in here (`launch/embedded.py`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path

import msgspec

SECRET_BYTES = 32
"""256 bits."""
LOCK_PATIENCE_SECONDS = 1.0
"""A supervisor that was just killed may not have gone yet when the next one starts."""


class StartError(Exception):
    """A sentence for the operator: what is wrong, and how to mend it."""


class Keys(msgspec.Struct, frozen=True, rename="camel"):
    """What reaches what runs, as `keys.json` holds it. `url` is the root: GraphQL is at `<url>/graphql`."""

    project_id: str
    secret_key: str
    publishable_key: str
    url: str
    database_url: str
    redis_url: str


class DataFolder:
    """`path` is made where it is missing. Raises `StartError` when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"The data folder {self.path} cannot be written ({error.strerror}): "
                "make it writable, or choose another one with SENDORA_DATA_DIR."
            ) from None

    @property
    def keys_path(self) -> Path:
        """Where `keys.json` is."""
        return self.path / "keys.json"

    def lock(self) -> None:
        """Keep every other start out until this process ends. Raises `StartError` when another one is running."""
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not self._try_lock():
            if time.monotonic() > deadline:
                raise StartError(
                    f"Another `make run` is using {self.path}: stop it first, "
                    "or choose another folder with SENDORA_DATA_DIR and another port with PORT."
                )
            time.sleep(0.05)

    def secret(self) -> str:
        """The deployment's secret, made on first use."""
        path = self.path / "secret"
        if not path.exists():
            self._write_private(path, secrets.token_hex(SECRET_BYTES).encode())
        return path.read_text().strip()

    def read_keys(self) -> Keys | None:
        """What an earlier start wrote, or None where there is nothing that can be read."""
        try:
            return msgspec.json.decode(self.keys_path.read_bytes(), type=Keys)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write_keys(self, keys: Keys) -> None:
        """Replace `keys.json`."""
        self._write_private(self.keys_path, msgspec.json.format(msgspec.json.encode(keys)) + b"\n")

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write_private(self, path: Path, content: bytes) -> None:
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
