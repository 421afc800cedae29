"""What a workflow would do for a sample event: the decisions of a real run, with nothing written and nothing sent.

Guarantees: every step is decided by `engine.workflows.transition`, as in a real run; everything is read in one
transaction that can only read, and sees one moment; time is virtual, so waits and quiet hours pass at once, and it
never runs backwards. It ends after `MAX_SHOWN_STEPS` steps, or when its texts have taken `MAX_CPU_SECONDS`; its status
is RUNNING then. Leaves to others: what others would answer (`engine.workflows.foresight`), and whether the person came
in before, which only runs that are stored can tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import msgspec

from db.filters import Condition
from db.records import EventRecord, NewEvent, ProfileRecord, ProjectRecord
from engine.consent import ConsentPurpose, allows
from engine.dispatch.values import DeliveryStatus
from engine.egress import Egress
from engine.errors import UserError
from engine.events import EventDraft, normalise
from engine.taxonomy import CANONICAL
from engine.vault import Vault
from engine.workflows.conditions import Subject, holds, trigger_matches
from engine.workflows.definition import Definition, RunStatus, Trigger
from engine.workflows.foresight import foresee, merged_profile
from engine.workflows.lookup import Lookup
from engine.workflows.state import DeliverPush, DeliveryReport, Effect, MergeTraits, Report, StepTrace
from engine.workflows.surroundings import Surroundings, wanted
from engine.workflows.transition import begin, decide

if TYPE_CHECKING:
    import asyncpg

DEFAULT_MODULE = "analytics"
"""Of events that are not canonical, as they are tracked."""
MAX_SHOWN_STEPS = 200
"""Steps of a dry run: more are not read."""
MAX_CPU_SECONDS = 3.0
"""Of one dry run: an ordinary one takes some milliseconds."""
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_NO_CONSENT = UserError(
    "This person's consent for WORKFLOWS does not allow a run: none would start.", "CONSENT", ("input", "userId")
)

T = TypeVar("T")


class SampleEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to try a workflow on. `properties` and `context` are JSON objects, as their UTF-8 bytes."""

    event_type: str
    user_id: str | None
    properties: bytes
    context: bytes


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen. `status` None: no run would start; `error` is why it fails. Errors are about the input, or say
    that consent does not allow a run: there is no trace then."""

    matched: bool = False
    status: RunStatus | None = None
    trace: tuple[StepTrace, ...] = ()
    error: str | None = None
    errors: tuple[UserError, ...] = ()


async def dry_run(
    connection: asyncpg.Connection,
    vault: Vault,
    egress: Egress,
    *,
    project: ProjectRecord,
    definition: Definition,
    sample: SampleEvent,
    now: datetime,
) -> DryRun:
    """Try a workflow on an event. `connection` is in no transaction; `now` is business time."""
    checked = _check_sample(sample, project)
    if isinstance(checked, UserError):
        return DryRun(errors=(checked,))
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        lookup = Lookup(connection, vault, project)
        profile = _after_event(await lookup.profile(checked.user_id), checked, project, now)
        profile = None if profile is None else await lookup.as_stored(profile)
        event = await lookup.as_stored(_event(checked, project, now))
        is_scheduled = definition.trigger.schedule is not None
        around = await lookup.begin(
            event=None if is_scheduled else event, user_id=checked.user_id, profile=profile, refuse_url=egress.refusal
        )
        if not await _starts(lookup, definition.trigger, around, now):
            return DryRun()
        consent = around.consent(ConsentPurpose.WORKFLOWS)
        if around.user_id is not None and not allows(consent, unknown_allowed=around.unknown_allowed):
            return DryRun(matched=True, errors=(_NO_CONSENT,))
        return await _Walk(lookup, definition, around, now).walk()


async def _starts(lookup: Lookup, trigger: Trigger, around: Surroundings, now: datetime) -> bool:
    """Whether a workflow starts for somebody, as the sample leaves them; counts of events count it too."""
    subject = Subject(
        event=around.event,
        profile=around.profile,
        now=now,
        consents={purpose.lower(): state for purpose, state in around.consents.items()},
        default_zone=around.default_zone,
    )
    if trigger.audience_id is not None:
        members = await lookup.members(trigger.audience_id)
        if members is None or subject.profile is None or not await _holds(lookup, members, subject):
            return False
    if trigger.schedule is not None:
        return await _holds(lookup, trigger.filters, subject)
    subject = msgspec.structs.replace(subject, counted=await lookup.counted(trigger.filters, subject))
    return trigger_matches(trigger, subject)


async def _holds(lookup: Lookup, conditions: Sequence[Condition], subject: Subject) -> bool:
    counted = await lookup.counted(conditions, subject)
    return holds(conditions, msgspec.structs.replace(subject, counted=counted))


class _Walk:
    """One run in virtual time, from its first step to its end."""

    def __init__(self, lookup: Lookup, definition: Definition, around: Surroundings, now: datetime) -> None:
        self._lookup = lookup
        self._definition = definition
        self._around = around
        self._now = now
        self._state = begin(definition, run_id=UUID(int=0), version=1, now=now)
        self._traces: dict[int, StepTrace] = {}
        self._pushed_at: list[datetime] = []
        self._cpu_seconds = 0.0

    async def walk(self) -> DryRun:
        """Step by step. What is computed is computed in a thread: templates may take long."""
        while self._goes_on():
            self._now = max(self._now, self._state.next_step_at or self._now)
            needs = await self._in_thread(lambda: wanted(self._definition, self._state, self._around, self._now))
            self._around = await self._lookup.add(self._around, needs, self._now)
            if needs.devices:
                self._count_own_pushes()
            profile = self._around.profile
            await self._in_thread(self._decide)
            if self._around.profile is not profile and self._around.profile is not None:
                kept = await self._lookup.as_stored(self._around.profile)
                self._around = msgspec.structs.replace(self._around, profile=kept)
        state = self._state
        return DryRun(matched=True, status=state.status, trace=tuple(self._traces.values()), error=state.error)

    def _goes_on(self) -> bool:
        is_open = self._state.open_trace is not None
        return (
            self._state.status is RunStatus.RUNNING
            and (is_open or len(self._traces) < MAX_SHOWN_STEPS)
            and self._cpu_seconds < MAX_CPU_SECONDS
        )

    def _decide(self) -> None:
        """One decision, and at once what becomes of its effects."""
        for effect in self._look(None):
            report = foresee(effect, self._around, self._now)
            if isinstance(effect, MergeTraits) and self._around.profile is not None:
                merged = merged_profile(self._around.profile, effect.traits)
                self._around = msgspec.structs.replace(self._around, profile=merged)
            if isinstance(report, DeliveryReport):
                self._now = max(self._now, *(result.at for result in report.results))
                if isinstance(effect, DeliverPush):
                    self._note_push(report)
            if report is not None:
                self._look(report)

    def _look(self, report: Report | None) -> tuple[Effect, ...]:
        decision = decide(self._definition, self._state, self._around, self._now, report)
        self._state = decision.state
        if decision.trace is not None:
            self._traces[decision.trace.number] = decision.trace
        return decision.effects

    def _note_push(self, report: DeliveryReport) -> None:
        """What reached no device does not count."""
        sent = [result.at for result in report.results if result.status is DeliveryStatus.SENT]
        if sent:
            self._pushed_at.append(max(sent))

    def _count_own_pushes(self) -> None:
        """What this run has sent counts against the caps, too."""
        push = self._around.push
        in_hour, in_day = (sum(at > self._now - window for at in self._pushed_at) for window in (_HOUR, _DAY))
        counted = msgspec.structs.replace(
            push, sent_in_hour=push.sent_in_hour + in_hour, sent_in_day=push.sent_in_day + in_day
        )
        self._around = msgspec.structs.replace(self._around, push=counted)

    async def _in_thread(self, compute: Callable[[], T]) -> T:
        def timed() -> tuple[T, float]:
            started = time.thread_time()
            return compute(), time.thread_time() - started

        result, seconds = await asyncio.to_thread(timed)
        self._cpu_seconds += seconds
        return result


def _check_sample(sample: SampleEvent, project: ProjectRecord) -> NewEvent | UserError:
    """The event as it would be stored, or why it would not be."""
    known = CANONICAL.get(sample.event_type)
    draft = EventDraft(
        event_type=sample.event_type,
        user_id=sample.user_id,
        properties=sample.properties,
        context=sample.context,
        module=DEFAULT_MODULE if known is None else known.module,
    )
    checked = normalise([draft], salt=project.salt)[0]
    if isinstance(checked, UserError):
        return msgspec.structs.replace(checked, path=("input", *checked.path))
    return checked


def _event(checked: NewEvent, project: ProjectRecord, now: datetime) -> EventRecord:
    return EventRecord(
        project_id=project.project_id,
        seq=0,
        key=checked.key,
        module=checked.module,
        event_type=checked.event_type,
        timestamp=now,
        received_at=now,
        user_id=checked.user_id,
        anonymous_id=None,
        properties=msgspec.Raw(checked.properties.encode()),
        context=msgspec.Raw(checked.context.encode()),
    )


def _after_event(
    stored: ProfileRecord | None, event: NewEvent, project: ProjectRecord, now: datetime
) -> ProfileRecord | None:
    """The person as the event leaves them: whom it is the first to name has a profile from then on."""
    if event.user_id is None:
        return None
    profile = stored or ProfileRecord(
        project_id=project.project_id,
        profile_id=UUID(int=0),
        user_id=event.user_id,
        anonymous=False,
        traits=msgspec.Raw(b"{}"),
        created_at=now,
        last_seen_at=now,
    )
    profile = msgspec.structs.replace(profile, last_seen_at=now)
    return profile if event.traits is None else merged_profile(profile, msgspec.json.decode(event.traits))
