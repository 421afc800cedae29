"""Signing in: anonymously, by making an account, or with an email address and a password.

Guarantees: each is one transaction: user, profile, session, events, and what a device takeover moves. One whose COMMIT
was left unanswered is found again, not repeated. Whether an address has an account shows in nothing that signing in
answers, nor in how long it takes; making an account cannot hide it, and counts as a failure of the client's address.
No password, token, code or address is in an event, a log line or an error.
Locks: the follower `audiences` (takeover only), profiles, users, sessions, what `takeover` says, heads, and last the
system's head.
Leaves to others: what a session may do, and telling people of new sign-ins: the events are there for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import msgspec
from uuid_utils.compat import uuid7

from db.identity_links import take_over_user
from db.profiles import lock_profiles
from db.records import EventRecord, NewEvent, ProjectRecord
from db.sessions import end_sessions, find_session, lock_sessions
from db.sign_in_failures import forget_failures
from db.users import (
    UserRecord,
    find_user_by_email,
    insert_profile,
    insert_user,
    lock_users,
    make_profile_known,
    replace_password_hash,
    upgrade_user,
)
from engine.accounts import second_factor, takeover
from engine.accounts.passwords import problem_of
from engine.accounts.refresh_tokens import RefreshToken, make_refresh_token, read_refresh_token
from engine.accounts.sessions import UPGRADED, Accounts, Authenticated, Ended, NewSession, refuse_session
from engine.accounts.storms import Subject, SubjectKind, check_storm, count_failure, subjects_of
from engine.accounts.takeover import Retired, Takeover
from engine.announcements import Announcement
from engine.contacts import Malformed, parse_email
from engine.dispatch.ledger import record
from engine.errors import UserError
from engine.events import EventDraft, normalise
from engine.push.in_flight import until_pushes_end
from engine.revoking import Revocation, append_revocations
from engine.transactions import run_transaction

MODULE = "auth"
SIGNED_UP, SIGNED_IN = "auth.signed_up", "auth.signed_in"
MAX_DEVICE_CHARACTERS = 256
MAX_CODE_CHARACTERS = 64

_INPUT = ("input",)
_ANONYMOUS = ("input", "anonymousRefreshToken")
_WRONG = UserError("The email address or the password is wrong.", "INVALID_CREDENTIALS", _INPUT)
_CODE_MISSING = UserError(
    "This account has a second factor: send totpCode, six digits of the authenticator app or a recovery code.",
    "INVALID_CREDENTIALS",
    ("input", "totpCode"),
)
_CODE_WRONG = UserError(
    "This code is wrong, or was used before: wait for the next one.", "INVALID_CREDENTIALS", ("input", "totpCode")
)
_TAKEN = UserError(
    "This email address has an account in this project: sign in, or use another one.", "CONFLICT", ("input", "email")
)


class AnonymousSignIn(msgspec.Struct, frozen=True):
    """What signInAnonymously takes. `traits` is a JSON object as text."""

    device_id: str | None = None
    traits: bytes = b"{}"


class SignUp(msgspec.Struct, frozen=True):
    """What signUp takes, and the peer's address. `traits` is a JSON object as text."""

    email: str
    password: str
    traits: bytes = b"{}"
    anonymous_refresh_token: str | None = None
    client: str | None = None

    def __repr__(self) -> str:
        return "SignUp()"


class SignIn(msgspec.Struct, frozen=True):
    """What signIn takes, and the peer's address."""

    email: str
    password: str
    totp_code: str | None = None
    anonymous_refresh_token: str | None = None
    client: str | None = None

    def __repr__(self) -> str:
        return "SignIn()"


class _Done(msgspec.Struct, frozen=True):
    """What a transaction came to."""

    user_id: str
    announcements: tuple[Announcement, ...] = ()
    retired: Retired | None = None


class _Person(msgspec.Struct, frozen=True):
    """Somebody who has given the right password, and what else they proved."""

    user: UserRecord
    proof: second_factor.Proof | None = None
    new_hash: str | None = None


