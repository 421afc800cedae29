"""What reaches a log when something fails: what and why, never a local variable."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from graphql import GraphQLError

from telemetry import configure_logging
from transport.errors import ErrorReporter


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def fail_with(password: str) -> None:
    assert password
    raise ConnectionRefusedError("connection refused")


@pytest.mark.parametrize("machine_readable", [True, False])
@pytest.mark.parametrize("level", ["debug", "warning"])
def test_no_local_variable_is_logged_with_an_exception(
    capsys: pytest.CaptureFixture[str], machine_readable: bool, level: str
) -> None:
    configure_logging(level, machine_readable=machine_readable)

    try:
        fail_with("".join(["hunt", "er2"]))
    except ConnectionRefusedError:
        logging.getLogger("pool").warning("pool.connect_failed", exc_info=True)

    written = capsys.readouterr().err
    assert "pool.connect_failed" in written
    assert "connection refused" in written
    assert "hunter2" not in written


def test_on_a_terminal_a_failure_is_its_name_and_reason_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", machine_readable=False)

    try:
        fail_with("".join(["hunt", "er2"]))
    except ConnectionRefusedError:
        logging.getLogger("pool").warning("pool.connect_failed", exc_info=True)

    assert capsys.readouterr().err.strip().splitlines()[1:] == ["ConnectionRefusedError: connection refused"]


@pytest.mark.parametrize("machine_readable", [True, False])
def test_an_error_that_clients_do_not_read_is_in_the_log_under_its_id(
    capsys: pytest.CaptureFixture[str], machine_readable: bool
) -> None:
    configure_logging("warning", machine_readable=machine_readable)

    shown = ErrorReporter(lambda _error: None).shown(
        GraphQLError("located", original_error=KeyError("a fault of ours"))
    )

    written = capsys.readouterr().err
    assert shown.extensions is not None
    assert str(shown.extensions["id"]) in written
    assert "builtins.KeyError" in written
    assert "Logging error" not in written
