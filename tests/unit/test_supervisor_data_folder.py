"""The data folder: one start at a time, and secrets that only their owner can read."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launch.data_folder import DataFolder, Keys, StartError

ROOT = Path(__file__).resolve().parents[2]
KEYS = Keys("p1", "sk_1", "pk_1", "http://127.0.0.1:8000", "postgresql://postgres@/sendora", "redis://127.0.0.1:7000/0")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


HOLD_LOCK = """
import sys
from pathlib import Path
from launch.data_folder import DataFolder
DataFolder(Path(sys.argv[1])).lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_start_on_the_same_folder_is_refused_with_a_way_out_until_the_first_has_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"locked\n"
        second = DataFolder(tmp_path / "data")

        with pytest.raises(
            StartError, match=r"^Another `make run` is using .*/data: stop it first, or choose another folder"
        ):
            second.lock()

        first.kill()
    second.lock()


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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"projectId": "p1"}'])
def test_keys_that_cannot_be_read_are_as_good_as_none(tmp_path: Path, content: str) -> None:
    folder = DataFolder(tmp_path)
    folder.keys_path.write_text(content)

    assert folder.read_keys() is None
