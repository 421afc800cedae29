"""What reaches a log when something fails: what and why, never a local variable."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import asyncpg
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


@pytest.mark.parametrize("machine_readable", [True, False])
@pytest.mark.parametrize("level", ["debug", "warning"])
def test_no_row_and_no_argument_is_logged_that_postgresql_quotes(
    capsys: pytest.CaptureFixture[str], machine_readable: bool, level: str
) -> None:
    configure_logging(level, machine_readable=machine_readable)
    refused = asyncpg.CheckViolationError("the row violates a check")
    refused.detail = "Failing row contains (ada@example.com,\nkey)."
    refused.hint = "Look at it."
    argument = asyncpg.DataError("invalid input for query argument $3: 'ada@example.com' (expected a number)")

    for error in (refused, argument):
        try:
            raise RuntimeError("the round failed") from error
        except RuntimeError:
            logging.getLogger("dispatch").exception("settlement.failed")
        try:
            raise error
        except asyncpg.PostgresError:
            logging.getLogger("dispatch").exception("claim.failed")

    written = capsys.readouterr().err
    assert "ada@example.com" not in written
    for part in ("settlement.failed", "claim.failed", "the round failed", "the row violates a check", "argument $3"):
        assert part in written


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
