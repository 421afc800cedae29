"""Schedules: for every member of an audience a run each time that one is due, once, whatever crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

import db.enrolment
from db.audiences import delete_audience, lock_audience
from db.enrolment import find_due_schedules
from db.workflow_records import WorkflowStanding
from db.workflows import lock_workflow
from engine.work import Work, WorkKind
from engine.workflows import enrolment
from engine.workflows.definition import ReentryPolicy, Schedule, Trigger
from engine.workflows.enrolment import last_occurrence
from engine.workflows.schedules import next_occurrence
from tests.integration.log_support import open_database
from tests.integration.postgres_proxy import open_proxy
from tests.integration.schedule_support import DAILY, carry_out, enrolment_of, make_audience, make_people
from tests.integration.trigger_support import Stage, open_stage

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
async def stage(module_database_url: str) -> AsyncIterator[Stage]:
    async with open_stage(module_database_url) as opened:
        yield opened


async def standing(stage: Stage, workflow_id: UUID) -> WorkflowStanding:
    async with stage.database.transaction() as connection:
        found = await lock_workflow(connection, project_id=stage.project_id, workflow_id=workflow_id)
    assert found is not None
    return found


async def is_due(stage: Stage) -> bool:
    async with stage.database.connection() as connection:
        return stage.project_id in await find_due_schedules(connection, now=stage.now)


async def test_every_member_begins_a_run_when_it_is_due_and_then_the_next_time(stage: Stage) -> None:
    await make_people(stage, "ada", "bob", traits='{"plan":"pro"}')
    await make_people(stage, "cid")
    pros = await make_audience(stage, {"path": "profile.traits.plan", "op": "EQ", "value": "pro"})
    workflow_id = await stage.workflow(None, schedule=DAILY, audience_id=pros)

    assert not await is_due(stage)
    assert await carry_out(stage) == []
    stage.clock.advance(hours=19)
    assert await is_due(stage)

    assert await carry_out(stage) == ["ada", "bob"]
    assert await carry_out(stage) == ["ada", "bob"]
    assert not await is_due(stage)
    after = await standing(stage, workflow_id)
    assert after.next_due_at == datetime(2026, 5, 3, 7, tzinfo=UTC)
    assert (after.enrolling_due_at, after.enrolled_up_to) == (None, None)
    [run, _] = await stage.runs()
    assert (run.event_seq, run.depth, run.started_at, run.claim_at) == (None, 0, stage.now, stage.now)
    assert [status for _, _, status in await stage.run_updates()] == ["RUNNING"] * 2
    assert [each.event_type for each in await stage.events()] == ["automation.run_started"] * 2
    assert stage.woken == [Work(WorkKind.RUNS, stage.project_id)]

    stage.clock.advance(days=1)
    assert await carry_out(stage) == ["ada", "bob"] * 2


async def test_filters_consent_and_reentry_are_asked_of_members_too(stage: Stage) -> None:
    everybody = await make_audience(stage)
    await make_people(stage, "ada", "bob", "cid")
    await make_people(stage, "dan", traits='{"plan":"free"}')
    await stage.say("bob", "REVOKED")
    bought = {"events": {"eventType": "order.placed"}, "op": "GTE", "value": 1}
    for user_id in ("ada", "bob", "dan"):
        await stage.track("order.placed", user_id=user_id)
    no_plan = {"path": "profile.traits.plan", "op": "NOT_EXISTS"}
    await stage.workflow(
        None, bought, no_plan, schedule=DAILY, audience_id=everybody, reentry=ReentryPolicy.ONCE_PER_USER
    )
    stage.clock.advance(days=1)

    assert await carry_out(stage) == ["ada"]
    await stage.track("order.placed", user_id="cid")
    stage.clock.advance(days=1)
    assert await carry_out(stage) == ["ada", "cid"]


async def test_who_came_in_by_an_event_is_not_enrolled_again(stage: Stage) -> None:
    """The same workflow, once started by events and then by a schedule."""
    everybody = await make_audience(stage)
    workflow_id = await stage.workflow("order.placed", reentry=ReentryPolicy.ONE_ACTIVE_RUN)
    await stage.track(user_id="ada")
    await make_people(stage, "bob")
    await stage.follow()
    trigger = Trigger(schedule=DAILY, audience_id=everybody, reentry=ReentryPolicy.ONE_ACTIVE_RUN)
    await stage.save(workflow_id, 2, trigger)
    await stage.change(workflow_id, next_due_at=stage.now)

    assert await carry_out(stage) == ["ada", "bob"]


async def test_many_members_come_page_by_page_and_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 7)
    monkeypatch.setattr(db.enrolment, "MAX_SCANNED", 10)
    everyone = [f"u{number:03}" for number in range(60)]
    await make_people(stage, *everyone[::2], traits='{"even":true}')
    await make_people(stage, *everyone[1::2])
    even = await make_audience(stage, {"path": "profile.traits.even", "op": "EQ", "value": True})
    workflow_id = await stage.workflow(None, schedule=DAILY, audience_id=even)
    await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)

    await asyncio.gather(*(enrolment_of(stage).carry_out(stage.project_id) for _ in range(3)))
    await carry_out(stage)

    runs = await stage.runs()
    assert [run.user_id for run in runs if run.workflow_id == workflow_id] == everyone[::2]
    assert sorted(run.user_id or "" for run in runs if run.workflow_id != workflow_id) == everyone


async def test_nobody_is_left_out_by_who_comes_and_goes_on_the_way(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 2)
    await make_people(stage, "a", "b", "c", "d", "e")
    workflow_id = await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)
    work = enrolment_of(stage)
    async with stage.database.connection() as connection:
        [due] = await db.enrolment.find_due_workflows(connection, project_id=stage.project_id, now=stage.now, limit=1)
    after = await work._enrol_page(due)
    assert after is not None
    assert after == await standing(stage, workflow_id)
    assert (after.enrolling_due_at, after.enrolled_up_to) == (datetime(2026, 5, 2, 7, tzinfo=UTC), "b")
    async with stage.database.connection() as connection:
        await connection.execute(
            "DELETE FROM profiles WHERE project_id = $1 AND user_id IN ('b', 'c')", stage.project_id
        )
    await make_people(stage, "bb", "aa")

    assert await carry_out(stage) == ["a", "b", "bb", "d", "e"]


async def test_who_is_a_member_is_judged_as_of_the_occurrence(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it is carried out: else those whose birthday it was would be missed by who comes after midnight."""
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 1)
    await make_people(stage, "a", "c", traits='{"born":"1990-05-02"}')
    await make_people(stage, "b", traits='{"born":"1990-05-03"}')
    born_today = await make_audience(stage, {"path": "profile.traits.born", "op": "IS_ANNIVERSARY"})
    await stage.workflow(None, schedule=DAILY, audience_id=born_today)
    stage.clock.advance(hours=19)
    async with stage.database.connection() as connection:
        [due] = await db.enrolment.find_due_workflows(connection, project_id=stage.project_id, now=stage.now, limit=1)
    assert await enrolment_of(stage)._enrol_page(due) is not None
    # The worker died there; the next one comes after midnight, before the next occurrence.
    stage.clock.advance(hours=20)

    assert await carry_out(stage) == ["a", "c"]
    stage.clock.advance(hours=5)
    assert await carry_out(stage) == ["a", "c", "b"]


