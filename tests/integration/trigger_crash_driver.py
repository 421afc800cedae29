"""A worker that is killed with SIGKILL at its n-th step, for every n, while it starts workflows.

As in `dispatch_crash_driver`: each life is a fork of this process with a project of its own, and dies at another await.

    python -m tests.integration.trigger_crash_driver DATABASE_URL (events | schedule) STRIDE

STRIDE is a number of steps, or 0 for one with which `FEW` die.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress

from engine.workflows import enrolment
from engine.workflows.definition import ReentryPolicy
from tests.integration.dispatch_crash_driver import LIVES_AT_ONCE, Mortal, end
from tests.integration.log_support import make_project, new_event, open_database
from tests.integration.schedule_support import DAILY, carry_out, make_audience, make_people
from tests.integration.trigger_support import Stage

FEW = 12
PEOPLE = ("ada", "bob", "cid", "dan", "eve")


async def prepare(stage: Stage, scene: str) -> None:
    """Something that starts two workflows for everybody."""
    await make_people(stage, *PEOPLE)
    if scene == "events":
        await stage.workflow("order.placed", name="always")
        await stage.workflow("order.*", name="once", reentry=ReentryPolicy.ONCE_PER_USER)
        # The second one of each person starts the first workflow only.
        await stage.append(*(new_event(f"k-{number}", user_id=PEOPLE[number % 5]) for number in range(10)))
        return
    everybody = await make_audience(stage)
    await stage.workflow(None, name="always", schedule=DAILY, audience_id=everybody)
    once = ReentryPolicy.ONCE_PER_USER
    await stage.workflow(None, name="once", schedule=DAILY, audience_id=everybody, reentry=once)
    stage.clock.advance(days=1)


async def work(stage: Stage, scene: str) -> None:
    """What the worker does who dies, and then the one who comes after."""
    enrolment.PAGE_MEMBERS = 2
    if scene == "events":
        await stage.follow()
    else:
        await carry_out(stage)


async def live(url: str, scene: str, dies_at: int) -> int:
    """Start what is to start; returns how many steps that took. `dies_at` 0: nothing ends it."""
    async with open_database(url, min_size=1, max_size=2) as database:
        stage = Stage(database, await make_project(database), url)
        await prepare(stage, scene)
        asyncio.get_running_loop().set_task_factory(
            lambda loop, inner, **options: asyncio.Task(Mortal(inner), loop=loop, **options)  # type: ignore[arg-type]
        )
        Mortal.dies_at = dies_at
        await asyncio.create_task(work(stage, scene))
        steps, Mortal.dies_at = Mortal.steps, 0
    return steps


def begin(url: str, scene: str, dies_at: int) -> None:
    """A life in a process of its own."""
    if os.fork() == 0:
        Mortal.steps = 0
        with suppress(BaseException):
            asyncio.run(live(url, scene, dies_at))
            os._exit(0)
        os._exit(1)


def main(url: str, scene: str, stride: int) -> None:
    """Prints how many lives there were, and how many of them were ended."""
    steps = asyncio.run(live(url, scene, 0))
    places = range(1, steps + 1, stride or -(-steps // FEW))
    killed = 0
    for number, dies_at in enumerate(places):
        if number >= LIVES_AT_ONCE:
            killed += end()
        begin(url, scene, dies_at)
    killed += sum(end() for _ in range(min(LIVES_AT_ONCE, len(places))))
    print(json.dumps({"lives": len(places) + 1, "killed": killed}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