async def sign_in_anonymously(accounts: Accounts, project: ProjectRecord, asked: AnonymousSignIn) -> Authenticated:
    """Make an anonymous user with a session. Whoever asks again is somebody else: only a refresh token goes on."""
    project_id, user_id, new = project.project_id, str(uuid4()), await _new_session(accounts)
    properties = {"sessionId": str(new.session_id), "method": "anonymous", "anonymous": True}
    event = _event(project, SIGNED_IN, new, user_id, properties, traits=asked.traits)
    errors = [*_check_device(asked.device_id), *([event] if isinstance(event, UserError) else [])]
    if errors or isinstance(event, UserError):
        return Authenticated(errors=tuple(errors))

    async def commit(connection: asyncpg.Connection) -> _Done:
        if await find_session(connection, project_id=project_id, token_hash=new.token.token_hash):
            return _Done(user_id)
        await insert_profile(
            connection, project_id=project_id, profile_id=uuid7(), user_id=user_id, anonymous=True, now=new.now
        )
        await insert_user(
            connection, project_id=project_id, user_id=user_id, email=None, password_hash=None, now=new.now
        )
        await new.insert(connection, project_id=project_id, user_id=user_id, anonymous=True, device_id=asked.device_id)
        said = await record(connection, project_id=project_id, transitions=(), events=[event], now=new.now)
        return _Done(user_id, said)

    return _authenticated(accounts, project_id, new, await run_transaction(accounts.database, commit), anonymous=True)


async def sign_up(accounts: Accounts, project: ProjectRecord, asked: SignUp) -> Authenticated:
    """Make an account; with the token of an anonymous session, of that very user."""
    project_id, user_id, new = project.project_id, str(uuid4()), await _new_session(accounts)
    email, anonymous = _read_email(asked.email), _read_anonymous(accounts, asked.anonymous_refresh_token)
    is_upgrade = anonymous is not None
    properties = {"sessionId": str(new.session_id), "method": "password", "upgraded": is_upgrade}
    event = _event(project, SIGNED_UP, new, user_id, properties, traits=asked.traits)
    errors = [each for each in (email, _check_password(asked, email), anonymous, event) if isinstance(each, UserError)]
    if isinstance(email, UserError) or isinstance(anonymous, UserError) or isinstance(event, UserError) or errors:
        return Authenticated(errors=tuple(errors))
    subjects = subjects_of(project.salt, email=None, client=asked.client)
    async with accounts.database.connection() as connection:
        await check_storm(connection, project_id=project_id, subjects=subjects, now=new.now)
    password_hash = await accounts.passwords.hash(asked.password)

    async def commit(connection: asyncpg.Connection) -> _Done | Ended:
        made = await find_session(connection, project_id=project_id, token_hash=new.token.token_hash)
        if made is not None:
            return _Done(made.user_id)
        if anonymous is not None:
            return await _upgrade(connection, project_id, new, anonymous, event, email, password_hash)
        if await find_user_by_email(connection, project_id=project_id, email=email) is not None:
            return Ended(_TAKEN)
        await insert_profile(
            connection, project_id=project_id, profile_id=uuid7(), user_id=user_id, anonymous=False, now=new.now
        )
        await insert_user(
            connection, project_id=project_id, user_id=user_id, email=email, password_hash=password_hash, now=new.now
        )
        await new.insert(connection, project_id=project_id, user_id=user_id, anonymous=False, device_id=None)
        said = await record(connection, project_id=project_id, transitions=(), events=[event], now=new.now)
        return _Done(user_id, said)

    outcome = await _unless_taken(accounts, commit)
    if isinstance(outcome, Ended) and outcome.error is _TAKEN:
        await _count_failure(accounts, project_id, subjects, None, new.now)
    return _authenticated(accounts, project_id, new, outcome, anonymous=False)


