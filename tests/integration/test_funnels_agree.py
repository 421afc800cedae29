"""Funnels in SQL count what the reference counts, for every order, over generated histories.

Histories have late events, ties in time, steps that are done again, people that merge, and what is excluded at the very
edges. `SENDORA_FUNNEL_EXAMPLES` says how many (40 by default), each of three questions.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.analytics_terms import Period, Step
from db.condition_terms import Path
from db.database import Database
from db.events import append_events
from db.filters import Condition
from db.funnels import Funnel, FunnelCount, FunnelOrder, StepCount, count_funnel
from db.identity_links import take_over_user
from db.records import NewEvent
from tests.integration.log_support import make_project, new_event, open_database
from tests.reference.funnels import (
    Arrival,
    Asked,
    Happened,
    ReferenceStep,
    count_people,
    first_event,
    people_of,
    percentile,
)

EXAMPLES = int(os.environ.get("SENDORA_FUNNEL_EXAMPLES", "40"))
START = datetime(2026, 5, 1, tzinfo=UTC)
LIMIT = 1
TYPES = ("a", "b", "c", "x")

ids = st.sampled_from([(None, "p"), (None, "q"), ("ada", None), ("ada", "p"), ("eve", "q"), ("p", None), (None, None)])
moments = st.integers(0, 9)
histories = st.lists(
    st.tuples(moments, st.sampled_from(TYPES), ids, st.sampled_from([None, "o1", "o2"]), st.sampled_from([None, "m"])),
    max_size=9,
)
steps = st.builds(ReferenceStep, st.sampled_from(TYPES[:3]), st.sampled_from([None, None, "m"]), st.just(False))
takeovers = st.lists(st.permutations(["ada", "eve", "p"]).map(lambda users: (users[0], users[1])), max_size=2)


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    order = draw(st.sampled_from(["ORDERED", "STRICT", "UNORDERED"]))
    asked = draw(st.lists(steps, min_size=2, max_size=4))
    if order != "UNORDERED" and len(asked) > 2:
        skipped = draw(st.sets(st.integers(1, len(asked) - 1), max_size=len(asked) - 2))
        asked = [step._replace(optional=number in skipped) for number, step in enumerate(asked)]
    return Asked(
        steps=tuple(asked),
        order=order,
        window=draw(st.integers(1, 8)),
        exclude=tuple(draw(st.lists(st.sampled_from([ReferenceStep("x"), ReferenceStep("b", "m")]), max_size=1))),
        hold=draw(st.booleans()),
        since=draw(st.integers(0, 2)),
        until=draw(st.integers(7, 10)),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=histories,
    questions=st.lists(st.tuples(questions(), st.booleans()), min_size=3, max_size=3),
    merged=takeovers,
)
async def test_every_order_counts_as_the_reference_does(
    database_url: str,
    history: list[tuple[int, str, tuple[str | None, str | None], str | None, str | None]],
    questions: list[tuple[Asked, bool]],
    merged: list[tuple[str, str]],
) -> None:
    events = [
        Happened(seq, at, event_type, user_id, anonymous_id, order, plan)
        for seq, (at, event_type, (user_id, anonymous_id), order, plan) in enumerate(history, start=1)
    ]
    async with open_database(database_url, min_size=1, max_size=1) as database:
        project = await stored(database, events, merged)
        for asked, is_grouped in questions:
            counted = await count(database, project, asked, is_grouped=is_grouped)
            people = count_people(events, asked, merged)
            assert counted.steps == counts_of(list(people.values()), asked)
            groups = [(each.value, each.is_other, each.steps) for each in counted.groups]
            assert groups == (groups_of(events, asked, merged) if is_grouped else [])


async def count(database: Database, project: UUID, asked: Asked, *, is_grouped: bool) -> FunnelCount:
    async with database.connection() as connection:
        return await count_funnel(
            connection,
            project_id=project,
            funnel=funnel_of(asked, is_grouped=is_grouped),
            period=Period(START + timedelta(seconds=asked.since), START + timedelta(seconds=asked.until)),
            audience=None,
            now=START,
        )


def groups_of(
    events: Sequence[Happened], asked: Asked, merged: Sequence[tuple[str, str]]
) -> list[tuple[str | None, bool, tuple[StepCount, ...]]]:
    histories = people_of(events, merged)
    groups: defaultdict[str | None, list[list[Arrival | None]]] = defaultdict(list)
    for person, arrivals in count_people(events, asked, merged).items():
        groups[first_event(histories[person], asked, arrivals).plan].append(arrivals)
    ranked = sorted(groups, key=lambda value: (-len(groups[value]), value or ""))
    rest = [arrivals for value in ranked[LIMIT:] for arrivals in groups[value]]
    listed = [(value, False, counts_of(groups[value], asked)) for value in ranked[:LIMIT]]
    return listed + ([(None, True, counts_of(rest, asked))] if rest else [])


def funnel_of(asked: Asked, *, is_grouped: bool) -> Funnel:
    return Funnel(
        steps=tuple(step_of(step) for step in asked.steps),
        window_seconds=asked.window,
        order=FunnelOrder(asked.order),
        exclude=tuple(step_of(step) for step in asked.exclude),
        hold=Path("event", "properties", ("order",)) if asked.hold else None,
        group=Path("event", "properties", ("plan",)) if is_grouped else None,
        group_limit=LIMIT,
    )


def step_of(step: ReferenceStep) -> Step:
    where = () if step.plan is None else (Condition(path="event.properties.plan", op="EQ", value=step.plan),)
    return Step(
        name=step.event_type,
        event_type=step.event_type,
        event_types=(step.event_type,),
        where=where,
        optional=step.optional,
    )


def counts_of(people: Sequence[Sequence[Arrival | None]], asked: Asked) -> tuple[StepCount, ...]:
    return tuple(count_of([arrivals[step] for arrivals in people], step) for step in range(len(asked.steps)))


def count_of(arrivals: Sequence[Arrival | None], step: int) -> StepCount:
    there = [arrival for arrival in arrivals if arrival is not None]
    seconds = [float(arrival.at - arrival.left_previous_at) for arrival in there] if step else []
    median, p90 = percentile(seconds, 0.5), percentile(seconds, 0.9)
    return StepCount(
        len(there),
        None if median is None else pytest.approx(median),  # type: ignore[arg-type]
        None if p90 is None else pytest.approx(p90),  # type: ignore[arg-type]
    )


async def stored(database: Database, events: Sequence[Happened], merged: Sequence[tuple[str, str]]) -> UUID:
    project = await make_project(database, name=str(uuid4()))
    async with database.transaction() as connection:
        if events:
            await append_events(connection, project_id=project, batch_token=1, events=[_new(event) for event in events])
        for seq, (alias, user_id) in enumerate(merged, start=1):
            await take_over_user(connection, project_id=project, alias=alias, user_id=user_id, seq=seq)
    return project


def _new(event: Happened) -> NewEvent:
    values = {"order": event.order, "plan": event.plan}
    written = ", ".join(f'"{name}": "{value}"' for name, value in values.items() if value is not None)
    return new_event(
        str(event.seq),
        event_type=event.event_type,
        timestamp=START + timedelta(seconds=event.at),
        user_id=event.user_id,
        anonymous_id=event.anonymous_id,
        properties=f"{{{written}}}",
    )