async def test_of_missed_occurrences_the_last_is_carried_out(stage: Stage) -> None:
    await make_people(stage, "ada")
    workflow_id = await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=10)

    assert await carry_out(stage) == ["ada"]
    assert (await standing(stage, workflow_id)).next_due_at == datetime(2026, 5, 12, 7, tzinfo=UTC)


async def test_an_occurrence_that_passes_meanwhile_comes_next(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 1)
    await make_people(stage, "ada", "bob")
    await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)
    async with stage.database.connection() as connection:
        [due] = await db.enrolment.find_due_workflows(connection, project_id=stage.project_id, now=stage.now, limit=1)
    assert await enrolment_of(stage)._enrol_page(due) is not None
    stage.clock.advance(days=1)

    assert await carry_out(stage) == ["ada", "bob", "ada", "bob"]


async def test_an_empty_audience_and_one_that_was_deleted_are_no_trouble(stage: Stage) -> None:
    nobody = await make_audience(stage, {"path": "profile.userId", "op": "EQ", "value": "nobody"})
    gone = await make_audience(stage)
    await make_people(stage, "ada")
    made = [await stage.workflow(None, schedule=DAILY, audience_id=each) for each in (nobody, gone)]
    async with stage.database.transaction() as connection:
        assert await lock_audience(connection, project_id=stage.project_id, audience_id=gone) is not None
        await delete_audience(connection, project_id=stage.project_id, audience_id=gone, now=stage.now)
    stage.clock.advance(days=1)

    assert await carry_out(stage) == []
    for workflow_id in made:
        assert (await standing(stage, workflow_id)).next_due_at == datetime(2026, 5, 3, 7, tzinfo=UTC)


