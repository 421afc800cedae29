"""The data folder: one start at a time, and secrets that only their owner can read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from launch.data_folder import DataFolder, Keys, StartError

KEYS = Keys("p1", "sk_1", "pk_1", "http://127.0.0.1:8000", "postgresql://postgres@/sendora", "redis://127.0.0.1:7000/0")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_start_on_the_same_folder_is_refused_with_a_way_out(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path / "data"), DataFolder(tmp_path / "data")
    first.lock()

    with pytest.raises(
        StartError, match=r"^Another `make run` is using .*/data: stop it first, or choose another folder"
    ):
        second.lock()

    first.unlock()
    second.lock()
    second.unlock()


def test_a_folder_that_cannot_be_made_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StartError, match=r"cannot be written \(Not a directory\): .* SENDORA_DATA_DIR\.$"):
        DataFolder(tmp_path / "file" / "data")


def test_the_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")

    secret = folder.secret()

    assert len(bytes.fromhex(secret)) == 32
    assert DataFolder(tmp_path / "data").secret() == secret
    assert mode_of(tmp_path / "data" / "secret") == 0o600
    assert mode_of(tmp_path / "data") == 0o700
    folder.unlock()


def test_keys_are_written_under_the_names_that_clients_read(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)

    folder.write_keys(KEYS)

    assert json.loads(folder.keys_path.read_text()) == {
        "projectId": "p1",
        "secretKey": "sk_1",
        "publishableKey": "pk_1",
        "url": "http://127.0.0.1:8000",
        "databaseUrl": "postgresql://postgres@/sendora",
        "redisUrl": "redis://127.0.0.1:7000/0",
    }
    assert mode_of(folder.keys_path) == 0o600
    assert folder.read_keys() == KEYS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "lock"]
    folder.unlock()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"projectId": "p1"}'])
def test_keys_that_cannot_be_read_are_as_good_as_none(tmp_path: Path, content: str) -> None:
    folder = DataFolder(tmp_path)
    folder.keys_path.write_text(content)

    assert folder.read_keys() is None
    folder.unlock()
