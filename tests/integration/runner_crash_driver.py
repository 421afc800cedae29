"""A runner of workflows that is killed with SIGKILL at its n-th step, for some n that are spread over its life.

As `dispatch_crash_driver` does with dispatchers: a step is what a task does between two awaits, a first life that
nothing ends says how many there are, and each of the others is a fork with a project of its own.

    python -m tests.integration.runner_crash_driver DATABASE_URL LIVES
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress

from tests.integration.dispatch_crash_driver import LIVES_AT_ONCE, Mortal, end
from tests.integration.runner_support import Shop, open_shop

RUNS = 2
"""Of each life."""
STEPS = (
    {
        "type": "BRANCH",
        "label": "which",
        "config": {"condition": {"trait": "plan", "value": "pro"}, "ifTrue": "mark", "ifFalse": "end"},
    },
    {"type": "UPDATE_PROFILE", "label": "mark", "config": {"traits": {"last": "{{ run.id }}"}}},
    {"type": "WEBHOOK", "label": "call", "config": {"url": "https://127.0.0.1/hook"}},
    {"type": "AI_ACTION", "label": "ask", "config": {"flavor": "decide", "prompt": "Well?"}},
)


async def live(url: str, dies_at: int) -> int:
    """Begin runs, then carry them on; how many steps that took. `dies_at` 0: nothing ends it."""
    async with open_shop(url, min_size=1, max_size=4) as shop:
        await shop.person("ada", plan="pro")
        workflow_id = await shop.workflow(*STEPS)
        await shop.start(workflow_id, ["ada"] * RUNS, event_seq=await shop.track())
        asyncio.get_running_loop().set_task_factory(
            lambda loop, inner, **options: asyncio.Task(Mortal(inner), loop=loop, **options)  # type: ignore[arg-type]
        )
        Mortal.dies_at = dies_at
        await asyncio.create_task(_work(shop))
        steps, Mortal.dies_at = Mortal.steps, 0
    return steps


async def _work(shop: Shop) -> None:
    await shop.drain()
    await shop.send()
    await shop.drain()


def begin(url: str, dies_at: int) -> None:
    """A life in a process of its own."""
    if os.fork() == 0:
        Mortal.steps = 0
        with suppress(BaseException):
            asyncio.run(live(url, dies_at))
            os._exit(0)
        os._exit(1)


def main(url: str, lives: int) -> None:
    """Prints how many lives there were, and how many of them were ended."""
    steps = asyncio.run(live(url, 0))
    places = range(1, steps + 1, max(1, steps // lives))
    killed = 0
    for number, dies_at in enumerate(places):
        if number >= LIVES_AT_ONCE:
            killed += end()
        begin(url, dies_at)
    killed += sum(end() for _ in range(min(LIVES_AT_ONCE, len(places))))
    print(json.dumps({"lives": len(places) + 1, "killed": killed, "steps": steps}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