async def sign_in(accounts: Accounts, project: ProjectRecord, asked: SignIn) -> Authenticated:
    """A session for whoever knows the password, and has the second factor where there is one.

    Raises `RateLimited` in a storm.
    """
    project_id, now = project.project_id, accounts.clock.now()
    email, anonymous = _read_email(asked.email), _read_anonymous(accounts, asked.anonymous_refresh_token)
    errors = tuple(each for each in (email, anonymous) if isinstance(each, UserError))
    if isinstance(email, UserError) or isinstance(anonymous, UserError):
        return Authenticated(errors=errors)
    subjects = subjects_of(project.salt, email=email, client=asked.client)
    async with accounts.database.connection() as connection:
        await check_storm(connection, project_id=project_id, subjects=subjects, now=now)
        user = await find_user_by_email(connection, project_id=project_id, email=email)
    person = await _recognise(accounts, project_id, user, asked, now)
    if isinstance(person, UserError) and person is not _CODE_MISSING:
        await _count_failure(accounts, project_id, subjects, None if user is None else user.user_id, now)
        return Authenticated(errors=(person,))
    async with accounts.database.connection() as connection:
        # others may have failed while this one waited for its turn
        await check_storm(connection, project_id=project_id, subjects=subjects, now=now)
    if isinstance(person, UserError):
        return Authenticated(errors=(person,))
    new = await _new_session(accounts)
    account = next(subject for subject in subjects if subject.kind is SubjectKind.ACCOUNT)
    outcome: _Done | Ended
    try:
        outcome = await until_pushes_end(
            accounts.database,
            lambda is_last_try: (
                lambda connection: _sign_in(
                    connection, project, new, person, anonymous, account, is_last_try=is_last_try
                )
            ),
        )
    except _Refused as refused:
        outcome = Ended(refused.error)
    if isinstance(outcome, Ended) and outcome.error is _CODE_WRONG:
        await _count_failure(accounts, project_id, subjects, person.user.user_id, now)
    return _authenticated(accounts, project_id, new, outcome, anonymous=False)


async def _sign_in(
    connection: asyncpg.Connection,
    project: ProjectRecord,
    new: NewSession,
    person: _Person,
    anonymous: RefreshToken | None,
    account: Subject,
    *,
    is_last_try: bool,
) -> _Done | Ended:
    project_id, user_id, now = project.project_id, person.user.user_id, new.now
    token_hash = None if anonymous is None else anonymous.token_hash
    held = await takeover.hold(connection, project_id=project_id, person=user_id, token_hash=token_hash)
    taken: Takeover | None = None
    if anonymous is not None:
        checked = await takeover.check_anonymous(
            connection, held.found, project_id=project_id, person=user_id, path=_ANONYMOUS, now=now
        )
        if isinstance(checked, Ended):
            return checked
        if isinstance(checked, Takeover):
            taken = checked
        elif checked is not None:
            taken = await takeover.take_over(
                connection, checked, project_id=project_id, heir=user_id, is_last_try=is_last_try, now=now
            )
    retired = None if taken is None else taken.retired
    if await find_session(connection, project_id=project_id, token_hash=new.token.token_hash):
        return _Done(user_id, retired=retired)
    if held.person is None or held.person.password_hash != person.user.password_hash:
        raise _Refused(_WRONG)
    if person.proof is not None and not await second_factor.spend(
        connection, project_id=project_id, user_id=user_id, proof=person.proof
    ):
        raise _Refused(_CODE_WRONG)
    if person.new_hash is not None and person.user.password_hash is not None:
        await replace_password_hash(
            connection,
            project_id=project_id,
            user_id=user_id,
            before=person.user.password_hash,
            after=person.new_hash,
        )
    await forget_failures(connection, project_id=project_id, subject=account.key)
    await new.insert(
        connection,
        project_id=project_id,
        user_id=user_id,
        anonymous=False,
        device_id=None if retired is None else retired.device_id,
    )
    properties = {
        "sessionId": str(new.session_id),
        "method": "password",
        "anonymous": False,
        "secondFactor": person.proof is not None,
    }
    return await _say(connection, project_id, new, user_id, taken, _said(SIGNED_IN, new, user_id, properties))


