"""What starts workflows: every event that matches, for everybody who may, once, and on the version of that time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from db.records import Lane
from engine.dispatch.ledger import MAX_DEPTH
from engine.node_ids import NodeKind, write_node_id
from engine.work import Work, WorkKind
from engine.workers.followers import PAGE_ITEMS
from engine.workflows import follower
from engine.workflows.definition import ReentryPolicy, Step, StepType, Trigger, UpdateProfile
from tests.integration.log_support import move_to_europe, new_event, open_database
from tests.integration.postgres_proxy import open_proxy
from tests.integration.schedule_support import make_audience
from tests.integration.trigger_support import Stage, open_stage


@pytest.fixture
async def stage(module_database_url: str) -> AsyncIterator[Stage]:
    async with open_stage(module_database_url) as opened:
        yield opened


def amount(op: str, value: Any) -> dict[str, Any]:
    return {"path": "event.properties.amount", "op": op, "value": value}


async def test_an_event_starts_a_run_and_the_log_says_so(stage: Stage) -> None:
    workflow_id = await stage.workflow("order.placed", name="Thanks")
    await stage.track("order.placed")

    [run] = await stage.follow()

    assert (run.workflow_id, run.version, run.status, run.user_id) == (workflow_id, 1, "RUNNING", "ada")
    assert (run.event_seq, run.depth, run.claim_at, run.is_held) == (1, 0, stage.now, False)
    assert await stage.run_updates() == [(1, run.run_id, "RUNNING")]
    [event] = await stage.events()
    assert (event.event_type, event.module, event.user_id) == ("automation.run_started", "automation", "ada")
    assert json.loads(bytes(event.properties))["workflowName"] == "Thanks"
    assert json.loads(bytes(event.context)) == {"cause": write_node_id(NodeKind.WORKFLOW_RUN, run.run_id), "depth": 1}
    assert [each.lane for each in stage.announced] == [Lane.EVENTS, Lane.RUNS]
    assert stage.woken == [Work(WorkKind.RUNS, stage.project_id)]

    # Another look, by whomever, begins nothing more.
    await stage.another_worker().follow(stage.project_id)
    assert len(await stage.runs()) == 1


async def test_a_run_that_is_due_later_wakes_nobody(stage: Stage) -> None:
    later = Step(label="later", type=StepType.UPDATE_PROFILE, config=UpdateProfile({}), delay_minutes=5)
    await stage.workflow(steps=[later])
    await stage.track()

    [run] = await stage.follow()

    assert run.claim_at == stage.now + timedelta(minutes=5)
    assert stage.woken == []


async def test_either_name_of_an_alias_and_wildcards_start(stage: Stage) -> None:
    alias = await stage.workflow("user.signed_up")
    canonical = await stage.workflow("auth.signed_up")
    prefix, suffix = await stage.workflow("auth.*"), await stage.workflow("*.signed_up")
    await stage.workflow("auth.signed_in")
    await stage.track("auth.signed_up")
    await stage.track("user.signed_up")

    await stage.follow()

    every = (alias, canonical, prefix, suffix)
    assert await stage.started() == [(each, seq) for seq in (1, 2) for each in every]


async def test_what_runs_say_of_themselves_is_started_by_who_names_it(stage: Stage) -> None:
    """Else one event would start a run that starts several, and so on: a flood out of one `*`."""
    everything = await stage.workflow("*")
    named, part = await stage.workflow("automation.run_started"), await stage.workflow("*.run_started")
    await stage.track("order.placed")

    runs = await stage.follow()

    counts = {workflow_id: sum(run.workflow_id == workflow_id for run in runs) for workflow_id in stage.names}
    assert counts[everything] == 1
    # Each hears of the runs of both, down to the bound: it is theirs to be so busy.
    assert counts[named] == counts[part] > MAX_DEPTH


async def test_filters_see_the_event_and_the_person(stage: Stage) -> None:
    await stage.workflow("order.placed", amount("GT", 100), name="large")
    await stage.workflow("order.placed", {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}, name="pro")
    await stage.workflow(
        "order.placed",
        {"any": [amount("LT", 10), {"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]},
        name="either",
    )
    for consent in ("UNKNOWN", "DENIED"):
        said = {"path": "profile.consent.email", "op": "EQ", "value": consent}
        await stage.workflow("order.placed", said, name=consent)
    await stage.track("signed", traits='{"plan":"pro"}')
    await stage.track(properties='{"amount":120}')
    await stage.track(properties='{"amount":5}', user_id="bob")
    await stage.track(properties='{"amount":50}', user_id=None)
    await stage.say("bob", "DENIED", "EMAIL")

    runs = await stage.follow()

    started = {(stage.names[run.workflow_id], run.user_id) for run in runs}
    assert started == {
        ("large", "ada"),
        ("pro", "ada"),
        ("either", "ada"),
        ("either", "bob"),
        ("UNKNOWN", "ada"),
        ("UNKNOWN", None),
        ("DENIED", "bob"),
    }


async def test_counts_are_those_of_the_moment_at_which_the_event_came(stage: Stage) -> None:
    """However many have come by the time at which the page is read."""
    first = {"events": {"eventType": "order.placed"}, "op": "EQ", "value": 1}
    third = {"events": {"eventType": "order.*", "withinSeconds": 3600}, "op": "GTE", "value": 3}
    rich = {"events": {"eventType": "order.placed", "sum": "event.properties.amount"}, "op": "GT", "value": 30}
    never = {"not": {"events": {"eventType": "push.sent"}, "op": "GTE", "value": 1}}
    for name, test in (("first", first), ("third", third), ("rich", rich), ("never", never)):
        await stage.workflow("order.placed", test, name=name)
    for _ in range(3):
        await stage.track(properties='{"amount":16}')
    await stage.track(user_id=None)
    await stage.track("push.sent")
    await stage.track("order.placed", properties='{"amount":"much"}')

    runs = await stage.follow()

    started = {(stage.names[run.workflow_id], run.event_seq) for run in runs}
    assert started == {
        ("first", 1),
        ("third", 3),
        ("third", 6),
        ("rich", 2),
        ("rich", 3),
        ("rich", 6),
        ("never", 1),
        ("never", 2),
        ("never", 3),
        ("never", 4),
    }


async def test_only_members_of_the_audience_start(stage: Stage) -> None:
    pros = await make_audience(stage, {"path": "profile.traits.plan", "op": "EQ", "value": "pro"})
    await stage.workflow(audience_id=pros)
    await stage.workflow(audience_id=uuid7())
    await stage.track("signed", traits='{"plan":"pro"}')
    for user_id in ("ada", "bob", None):
        await stage.track(user_id=user_id)

    assert [run.user_id for run in await stage.follow()] == ["ada"]


async def test_consent_is_asked_before_anybody_starts(stage: Stage) -> None:
    await stage.workflow()
    for user_id in ("ada", "bob", "cid", "dan", None):
        await stage.track(user_id=user_id)
    for user_id, state in (("ada", "GRANTED"), ("bob", "DENIED"), ("cid", "REVOKED")):
        await stage.say(user_id, state)

    # Nobody has no consent, and the policy in us is to allow where nothing was said.
    assert [run.user_id for run in await stage.follow()] == ["ada", "dan", None]


async def test_nothing_said_is_no_consent_in_the_eu(stage: Stage) -> None:
    async with stage.database.connection() as connection:
        await move_to_europe(connection, stage.project_id)
    await stage.workflow()
    for user_id in ("ada", "bob"):
        await stage.track(user_id=user_id)
    await stage.say("bob", "GRANTED")

    assert [run.user_id for run in await stage.follow()] == ["bob"]


async def test_who_was_erased_meanwhile_starts_nothing(stage: Stage) -> None:
    await stage.workflow()
    await stage.track()
    await stage.track(user_id="bob")
    async with stage.database.connection() as connection:
        await connection.execute("DELETE FROM profiles WHERE project_id = $1 AND user_id = 'ada'", stage.project_id)

    assert [run.user_id for run in await stage.follow()] == ["bob"]
    async with stage.database.connection() as connection:
        people = await connection.fetch("SELECT user_id FROM profiles WHERE project_id = $1", stage.project_id)
    assert [row["user_id"] for row in people] == ["bob"]


async def test_once_per_user_is_once_whatever_became_of_it(stage: Stage) -> None:
    await stage.workflow(reentry=ReentryPolicy.ONCE_PER_USER)
    # Two in one page, then in another, then after the run is over.
    for user_id in ("ada", "ada", "bob", None, None):
        await stage.track(user_id=user_id)
    assert [run.user_id for run in await stage.follow()] == ["ada", "bob", None, None]
    await end_runs(stage, "CANCELLED")
    await stage.track()

    assert len(await stage.follow()) == 4


async def test_one_active_run_at_a_time(stage: Stage) -> None:
    workflow_id = await stage.workflow(reentry=ReentryPolicy.ONE_ACTIVE_RUN)
    for user_id in ("ada", "ada", "bob"):
        await stage.track(user_id=user_id)
    assert [run.user_id for run in await stage.follow()] == ["ada", "bob"]
    await stage.track()
    assert len(await stage.follow()) == 2
    await end_runs(stage, "COMPLETED")
    await stage.track()
    await stage.track()

    assert [run.user_id for run in await stage.follow()] == ["ada", "bob", "ada"]
    # One in the queue of a paused workflow is one that goes on.
    await end_runs(stage, "COMPLETED")
    await stage.change(workflow_id, is_paused=True)
    await stage.track()
    await stage.track()
    assert len(await stage.follow()) == 4


async def end_runs(stage: Stage, status: str) -> None:
    async with stage.database.connection() as connection:
        await connection.execute(
            "UPDATE workflow_runs SET status = $2, claim_at = NULL, is_held = false WHERE project_id = $1",
            stage.project_id,
            status,
        )


async def test_triggers_of_a_paused_workflow_queue(stage: Stage) -> None:
    paused, releasing = await stage.workflow(), await stage.workflow()
    await stage.change(paused, is_paused=True)
    await stage.change(releasing, pending_change="RELEASE")
    await stage.track()

    runs = await stage.follow()

    # Those that queued before go first, so whoever comes while they are released queues behind them.
    assert [(run.status, run.is_held, run.claim_at) for run in runs] == [("QUEUED", True, None)] * 2
    assert [status for _, _, status in await stage.run_updates()] == ["QUEUED"] * 2
    assert stage.woken == []


async def test_what_is_off_or_was_switched_on_later_starts_nothing(stage: Stage) -> None:
    off, later, deleted = [await stage.workflow() for _ in range(3)]
    await stage.track()
    await stage.change(off, is_active=False)
    await stage.change(later, after_seq=1)
    await stage.change(deleted, is_active=False, deleted_at=stage.now)
    await stage.track()

    await stage.follow()

    assert await stage.started() == [(later, 2)]


async def test_switched_off_after_it_was_matched_it_starts_nothing(stage: Stage) -> None:
    """What was remembered of triggers is not believed: the workflow is looked at under its lock."""
    workflow_id = await stage.workflow()
    await stage.track()
    assert len(await stage.follow()) == 1
    async with stage.database.connection() as connection:
        # Without raising the generation: as if it happened between reading the triggers and locking.
        await connection.execute("UPDATE workflows SET is_active = false WHERE workflow_id = $1", workflow_id)
    await stage.track()

    assert len(await stage.follow()) == 1


async def test_a_new_version_is_taken_from_the_next_page_on(stage: Stage) -> None:
    workflow_id = await stage.workflow("order.placed")
    await stage.track("order.placed")
    await stage.follow()
    await stage.save(workflow_id, 2, Trigger(event_type="order.paid"))
    await stage.track("order.placed")
    await stage.track("order.paid")

    runs = await stage.follow()

    assert [(run.version, run.event_seq) for run in runs] == [(1, 1), (2, 4)]


@pytest.mark.parametrize(("depth", "made"), [(MAX_DEPTH, "RUNNING"), (MAX_DEPTH + 1, "FAILED"), (MAX_DEPTH + 2, None)])
async def test_chains_of_workflows_stop_at_the_bound_and_say_so(stage: Stage, depth: int, made: str | None) -> None:
    await stage.workflow("order.placed")
    await stage.track(context=json.dumps({"depth": depth}))

    runs = await stage.follow()

    assert [(run.status, run.depth) for run in runs] == ([] if made is None else [(made, depth)])
    if made == "FAILED":
        assert runs[0].error == f"Workflows that start each other stop after {MAX_DEPTH}."
        assert [each.event_type for each in await stage.events()] == ["automation.run_started", "automation.run_failed"]
        assert stage.woken == []


async def test_a_workflow_that_starts_itself_stops(stage: Stage) -> None:
    await stage.workflow("automation.run_started")
    await stage.track("automation.run_started")

    runs = await stage.follow()

    assert [(run.depth, run.status) for run in runs] == [
        *((depth, "RUNNING") for depth in range(MAX_DEPTH + 1)),
        (MAX_DEPTH + 1, "FAILED"),
    ]


async def test_more_than_a_page_starts_in_order(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "MAX_ENTRANTS", 30)
    workflow_ids = [await stage.workflow() for _ in range(4)]
    count = PAGE_ITEMS + 20
    await stage.append(*(new_event(f"e{number}", user_id=f"u{number % 7}") for number in range(count)))

    await stage.follow()

    started = await stage.started()
    assert started == [(each, seq) for seq in range(1, count + 1) for each in workflow_ids]
    # No transaction made more than it may: each announced what it made.
    lanes = [each for each in stage.announced if each.lane is Lane.RUNS]
    assert max(each.last - each.first + 1 for each in lanes) <= 30
    assert [each.first for each in lanes[1:]] == [each.last + 1 for each in lanes[:-1]]


async def test_an_event_that_starts_very_many_is_taken_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "MAX_ENTRANTS", 2)
    for _ in range(3):
        await stage.workflow()
    await stage.track()
    await stage.track()

    assert len(await stage.follow()) == 6


@pytest.mark.parametrize("crash_at", range(1, 22))
async def test_a_crash_anywhere_neither_loses_nor_repeats(stage: Stage, crash_at: int) -> None:
    """The worker is thrown away at one place after another; another one goes on."""
    workflow_id = await stage.workflow(reentry=ReentryPolicy.ONE_ACTIVE_RUN)
    await stage.append(*(new_event(f"e{number}", user_id=f"u{number}") for number in range(5)))
    task = asyncio.create_task(stage.follower.follow(stage.project_id))
    for _ in range(crash_at * 3):
        await asyncio.sleep(0.0005)
        if task.done():
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await stage.end_leases()

    await stage.another_worker().follow(stage.project_id)

    assert await stage.started() == [(workflow_id, seq) for seq in range(1, 6)]
    assert len(await stage.run_updates()) == len(await stage.events()) == 5


async def test_a_lost_answer_to_a_commit_starts_nothing_twice(stage: Stage, tmp_path: Path) -> None:
    workflow_id = await stage.workflow()
    await stage.append(*(new_event(f"e{number}") for number in range(5)))
    async with open_proxy(tmp_path, stage.url) as proxy, open_database(proxy.url, max_size=2) as database:
        begun = 0

        def is_commit_of_runs(sent: bytes) -> bool:
            nonlocal begun
            begun += b"INSERT INTO workflow_runs" in sent
            return begun > 0 and b"COMMIT" in sent

        proxy.lose_answers_to(is_commit_of_runs, times=1)
        await Stage(database, stage.project_id, stage.url).follow()
        assert proxy.lost == 1

    assert await stage.started() == [(workflow_id, seq) for seq in range(1, 6)]
    assert len(await stage.run_updates()) == len(await stage.events()) == 5


async def test_several_workers_at_once_start_once(stage: Stage) -> None:
    workflow_ids = [await stage.workflow(), await stage.workflow(reentry=ReentryPolicy.ONCE_PER_USER)]
    await stage.append(*(new_event(f"e{number}", user_id=f"u{number}") for number in range(450)))

    await asyncio.gather(*(stage.another_worker().follow(stage.project_id) for _ in range(4)))
    await stage.follow()

    assert await stage.started() == [(each, seq) for seq in range(1, 451) for each in workflow_ids]


async def test_other_projects_start_nothing_here(stage: Stage, module_database_url: str) -> None:
    async with open_stage(module_database_url) as other:
        await other.workflow()
        await stage.track()
        await stage.workflow()
        await other.follow()

        assert await other.runs() == [] == await stage.follow()
