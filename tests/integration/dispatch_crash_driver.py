"""A worker that is killed with SIGKILL at its n-th step, for every n, or for some that are spread over a whole life.

A step is what a task does between two awaits: so every await of claiming, committing, sending and settling is a place
to die at, those in the libraries that send included. Nothing in the product helps: the task factory of the event loop
counts. A first life, which nothing ends, says how many steps there are. Each of the others is a fork of this process,
each has a project of its own, and what they send to is outside of them and lives on.

    python -m tests.integration.dispatch_crash_driver DATABASE_URL STRIDE (memory FILE | webhook URL | email PORT CA)

STRIDE is a number of steps, or 0 for one with which `FEW` die.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from engine.dispatch.dispatcher import Dispatcher
from tests.integration.dispatch_crash_scenes import EmailScene, MemoryScene, Scene, WebhookScene
from tests.integration.dispatch_support import open_desk
from tests.peers.memory_channel import MemoryMessage

FEW = 30
LIVES_AT_ONCE = 2


class Mortal(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are counted together with everybody else's."""

    steps = 0
    dies_at = 0

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        self._begin_step()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        self._begin_step()
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    @staticmethod
    def _begin_step() -> None:
        Mortal.steps += 1
        if Mortal.steps == Mortal.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


def memory_scene(path: str) -> Scene:
    """Whatever is received is in the file before anything else happens."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def receive(message: MemoryMessage) -> None:
        os.write(file, f"{message.key}\n".encode())

    return MemoryScene(receive)


SCENES: dict[str, Callable[..., Scene]] = {"memory": memory_scene, "webhook": WebhookScene, "email": EmailScene}


async def live(url: str, make_scene: Callable[[], Scene], dies_at: int) -> int:
    """Make deliveries, then send them; returns how many steps that took. `dies_at` 0: nothing ends it."""
    scene = make_scene()
    async with open_desk(url, min_size=1, max_size=2) as desk:
        project_id = await desk.project()
        await scene.enqueue(desk, project_id)
        dispatcher = Dispatcher(desk.database, scene.works, desk.clock, desk.announced.append)
        asyncio.get_running_loop().set_task_factory(
            lambda loop, inner, **options: asyncio.Task(Mortal(inner), loop=loop, **options)  # type: ignore[arg-type]
        )
        Mortal.dies_at = dies_at
        await asyncio.create_task(desk.drain(dispatcher, project_id))
        steps, Mortal.dies_at = Mortal.steps, 0
        await scene.close()
    return steps


def begin(url: str, make_scene: Callable[[], Scene], dies_at: int) -> None:
    """A life in a process of its own."""
    if os.fork() == 0:
        Mortal.steps = 0
        with suppress(BaseException):
            asyncio.run(live(url, make_scene, dies_at))
            os._exit(0)
        os._exit(1)


def end() -> bool:
    """Wait for a life to end; whether it was killed."""
    _, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a life failed, with {code}, before it could be killed")
    return code != 0


def main(url: str, stride: int, make_scene: Callable[[], Scene]) -> None:
    """Prints how many lives there were, and how many of them were ended."""
    # This one is here, so that what is imported on the way is there for all others.
    steps = asyncio.run(live(url, make_scene, 0))
    places = range(1, steps + 1, stride or -(-steps // FEW))
    killed = 0
    for number, dies_at in enumerate(places):
        if number >= LIVES_AT_ONCE:
            killed += end()
        begin(url, make_scene, dies_at)
    killed += sum(end() for _ in range(min(LIVES_AT_ONCE, len(places))))
    print(json.dumps({"lives": len(places) + 1, "killed": killed}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), partial(SCENES[sys.argv[3]], *sys.argv[4:]))
