"""The supervisor's decisions, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import pytest

from launch.data_folder import StartError
from launch.keeper import LONGEST_PAUSE_SECONDS, Exits, Keeper, Printer, describe_exit, pause_before_restart
from launch.supervisor import listen


def test_a_child_that_had_been_up_for_long_is_started_again_at_once() -> None:
    assert pause_before_restart(0) == 0.0


def test_the_pause_doubles_with_each_failure_up_to_ten_seconds() -> None:
    assert [pause_before_restart(failures) for failures in range(1, 9)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert pause_before_restart(10_000) == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("return_code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-9, "killed by SIGKILL"),
        (-34, "killed by SIGRTMIN"),
        (-200, "killed by signal 200"),  # no system has that many
    ],
)
def test_an_exit_is_told_in_words(return_code: int, words: str) -> None:
    assert describe_exit(return_code) == words


def test_a_taken_port_is_told_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(StartError) as raised:
            listen("127.0.0.1", port)

    assert str(raised.value) == (
        f"Port {port} is taken by another program: stop that one, or choose another port, e.g. PORT={port + 1}."
    )


def test_an_address_of_another_machine_is_told_with_the_settings_to_mend() -> None:
    with pytest.raises(
        StartError, match=r"^192\.0\.2\.1:8000 cannot be listened on .* correct SENDORA_HOST and PORT\.$"
    ):
        listen("192.0.2.1", 8000)


def test_a_host_that_does_not_exist_is_told_with_the_settings_to_mend() -> None:
    with pytest.raises(StartError, match=r"correct SENDORA_HOST and PORT"):
        listen("no-such-host.invalid", 8000)


def test_a_port_that_was_just_closed_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()

    with listen("127.0.0.1", port) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)


async def test_a_keeper_is_cancelled_also_at_the_moment_a_child_changes() -> None:
    child = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220, it returns at once
    exits = Exits()
    keeper = Keeper("child", lambda: child, exits, Printer())
    try:
        for _ in range(20):
            keeping = asyncio.create_task(keeper.keep())
            await asyncio.sleep(0.001)

            exits.notify()
            await asyncio.sleep(0)
            keeping.cancel()

            await asyncio.wait({keeping}, timeout=1)
            assert keeping.cancelled()
    finally:
        child.kill()
        child.wait()
