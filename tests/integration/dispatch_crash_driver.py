"""A worker that is killed with SIGKILL at its n-th step, for n = 1, 2, 3 … until it lives to finish its work.

A step is what a task does between two awaits: so every await of claiming, committing, sending and settling is a place
to die at. Nothing in the product helps: the task factory of the event loop counts. Each life is a fork of this process,
with a project of its own, and whatever reaches the provider is in its file before anything else happens.

    python -m tests.integration.dispatch_crash_driver DATABASE_URL FILE DELIVERIES
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid5

from db.projects import insert_organization, insert_project
from engine.dispatch.values import Channel
from tests.integration.dispatch_support import Desk, open_desk
from tests.integration.log_support import SALT
from tests.peers.memory_channel import MemoryChannel, MemoryMessage

NAMESPACE = UUID("5f0e8f0c-9b0e-4c57-8f83-7d5f4f6b9a01")
MOST_STEPS = 2_000
LIVES_AT_ONCE = 2


def project_of(step: int) -> UUID:
    return uuid5(NAMESPACE, str(step))


class Mortal(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are counted together with everybody else's."""

    steps_left = -1

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        Mortal.steps_left -= 1
        if Mortal.steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()


async def make_project(desk: Desk, step: int) -> UUID:
    project_id = project_of(step)
    async with desk.database.transaction() as connection:
        await insert_organization(connection, organization_id=project_id, name="Acme")
        await insert_project(
            connection, project_id=project_id, organization_id=project_id, name="shop", region="us", salt=SALT
        )
    return project_id


async def live(url: str, file: int, deliveries: int, step: int) -> None:
    def receive(message: MemoryMessage) -> None:
        os.write(file, f"{step} {message.key}\n".encode())

    async with open_desk(url, min_size=1, max_size=2) as desk:
        desk.webhook = MemoryChannel(Channel.WEBHOOK, repeatable=True, receive=receive)
        desk.push = MemoryChannel(Channel.PUSH, repeatable=False, receive=receive)
        project_id = await make_project(desk, step)
        await desk.enqueue(project_id, deliveries)
        await desk.enqueue(project_id, deliveries, channel=Channel.PUSH)
        dispatcher = desk.dispatcher()
        asyncio.get_running_loop().set_task_factory(
            lambda loop, inner, **options: asyncio.Task(Mortal(inner), loop=loop, **options)  # type: ignore[arg-type]
        )
        Mortal.steps_left = step
        await asyncio.create_task(desk.drain(dispatcher, project_id))


def begin(url: str, file: int, deliveries: int, step: int) -> int:
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            asyncio.run(live(url, file, deliveries, step))
            os._exit(0)
        os._exit(1)
    return pid


def main(url: str, path: str, deliveries: int) -> None:
    """Prints how many steps a whole life has."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lives: dict[int, int] = {}
    survived: list[int] = []
    step = 0
    while lives or not survived:
        while not survived and len(lives) < LIVES_AT_ONCE:
            step += 1
            lives[begin(url, file, deliveries, step)] = step
        pid, status = os.wait()
        died_at = lives.pop(pid)
        if os.waitstatus_to_exitcode(status) == 0:
            survived.append(died_at)
        elif os.waitstatus_to_exitcode(status) != -signal.SIGKILL or step > MOST_STEPS:
            sys.exit(f"the life that was to end at step {died_at} ended with {status}")
    print(step)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
