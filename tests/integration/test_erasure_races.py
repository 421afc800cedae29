"""Whatever else is done about a person while they are erased: it is done before and goes too, or finds nobody.

Each deed begins at one of three moments of an erasure: before it has the person, between its sweeps, and when it holds
all heads. Whoever waits for it goes on when it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from engine.channels.twilio_errors import error_of
from engine.dispatch.reports import Report
from engine.dispatch.values import Channel, DeliveryStatus
from engine.email.callbacks import EmailCallback, EmailReport, apply_email_callback
from engine.email.unsubscribe import unsubscribe, unsubscription_of
from engine.erasure import erasing
from engine.erasure.erasing import ErasureRequest, Receipt, erase_person
from engine.errors import UserError
from engine.sms.callbacks import apply_sms_callback
from tests.integration.delivery_support import make_delivery
from tests.integration.run_support import SAVE_WORKFLOW
from tests.integration.session_support import ANONYMOUS, PASSWORD, REFRESH, SIGN_IN, SIGN_UP
from tests.integration.worker_support import Store, open_store

MOMENTS = ("lock_people", "lock_heads", "insert_erasure")
"""Of an erasure: what it does next when the deed begins."""
IS_WAITED_FOR = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
REPLAYS = "mutation ($filter: DeliveryFilter!) { replayDeliveries(filter: $filter) { userErrors { code } } }"
SET_CONSENT = """mutation ($user: String!) {
  setConsent(input: {userId: $user, purpose: EMAIL, state: REVOKED, source: "app"}) { userErrors { code } }
}"""
REGISTER = """mutation ($user: String!, $token: String!) {
  registerPushToken(input: {platform: ANDROID, token: $token, userId: $user}) { userErrors { code } }
}"""
SEND_EMAIL = """mutation ($user: String!) {
  sendEmail(input: {userIds: [$user], subject: "s", bodyText: "t"}) { userErrors { code } }
}"""


class Person:
    """Somebody of whom there is something of everything. All that is theirs has `mark` in it."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.mark, self.other_mark = f"zq{number:04}x", f"wk{number:04}y"
        self.user_id, self.device, self.other_device = f"{self.mark}-ada", f"{self.mark}-phone", f"{self.other_mark}-x"
        self.email, self.phone = f"{self.mark}@shop.example", f"+1415555{number:04}"
        self.session: Any = None
        self.anonymous: Any = None
        self.mail = self.text = self.failed = UUID(int=0)

    async def live(self) -> None:
        traits = {"email": self.email, "phone": self.phone, "note": self.mark}
        await self.store.track(
            [
                {"eventType": "user.identified", "userId": self.user_id, "context": {"traits": traits}},
                {"eventType": "page.viewed", "anonymousId": self.device, "properties": {"note": self.mark}},
                {"eventType": "page.viewed", "userId": self.user_id, "anonymousId": self.device},
                # Nobody's yet
                {"eventType": "page.viewed", "anonymousId": self.other_device},
                {"eventType": "order.placed", "userId": self.user_id, "properties": {"note": self.mark}},
            ]
        )
        tenant = self.store.tenant
        about: dict[str, Any] = {"user_id": self.user_id, "content": f'{{"note": "{self.mark}"}}'}
        self.mail = await make_delivery(
            tenant, channel="EMAIL", dispatch_key="email", recipient=self.email, status="SENT", **about
        )
        self.text = await make_delivery(
            tenant, channel="SMS", dispatch_key="sms", recipient=self.phone, status="SENT", **about
        )
        self.failed = await make_delivery(
            tenant, channel="EMAIL", dispatch_key="email", recipient=self.email, status="FAILED", **about
        )

    async def sign_up(self) -> None:
        """With an account, and somebody anonymous on another device."""
        tenant = self.store.tenant
        signed_up = await tenant.data(SIGN_UP, input={"email": self.email, "password": PASSWORD})
        self.session = signed_up["signUp"]["session"]
        self.user_id = self.session["userId"]
        anonymous = await tenant.data(ANONYMOUS, input={})
        self.anonymous = anonymous["signInAnonymously"]["session"]

    async def erase(self) -> Receipt | UserError:
        services = self.store.tenant.gateway.services
        return await erase_person(
            services.database,
            services.announce,
            project_id=self.store.project_id,
            request=ErasureRequest(user_id=self.user_id, reason="asked for", actor="api_key:sk"),
            now=self.store.clock.now(),
        )

    async def traces(self, *values: str) -> set[str]:
        """Tables that hold one of the values."""
        async with self.store.tenant.gateway.services.database.connection() as connection:
            names = [row["tablename"] for row in await connection.fetch(TABLES)]
            texts = " UNION ALL ".join(f"SELECT '{name}', t::text FROM \"{name}\" AS t" for name in names)
            found = await connection.fetch(
                f"SELECT DISTINCT t.name FROM ({texts}) AS t (name, row), unnest(CAST($1 AS text[])) AS v"
                " WHERE strpos(t.row, v) > 0",
                list(values),
            )
        return {row["name"] for row in found}


Deed = Callable[[Person], Awaitable[Any]]


async def append(person: Person) -> None:
    await person.store.track([{"eventType": "order.placed", "userId": person.user_id}])


async def append_of_device(person: Person) -> None:
    await person.store.track([{"eventType": "page.viewed", "anonymousId": person.device}])