async def test_a_paused_workflow_queues_and_one_that_is_off_does_nothing(stage: Stage) -> None:
    await make_people(stage, "ada")
    everybody = await make_audience(stage)
    paused = await stage.workflow(None, schedule=DAILY, audience_id=everybody)
    off = await stage.workflow(None, schedule=DAILY, audience_id=everybody)
    await stage.change(paused, is_paused=True)
    await stage.change(off, is_active=False, next_due_at=None)
    stage.clock.advance(days=1)

    await carry_out(stage)

    assert [(run.workflow_id, run.status, run.is_held) for run in await stage.runs()] == [(paused, "QUEUED", True)]


async def test_a_schedule_that_is_changed_while_it_is_carried_out_ends_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 1)
    await make_people(stage, "ada", "bob")
    workflow_id = await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)
    async with stage.database.connection() as connection:
        [due] = await db.enrolment.find_due_workflows(connection, project_id=stage.project_id, now=stage.now, limit=1)
    work = enrolment_of(stage)
    after = await work._enrol_page(due)
    assert after is not None
    await stage.change(workflow_id, next_due_at=stage.now + timedelta(hours=1))

    # Whoever had read it before writes nothing.
    assert await work._enrol_page(after) is None
    assert await carry_out(stage) == ["ada"]
    stage.clock.advance(hours=2)
    assert await carry_out(stage) == ["ada", "ada", "bob"]


async def test_who_takes_long_lets_others_go_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "ENROL_SECONDS", -1.0)
    await make_people(stage, "ada")
    await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)

    assert await enrolment_of(stage).carry_out(stage.project_id)


async def test_one_that_cannot_be_carried_out_does_not_stop_the_others(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await make_people(stage, "ada")
    broken = await make_audience(stage)
    for audience_id in (broken, await make_audience(stage)):
        await stage.workflow(None, schedule=DAILY, audience_id=audience_id)
    async with stage.database.connection() as connection:
        await connection.execute(
            """UPDATE audiences SET conditions = '[{"path":"no.such"}]' WHERE audience_id = $1""", broken
        )
    stage.clock.advance(days=1)

    assert await carry_out(stage) == ["ada"]
    assert [record.message for record in caplog.records] == ["enrolment.failed"]


async def test_what_is_no_longer_a_schedule_is_never_due_again(stage: Stage) -> None:
    workflow_id = await stage.workflow("order.placed")
    await stage.change(workflow_id, next_due_at=stage.now)

    assert await carry_out(stage) == []
    assert (await standing(stage, workflow_id)).next_due_at is None


@pytest.mark.parametrize("crash_at", range(1, 24))
async def test_a_crash_anywhere_neither_forgets_nor_repeats(
    stage: Stage, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 2)
    everyone = [f"u{number}" for number in range(5)]
    await make_people(stage, *everyone)
    await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)
    task = asyncio.create_task(enrolment_of(stage).carry_out(stage.project_id))
    for _ in range(crash_at * 3):
        await asyncio.sleep(0.0005)
        if task.done():
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await carry_out(stage) == everyone
    assert len(await stage.run_updates()) == 5


async def test_a_lost_answer_to_a_commit_enrols_nobody_twice(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "PAGE_MEMBERS", 2)
    await make_people(stage, "ada", "bob", "cid")
    await stage.workflow(None, schedule=DAILY, audience_id=await make_audience(stage))
    stage.clock.advance(days=1)
    async with open_proxy(tmp_path, stage.url) as proxy, open_database(proxy.url, max_size=2) as database:
        begun = 0

        def is_commit_of_runs(sent: bytes) -> bool:
            nonlocal begun
            begun += b"INSERT INTO workflow_runs" in sent
            return begun > 0 and b"COMMIT" in sent

        proxy.lose_answers_to(is_commit_of_runs, times=1)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await enrolment_of(Stage(database, stage.project_id, stage.url, stage.clock)).carry_out(stage.project_id)
        assert proxy.lost == 1

    assert await carry_out(stage) == ["ada", "bob", "cid"]


@pytest.mark.parametrize(
    ("cron", "missed"),
    [
        ("* * * * *", timedelta(days=400)),  # half a million of them
        ("*/7 3-5 * * *", timedelta(hours=30)),
        ("30 2 * * *", timedelta(days=200)),  # over both changes of the clock
        ("0 0 29 2 *", timedelta(days=365 * 5)),
        ("0 9 * * MON", timedelta()),
        ("0 9 * * MON", timedelta(minutes=1)),
    ],
)
def test_the_last_occurrence_is_found_without_going_through_all_of_them(cron: str, missed: timedelta) -> None:
    schedule = Schedule(cron, "Europe/Berlin")
    first = next_occurrence(schedule, START)
    assert first is not None
    now = first + missed

    last = last_occurrence(schedule, first, now)

    following = next_occurrence(schedule, last)
    assert first <= last <= now
    assert following is not None
    assert following > now
    assert last == first or next_occurrence(schedule, last - timedelta(microseconds=1)) == last