async def _say(
    connection: asyncpg.Connection,
    project_id: UUID,
    new: NewSession,
    user_id: str,
    taken: Takeover | None,
    signed_in: NewEvent,
) -> _Done:
    """The heads, last: the project's, under which the history of who was taken over is linked, then the system's."""
    if taken is None:
        said = await record(connection, project_id=project_id, transitions=(), events=[signed_in], now=new.now)
        return _Done(user_id, said)
    said = await record(
        connection,
        project_id=project_id,
        transitions=(),
        events=[*taken.events, signed_in],
        audience_changes=taken.audience_changes,
        now=new.now,
    )
    for seq in _takeover_seqs(said):
        await take_over_user(connection, project_id=project_id, alias=taken.retired.user_id, user_id=user_id, seq=seq)
    return _Done(
        user_id, (*said, *await append_revocations(connection, Revocation.SESSION_ENDED, taken.ended)), taken.retired
    )


def _takeover_seqs(said: Sequence[Announcement]) -> list[int]:
    items = [item for announcement in said for item in announcement.items]
    return [item.seq for item in items if isinstance(item, EventRecord) and item.event_type == takeover.TAKEOVER]


async def _upgrade(
    connection: asyncpg.Connection,
    project_id: UUID,
    new: NewSession,
    anonymous: RefreshToken,
    event: NewEvent,
    email: str,
    password_hash: str,
) -> _Done | Ended:
    """The anonymous user gets a name: same row, same profile, same history."""
    found = await find_session(connection, project_id=project_id, token_hash=anonymous.token_hash)
    if found is not None:
        user_ids = [found.user_id]
        await lock_profiles(connection, project_id=project_id, user_ids=user_ids)
        users = await lock_users(connection, project_id=project_id, user_ids=user_ids)
        open_sessions = await lock_sessions(connection, project_id=project_id, user_id=found.user_id)
        found = await find_session(connection, project_id=project_id, token_hash=anonymous.token_hash)
    refused = await refuse_session(connection, found, project_id=project_id, path=_ANONYMOUS, now=new.now)
    if found is None or refused is not None:
        return refused or Ended(_TAKEN)
    user = users.get(found.user_id)
    if user is None or user.email is not None:
        return Ended(
            UserError(
                "This is the refresh token of a session that is not anonymous: leave it out.",
                "INVALID_CREDENTIALS",
                _ANONYMOUS,
            )
        )
    if await find_user_by_email(connection, project_id=project_id, email=email) is not None:
        return Ended(_TAKEN)
    user_id = found.user_id
    await upgrade_user(
        connection, project_id=project_id, user_id=user_id, email=email, password_hash=password_hash, now=new.now
    )
    await make_profile_known(connection, project_id=project_id, user_id=user_id)
    ended = await end_sessions(
        connection, project_id=project_id, session_ids=open_sessions, reason=UPGRADED, now=new.now
    )
    await new.insert(connection, project_id=project_id, user_id=user_id, anonymous=False, device_id=found.device_id)
    events = [msgspec.structs.replace(event, user_id=user_id)]
    said = await record(connection, project_id=project_id, transitions=(), events=events, now=new.now)
    return _Done(user_id, (*said, *await append_revocations(connection, Revocation.SESSION_ENDED, ended)))


async def _recognise(
    accounts: Accounts, project_id: UUID, user: UserRecord | None, asked: SignIn, now: datetime
) -> _Person | UserError:
    """Somebody unknown takes as long as somebody whose password is wrong."""
    verdict = await accounts.passwords.verify(asked.password, None if user is None else user.password_hash)
    if user is None or not verdict.is_right:
        return _WRONG
    proof = None
    if user.totp_confirmed_at is not None:
        if not asked.totp_code:
            return _CODE_MISSING
        code = asked.totp_code[:MAX_CODE_CHARACTERS]
        proof = second_factor.read_code(accounts.vault, user, code, project_id=project_id, now=now)
        if proof is None:
            return _CODE_WRONG
    new_hash = await accounts.passwords.hash(asked.password) if verdict.is_outdated else None
    return _Person(user, proof, new_hash)


