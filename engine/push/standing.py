"""What is known of the people that pushes are for: consents, what they were sent, the project's rules.

Guarantees: read under the locks of their profiles, so that until the transaction ends nobody is erased and no consent
changes; where there are caps, whoever else counts the same person waits. Locks, in this order: profiles, consents.
Leaves to others: the tokens, and reserving what is sent (`Standings.reservations`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from db.consents import read_consents
from db.profiles import lock_profiles, share_profiles
from db.push_reservations import Reservation, SendCount, count_sends
from db.push_settings import PushSettingsRecord, read_push_settings
from engine.consent import ConsentPurpose, ConsentState
from engine.dispatch.values import PushContent
from engine.project_settings import ProjectSettings, read_settings
from engine.push.policy import Decision, PolicyCase, PolicyToken, PushRules, Send, counts, decide
from engine.push.quiet_hours import QuietHours

if TYPE_CHECKING:
    import asyncpg


class Standings:
    """Decides about messages to some people, one after the other: what it decided to send counts for the next."""

    def __init__(
        self,
        *,
        rules: PushRules,
        unknown_allowed: bool,
        present: Iterable[str],
        consents: Mapping[str, ConsentState],
        sent: Mapping[str, SendCount],
        now: datetime,
    ) -> None:
        self.present = frozenset(present)
        self.reservations: list[Reservation] = []
        self.rules = rules
        self._unknown_allowed = unknown_allowed
        self._consents = consents
        self._sent = dict(sent)
        self._now = now

    def sent(self, user_id: str) -> SendCount:
        """What counts against a person's caps; of a project without any, nothing."""
        return self._sent.get(user_id, SendCount())

    def decide(
        self,
        content: PushContent,
        *,
        batch_id: UUID | None,
        user_id: str | None,
        device: UUID | None,
        tokens: Sequence[PolicyToken],
    ) -> tuple[Decision, ...]:
        """As `engine.push.policy.decide`. `device` stands for the person where nobody is known to use it.

        `batch_id` is the deliveries': a message that is replayed is another send.
        """
        sent = self._sent.get(user_id or "", SendCount())
        return decide(
            PolicyCase(
                content=content,
                person=user_id if user_id is not None else str(device),
                consent=self._consents.get(user_id or "", ConsentState.UNKNOWN),
                unknown_allowed=self._unknown_allowed,
                tokens=tokens,
                rules=self.rules,
                now=self._now,
                sent_in_hour=sent.in_hour,
                sent_in_day=sent.in_day,
                is_counted=(content.message_id, batch_id) in sent.sends,
            )
        )

    def count(
        self,
        content: PushContent,
        *,
        batch_id: UUID | None,
        user_id: str | None,
        delivery_id: UUID,
        decision: Decision,
    ) -> None:
        """Count a delivery against the person's caps, if it is sent and such deliveries count."""
        if user_id is None or not isinstance(decision, Send) or not counts(content):
            return
        self.reservations.append(Reservation(delivery_id, batch_id, user_id, content.message_id))
        sent = self._sent.get(user_id, SendCount())
        if (content.message_id, batch_id) not in sent.sends:
            sends = sent.sends | {(content.message_id, batch_id)}
            self._sent[user_id] = SendCount(sent.in_hour + 1, sent.in_day + 1, sends)


async def lock_standings(
    connection: asyncpg.Connection,
    *,
    project_id: UUID,
    user_ids: Iterable[str],
    message_ids: Iterable[UUID],
    now: datetime,
) -> Standings:
    """Lock and read. `now` is business time. Raises `LookupError` for an unknown project."""
    project = await read_settings(connection, project_id=project_id)
    settings = await read_push_settings(connection, project_id=project_id)
    people = sorted(set(user_ids))
    lock = lock_profiles if settings.has_caps else share_profiles
    present = await lock(connection, project_id=project_id, user_ids=people)
    said = await read_consents(connection, project_id=project_id, user_ids=people, purposes=[ConsentPurpose.PUSH])
    sent: Mapping[str, SendCount] = {}
    if settings.has_caps:
        sent = await count_sends(
            connection, project_id=project_id, user_ids=people, message_ids=list(set(message_ids)), now=now
        )
    return Standings(
        rules=rules_of(settings, project),
        unknown_allowed=project.unknown_allowed,
        present=present,
        consents={each.user_id: ConsentState(each.state) for each in said},
        sent=sent,
        now=now,
    )


def rules_of(settings: PushSettingsRecord, project: ProjectSettings) -> PushRules:
    """Settings as the policy takes them: a window needs both its hours. `project` has the defaults of devices."""
    start, end = settings.quiet_hours_start_local, settings.quiet_hours_end_local
    return PushRules(
        quiet_hours=QuietHours(start, end) if start is not None and end is not None else None,
        defers=settings.defer_in_quiet_hours,
        cap_per_day=settings.freq_cap_per_user_per_day,
        cap_per_hour=settings.freq_cap_per_user_per_hour,
        default_zone=project.default_timezone,
        default_locale=project.default_locale,
    )
