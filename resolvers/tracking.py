"""Writing to the log: one event, a batch, or who somebody is. Answered once it is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from db.records import EventRecord, Lane, ProfileRecord
from engine.errors import UserError
from engine.events import IDENTIFIED, IDENTITY_MODULE, EventDraft, normalise
from engine.identity import ApiKeyKind, Role, Viewer
from engine.log import Dropped, Erased, Outcome, Rejected, Stored
from resolvers.context import Context
from resolvers.events import event_cursor
from resolvers.naming import check_person, is_from_app, own_user_id
from resolvers.permissions import is_own, require

MAX_BATCH = 1000
"""Events in one `trackBatch`: as many as one append takes in a few tens of milliseconds."""


class Claim(msgspec.Struct, frozen=True):
    """What an event says of where it belongs (uuids as text), and that it may name its person.

    `index` is its place in the batch.
    """

    index: int
    org_id: str | None
    project_id: str | None
    signature: str | None = None


class EventBatch(msgspec.Struct, frozen=True):
    """What a client sent: drafts in order, and the claims of those that made one."""

    drafts: tuple[EventDraft, ...]
    claims: tuple[Claim, ...] = ()


class IdentifyArguments(msgspec.Struct, frozen=True):
    """Who somebody is. `traits` is JSON text."""

    user_id: str
    traits: bytes
    timestamp: datetime | None = None
    anonymous_id: str | None = None
    signature: str | None = None


class Tracked(msgspec.Struct, frozen=True):
    """What became of one event. `withheld`: the viewer may not read it, somebody else wrote it."""

    organization_id: UUID
    event: EventRecord | None
    duplicate: bool
    errors: tuple[UserError, ...]
    withheld: bool = False


class BatchTracked(msgspec.Struct, frozen=True):
    """What became of a batch. `last_seq` is the highest number among its events, None when none is stored."""

    project_id: UUID
    accepted: int
    duplicates: int
    rejected: int
    last_seq: int | None
    errors: tuple[UserError, ...]
    dropped: int = 0


class Identified(msgspec.Struct, frozen=True):
    """What became of an identification. Of `profile` the viewer may see no more than ids where `withheld`."""

    organization_id: UUID
    event: EventRecord | None
    profile: ProfileRecord | None
    errors: tuple[UserError, ...]
    withheld: bool = False


async def track(ctx: Context, *, batch: EventBatch) -> Tracked:
    """Store one event: the only one of `batch`."""
    viewer = require(ctx, Role.INGEST)
    path = ("input", "event")
    organization_id = viewer.project.organization_id
    refused = await _check_claims(ctx, viewer, batch)
    if refused:
        errors = tuple(_under(path, error) for error in refused[0])
        return Tracked(organization_id, None, duplicate=False, errors=errors)
    [outcome] = await _append(ctx, viewer, batch.drafts)
    if not isinstance(outcome, Stored):
        return _not_stored(organization_id, outcome, path)
    known = viewer.role >= Role.VIEWER or is_own(viewer, outcome.event.user_id)
    withheld = outcome.duplicate and not known and not _wrote(viewer, batch.drafts[0], outcome.event)
    return Tracked(organization_id, outcome.event, outcome.duplicate, (), withheld=withheld)


async def track_batch(ctx: Context, *, batch: EventBatch) -> BatchTracked:
    """Store what is valid of a batch. A batch of none, or of more than `MAX_BATCH`, is refused as a whole."""
    viewer = require(ctx, Role.INGEST)
    path = ("input", "events")
    if not 1 <= len(batch.drafts) <= MAX_BATCH:
        return _refuse_batch(viewer, len(batch.drafts), path)
    refused = await _check_claims(ctx, viewer, batch)
    kept = [index for index in range(len(batch.drafts)) if index not in refused] if refused else None
    drafts = batch.drafts if kept is None else tuple(batch.drafts[index] for index in kept)
    outcomes = await _append(ctx, viewer, drafts) if drafts else ()
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, Rejected):
            refused[place if kept is None else kept[place]] = (outcome.error,)
    stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
    fresh = sum(not outcome.duplicate for outcome in stored)
    return BatchTracked(
        viewer.project_id,
        accepted=fresh,
        duplicates=len(stored) - fresh + sum(isinstance(outcome, Erased) for outcome in outcomes),
        rejected=len(refused),
        last_seq=max((outcome.event.seq for outcome in stored), default=None),
        errors=tuple(_under((*path, str(index)), error) for index in sorted(refused) for error in refused[index]),
        dropped=sum(isinstance(outcome, Dropped) for outcome in outcomes),
    )


async def identify(ctx: Context, *, arguments: IdentifyArguments) -> Identified:
    """Merge traits into a person. A key in an app learns nothing of the person it names, unless it proves who it is."""
    viewer = require(ctx, Role.INGEST)
    organization_id = viewer.project.organization_id
    refused = await check_person(ctx, viewer, arguments.user_id, arguments.signature, ("input",))
    if refused:
        return Identified(organization_id, None, None, refused)
    draft = EventDraft(
        event_type=IDENTIFIED,
        module=IDENTITY_MODULE,
        timestamp=arguments.timestamp,
        user_id=arguments.user_id,
        anonymous_id=arguments.anonymous_id,
        traits=arguments.traits,
    )
    [outcome] = await _append(ctx, viewer, (draft,))
    if not isinstance(outcome, Stored):
        errors = _not_stored(organization_id, outcome, ("input",)).errors
        return Identified(organization_id, None, None, errors)
    own = is_own(viewer, arguments.user_id)
    in_an_app = viewer.api_key is not None and viewer.api_key.kind == ApiKeyKind.PUBLISHABLE
    if viewer.role < Role.VIEWER and in_an_app and not own and arguments.signature is None:
        return Identified(organization_id, outcome.event, None, ())
    profile = await ctx.loaders.profiles_by_user.load((viewer.project_id, arguments.user_id))
    return Identified(organization_id, outcome.event, profile, (), withheld=viewer.role < Role.VIEWER and not own)


async def batch_cursor(ctx: Context, *, project_id: UUID, seq: int | None) -> str | None:
    """The position after the last event of a batch."""
    require(ctx, Role.INGEST)
    if seq is None:
        return None
    head = (await ctx.heads(project_id))[Lane.EVENTS]
    return event_cursor(ctx, project_id=project_id, epoch=head.epoch, seq=seq)


def _not_stored(organization_id: UUID, outcome: Rejected | Dropped | Erased, path: tuple[str, ...]) -> Tracked:
    """Nothing is left of what was erased; what consent does not allow is refused for good, so that nobody retries."""
    match outcome:
        case Rejected(error=error):
            return Tracked(organization_id, None, duplicate=False, errors=(_under(path, error),))
        case Dropped():
            message = "This person's consent does not allow events of module analytics: nothing was stored."
            return Tracked(organization_id, None, duplicate=False, errors=(UserError(message, "CONSENT", path),))
        case Erased():
            return Tracked(organization_id, None, duplicate=True, errors=())


async def _append(ctx: Context, viewer: Viewer, drafts: tuple[EventDraft, ...]) -> Sequence[Outcome]:
    if viewer.session is not None:
        drafts = tuple(msgspec.structs.replace(each, user_id=own_user_id(viewer, each.user_id)) for each in drafts)
    outcomes = await ctx.services.log.append(viewer.project_id, drafts)
    ctx.forget_reads()
    return outcomes


def _refuse_batch(viewer: Viewer, count: int, path: tuple[str, ...]) -> BatchTracked:
    error = (
        UserError("A batch holds at least one event.", "INVALID", path)
        if count == 0
        else UserError(f"A batch holds at most {MAX_BATCH} events, and this one has {count}.", "LIMIT_EXCEEDED", path)
    )
    return BatchTracked(viewer.project_id, 0, 0, count, None, (error,))


async def _check_claims(ctx: Context, viewer: Viewer, batch: EventBatch) -> dict[int, tuple[UserError, ...]]:
    """Why events of a batch are refused before anything else is looked at, by their places."""
    refused = {claim.index: errors for claim in batch.claims if (errors := _check_claim(viewer, claim))}
    signatures = {claim.index: claim.signature for claim in batch.claims if claim.signature is not None}
    if not signatures and viewer.session is None and not await _must_sign(ctx, viewer):
        return refused
    for index, draft in enumerate(batch.drafts):
        errors = await check_person(ctx, viewer, draft.user_id, signatures.get(index))
        if errors:
            refused[index] = (*refused.get(index, ()), *errors)
    return refused


async def _must_sign(ctx: Context, viewer: Viewer) -> bool:
    if not is_from_app(viewer):
        return False
    return (await ctx.services.project_settings.read(viewer.project_id)).require_signed_identity


def _check_claim(viewer: Viewer, claim: Claim) -> tuple[UserError, ...]:
    expected = (
        ("orgId", claim.org_id, viewer.project.organization_id),
        ("projectId", claim.project_id, viewer.project_id),
    )
    return tuple(
        UserError(f"{name} is not that of this API key: leave it out, or send the key's.", "INVALID", (name,))
        for name, claimed, own in expected
        if claimed is not None and claimed.lower() != str(own)
    )


def _wrote(viewer: Viewer, draft: EventDraft, event: EventRecord) -> bool:
    """Whether a stored event says what the draft says and no more, so that showing it tells nothing new."""
    [said] = normalise([draft], salt=viewer.project.salt)
    if isinstance(said, UserError):
        return False
    names = ("module", "event_type", "user_id", "anonymous_id")
    return (
        all(getattr(said, name) == getattr(event, name) for name in names)
        and event.timestamp in (said.timestamp, event.received_at)
        and msgspec.json.decode(said.properties) == msgspec.json.decode(event.properties)
        and msgspec.json.decode(said.context) == msgspec.json.decode(event.context)
    )


def _under(path: Iterable[str], error: UserError) -> UserError:
    return UserError(error.message, error.code, (*path, *error.path))