class _Refused(Exception):
    """Nothing of the transaction is kept."""

    def __init__(self, error: UserError) -> None:
        super().__init__(error.code)
        self.error = error


async def _unless_taken(
    accounts: Accounts, commit: Callable[[asyncpg.Connection], Awaitable[_Done | Ended]]
) -> _Done | Ended:
    """Of two who take an address at once, the second is told so by its unique index."""
    try:
        return await run_transaction(accounts.database, commit)
    except asyncpg.UniqueViolationError:
        return Ended(_TAKEN)


async def _count_failure(
    accounts: Accounts, project_id: UUID, subjects: Sequence[Subject], user_id: str | None, now: datetime
) -> None:
    said = await run_transaction(
        accounts.database,
        lambda connection: count_failure(
            connection, project_id=project_id, subjects=subjects, user_id=user_id, now=now
        ),
    )
    for announcement in said:
        accounts.announce(announcement)


def _authenticated(
    accounts: Accounts, project_id: UUID, new: NewSession, outcome: _Done | Ended, *, anonymous: bool
) -> Authenticated:
    for announcement in outcome.announcements:
        accounts.announce(announcement)
    if isinstance(outcome, Ended):
        return Authenticated(errors=(outcome.error,))
    retired = outcome.retired
    return Authenticated(
        new.issued(project_id=project_id, user_id=outcome.user_id, anonymous=anonymous),
        retired_user_id=None if retired is None else retired.user_id,
        retired_profile_id=None if retired is None else retired.profile_id,
    )


async def _new_session(accounts: Accounts) -> NewSession:
    signer = await accounts.tokens.signer()
    return NewSession(uuid7(), make_refresh_token(accounts.region), signer, accounts.clock.now())


def _read_email(text: str) -> str | UserError:
    """Accounts are told apart in lower case: nobody has two that differ in nothing else."""
    parsed = parse_email(text)
    if isinstance(parsed, Malformed):
        return UserError(parsed.message, "INVALID", ("input", "email"))
    return parsed.lower()


def _read_anonymous(accounts: Accounts, token: str | None) -> RefreshToken | UserError | None:
    return None if token is None else read_refresh_token(token, region=accounts.region, path=_ANONYMOUS)


def _check_password(asked: SignUp, email: str | UserError) -> UserError | None:
    problem = problem_of(asked.password, email="" if isinstance(email, UserError) else email)
    return None if problem is None else UserError(problem, "INVALID", ("input", "password"))


def _check_device(device_id: str | None) -> tuple[UserError, ...]:
    if device_id is None or (1 <= len(device_id) <= MAX_DEVICE_CHARACTERS and device_id.isprintable()):
        return ()
    return (
        UserError(f"deviceId has 1 to {MAX_DEVICE_CHARACTERS} printable characters.", "INVALID", ("input", "deviceId")),
    )


def _event(
    project: ProjectRecord,
    event_type: str,
    new: NewSession,
    user_id: str,
    properties: dict[str, object],
    *,
    traits: bytes,
) -> NewEvent | UserError:
    """An event that brings traits along, checked like anybody's."""
    said = _said(event_type, new, user_id, properties)
    draft = EventDraft(
        event_type=event_type,
        module=MODULE,
        key=said.key,
        timestamp=new.now,
        user_id=user_id,
        properties=said.properties.encode(),
        traits=traits,
    )
    [checked] = normalise([draft], salt=project.salt)
    if isinstance(checked, UserError):
        return UserError(checked.message, checked.code, (*_INPUT, *checked.path))
    return checked


def _said(event_type: str, new: NewSession, user_id: str, properties: dict[str, object]) -> NewEvent:
    return NewEvent(
        key=f"{event_type}:{new.session_id}",
        module=MODULE,
        event_type=event_type,
        timestamp=new.now,
        user_id=user_id,
        anonymous_id=None,
        properties=msgspec.json.encode(properties).decode(),
        context="{}",
    )
