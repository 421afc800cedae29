"""What people allow, and the log of every change."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry

from db.consent_changes import ConsentChangeFilter, ConsentChangeRecord
from engine.consent import ConsentPurpose, ConsentState
from engine.node_ids import NodeKind, write_node_id
from resolvers.consent import MAX_SOURCE_CHARACTERS, ConsentArguments, ConsentSet, HeldConsent
from resolvers.paging import Page
from schema.descriptions import described_enum
from schema.errors import MutationPayload, user_errors
from schema.inputs import build_with
from schema.node import Node
from schema.paging import PageInfo, edges_of
from schema.scalars import Cursor
from schema.withheld import WITHHELD

if TYPE_CHECKING:
    from schema.profile import Profile

described_enum(
    ConsentPurpose,
    "What consent is given for.",
    EMAIL="Mail.",
    PUSH="Push notifications and Live Activities.",
    SMS="Text messages.",
    ANALYTICS="Events of module analytics: without it they are answered, and not stored.",
    WORKFLOWS="Entering workflows.",
)
described_enum(
    ConsentState,
    "What a person said. DENIED and REVOKED always block. UNKNOWN follows the project's policy: allow in US, deny in "
    "EU, unless set.",
    GRANTED="Yes.",
    DENIED="No, when asked.",
    REVOKED="No more.",
    UNKNOWN="Nothing, or what was said was taken back.",
)


@strawberry.type(description="What a person says about a purpose now. Needs VIEWER, or the person's own session.")
class Consent:
    purpose: ConsentPurpose = strawberry.field(description="What for.")
    state: ConsentState = strawberry.field(description="What they say.")
    updated_at: datetime | None = strawberry.field(description="When they last said so; null when they never did.")

    @staticmethod
    def of(held: HeldConsent) -> Consent:
        return Consent(purpose=held.purpose, state=held.state, updated_at=held.updated_at)


@strawberry.type(
    description=(
        "One change of what a person says, in a log that is only ever added to (docs/consent.md). Needs VIEWER, or the "
        "person's own session; INGEST sees what it wrote itself."
    )
)
class ConsentChange(Node):
    user_id: str | None = strawberry.field(description="Who said it. Null after erasure.")
    purpose: ConsentPurpose = strawberry.field(description="What for.")
    from_state: ConsentState = strawberry.field(name="from", description="What they said before.")
    to_state: ConsentState = strawberry.field(name="to", description="What they say since.")
    at: datetime = strawberry.field(description="When it was recorded.")
    source: str = strawberry.field(
        description="Where they said it, in the words of whoever recorded it; empty after erasure."
    )
    actor: str = strawberry.field(
        description=(
            "Who recorded it: api_key:<prefix>, member:<email>, user:<userId>, or system for a provider's report; "
            "empty after erasure."
        )
    )

    @staticmethod
    def of(record: ConsentChangeRecord, *, withheld: bool = False) -> ConsentChange:
        """`withheld`: the viewer may see what it wrote, and not what was before."""
        return ConsentChange(
            id=strawberry.ID(write_node_id(NodeKind.CONSENT_CHANGE, record.consent_change_id)),
            user_id=record.user_id,
            purpose=ConsentPurpose(record.purpose),
            from_state=WITHHELD if withheld else ConsentState(record.from_state),
            to_state=ConsentState(record.to_state),
            at=record.at,
            source=record.source or "",
            actor=record.actor or "",
        )


@strawberry.type(description="A change and its position in the log. Needs VIEWER, or the person's own session.")
class ConsentChangeEdge:
    cursor: Cursor = strawberry.field(description="Position in the log of consent.")
    node: ConsentChange = strawberry.field(description="The change.")


@strawberry.type(description="A page of the log of consent, newest first. Needs VIEWER, or the person's own session.")
class ConsentChangeConnection:
    edges: list[ConsentChangeEdge] = strawberry.field(description="Up to 100 changes.")
    page_info: PageInfo = strawberry.field(description="Where this page stands in the log.")

    @staticmethod
    def of(page: Page[ConsentChangeRecord]) -> ConsentChangeConnection:
        return ConsentChangeConnection(
            edges=edges_of(page, ConsentChangeEdge, ConsentChange.of), page_info=PageInfo.of(page)
        )


@strawberry.input(description="What setConsent takes.")
class SetConsentInput:
    user_id: str = strawberry.field(description="The host app's id of the person. 1 to 256 characters.")
    signature: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=(
            "HMAC-SHA256 hex of userId under the project's identity secret; see ProjectSettings.requireSignedIdentity."
        ),
    )
    purpose: ConsentPurpose = strawberry.field(description="What for.")
    state: ConsentState = strawberry.field(description="What the person says. UNKNOWN takes back what was said.")
    source: str = strawberry.field(
        description=f"Where it was said, e.g. settings page. 1 to {MAX_SOURCE_CHARACTERS} characters."
    )


@strawberry.input(name="ConsentLogFilter", description="All that is given must hold.")
class ConsentLogFilterInput:
    user_id: str | None = strawberry.field(default=strawberry.UNSET, description="What this person said.")
    purposes: list[ConsentPurpose] | None = strawberry.field(default=strawberry.UNSET, description="Any of these.")
    since: datetime | None = strawberry.field(default=strawberry.UNSET, description="Recorded then or later.")
    until: datetime | None = strawberry.field(default=strawberry.UNSET, description="Recorded before then.")


def _arguments(value: dict[str, Any]) -> ConsentArguments:
    return ConsentArguments(
        user_id=value["userId"],
        purpose=value["purpose"],
        state=value["state"],
        source=value["source"],
        signature=value.get("signature"),
    )


def _filter(value: dict[str, Any]) -> ConsentChangeFilter:
    purposes = value.get("purposes")
    return ConsentChangeFilter(
        user_id=value.get("userId"),
        purposes=None if purposes is None else tuple(purposes),
        since=value.get("since"),
        until=value.get("until"),
    )


build_with(SetConsentInput, _arguments)
build_with(ConsentLogFilterInput, _filter)

SetConsentArgument = Annotated[
    ConsentArguments,
    strawberry.argument(name="input", description="Who says what, and where.", graphql_type=SetConsentInput),
]
ConsentLogFilterArgument = Annotated[
    ConsentChangeFilter | None,
    strawberry.argument(
        name="filter", description="Which changes; all when absent.", graphql_type=ConsentLogFilterInput | None
    ),
]


@strawberry.type(description="What became of a word about consent.")
class SetConsentPayload(MutationPayload):
    profile: Annotated[Profile, strawberry.lazy("schema.profile")] | None = strawberry.field(
        description="The person. Null for a key in an app without signature or session."
    )
    change: ConsentChange | None = strawberry.field(
        description="As it is in the log; null when the same was said before."
    )

    @staticmethod
    def of(done: ConsentSet) -> SetConsentPayload:
        return SetConsentPayload(
            profile=None if done.profile is None else profiles.Profile.of(done.profile, withheld=done.withheld),
            change=None if done.change is None else ConsentChange.of(done.change, withheld=done.withheld),
            user_errors=user_errors(done.errors),
        )


# Last, because a person leads to what they said, and what somebody said to the person.
import schema.profile as profiles  # noqa: E402