async def link_a_device(person: Person) -> None:
    await person.store.track(
        [{"eventType": "page.viewed", "userId": person.user_id, "anonymousId": person.other_device}]
    )


async def identify(person: Person) -> None:
    await person.store.identify({person.user_id: {"plan": "pro"}})


async def sign_in(person: Person) -> None:
    await person.store.tenant.data(SIGN_IN, input={"email": person.email, "password": PASSWORD})


async def refresh(person: Person) -> None:
    await person.store.tenant.data(REFRESH, token=person.session["refreshToken"])


async def take_over(person: Person) -> None:
    token = person.anonymous["refreshToken"]
    await person.store.tenant.data(
        SIGN_IN, input={"email": person.email, "password": PASSWORD, "anonymousRefreshToken": token}
    )


async def work(person: Person) -> None:
    """Followers, runs, audiences, and deliveries that are claimed, dispatched and settled."""
    await person.store.work()


async def report_mail(person: Person) -> None:
    services = person.store.tenant.gateway.services
    callback = EmailCallback(
        callback_id=uuid4().hex, kind=EmailReport.COMPLAINED, provider_message_id="re_1", delivery_id=person.mail
    )
    await apply_email_callback(
        services.database, services.announce, callback, project_id=person.store.project_id, now=services.clock.now()
    )


async def report_text(person: Person) -> None:
    services = person.store.tenant.gateway.services
    report = Report(
        delivery_id=person.text,
        channel=Channel.SMS,
        status=DeliveryStatus.FAILED,
        provider_message_id="SM1",
        error=error_of(30003),
    )
    await apply_sms_callback(
        services.database, services.announce, report, project_id=person.store.project_id, now=services.clock.now()
    )


async def click_to_unsubscribe(person: Person) -> None:
    services = person.store.tenant.gateway.services
    asked = unsubscription_of(project_id=person.store.project_id, user_id=person.user_id, address=person.email)
    await unsubscribe(services.database, services.announce, asked, now=services.clock.now())


async def replay(person: Person) -> None:
    await person.store.tenant.data(REPLAYS, filter={"userId": person.user_id})


async def revoke(person: Person) -> None:
    await person.store.tenant.data(SET_CONSENT, user=person.user_id)


async def register_device(person: Person) -> None:
    await person.store.tenant.data(REGISTER, user=person.user_id, token=f"token-{person.mark}")


async def send(person: Person) -> None:
    await person.store.tenant.data(SEND_EMAIL, user=person.user_id)


async def erase_again(person: Person) -> None:
    assert isinstance(await person.erase(), Receipt)


NEW = {append, link_a_device, identify, revoke, register_device, send}
"""Whoever names somebody unknown makes somebody new, where they come after the erasure."""
WITH_ACCOUNT = {sign_in, refresh, take_over}
DEEDS: tuple[Deed, ...] = (
    append,
    append_of_device,
    link_a_device,
    identify,
    sign_in,
    refresh,
    take_over,
    work,
    report_mail,
    report_text,
    click_to_unsubscribe,
    replay,
    revoke,
    register_device,
    send,
    erase_again,
)


@asynccontextmanager
async def open_busy_store(database_url: str, redis_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url, redis_url) as store:
        await store.configure()
        steps = [
            {
                "label": "mail",
                "type": "SEND_EMAIL",
                "config": {"to": "{{ user.email }}", "subject": "s", "bodyText": "t"},
            }
        ]
        given = {"name": "Order", "trigger": {"eventType": "order.placed"}, "steps": steps, "isActive": True}
        await store.data(SAVE_WORKFLOW, input=given)
        yield store


@pytest.mark.parametrize("moment", MOMENTS)
async def test_nothing_of_them_is_left(
    moment: str, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_busy_store(database_url, redis_url) as store:
        people = [Person(store, number) for number, _ in enumerate(DEEDS)]
        left = {}
        for person, deed in zip(people, DEEDS, strict=True):
            if deed in WITH_ACCOUNT:
                await person.sign_up()
            await person.live()
            await _meet(person, deed, moment, monkeypatch)
            left[deed.__name__] = await _left(person, deed, moment)
    assert {name: tables for name, tables in left.items() if tables} == {}


async def _meet(person: Person, deed: Deed, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is told of the other."""
    done: list[asyncio.Future[Any]] = []
    then = getattr(erasing, moment)

    async def begin(connection: asyncpg.Connection, *given: Any, **named: Any) -> Any:
        if not done:
            done.append(asyncio.ensure_future(deed(person)))
            while not done[0].done() and not await connection.fetchval(IS_WAITED_FOR):
                pass
        return await then(connection, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(erasing, moment, begin)
        assert isinstance(await person.erase(), Receipt)
    async with asyncio.timeout(10):
        await done[0]


async def _left(person: Person, deed: Deed, moment: str) -> set[str]:
    """Where there is something of somebody who should be gone; somebody new has what they were made with."""
    if deed is append_of_device and moment == "insert_erasure":
        # Its event comes after the erasure, of a device of nobody's.
        return await person.traces(person.user_id, person.email, person.phone)
    values = [person.mark, person.user_id]
    if deed is link_a_device:
        values.append(person.other_mark)
    if deed is send:
        assert await person.traces(person.email) == set()
    if deed in NEW and await person.traces(person.user_id):
        assert isinstance(await person.erase(), Receipt)
    return await person.traces(*values)
