"""Providers and receivers with moods: they refuse, hang, vanish half-way, and are well again when `calm` says so.

What each of them does is drawn beforehand, so that a seed gives the same moods whatever else happens. A provider that
has a reason to say "later" says it once for each address: the waits of its schedule are longer than a test.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

from tests.acceptance.chaos_deliveries.shop import Shop
from tests.peers import apns, fcm, receiver, twilio
from tests.peers.__main__ import IDENTIFY, REGISTER, Peers, set_up
from tests.peers.receiver import Received, WebhookReceiver

PEOPLE = 24
ANSWERS = 100
"""Moods drawn for each device; after these it is well."""
MANY = 100
"""A webhook receiver goes through as many so often."""
SCHEDULE = [1] * 20
"""Seconds: nobody gives up within a test."""

WEBHOOK_MOODS: Sequence[tuple[receiver.Action, int]] = (
    (receiver.Reply(), 55),
    (receiver.Reply(after=0.4), 6),
    (receiver.Reply(500), 10),
    (receiver.Reply(503), 5),
    (receiver.Reply(429, headers=(("Retry-After", "1"),)), 4),
    (receiver.HangUp("reading"), 3),
    (receiver.HangUp("read"), 3),
    (receiver.HangUp("head"), 3),
    (receiver.HangUp("body"), 3),
    (receiver.Stall("answer"), 3),
    (receiver.Stall("body"), 2),
    (receiver.NotHttp(), 3),
)
APNS_MOODS: Sequence[tuple[apns.Action, int]] = (
    (apns.Reply(), 80),
    (apns.Hold(), 5),
    (apns.Stall(), 4),
    (apns.Reset(), 3),
    (apns.HangUp(), 4),
    (apns.GoAway(), 4),
)
FCM_MOODS: Sequence[tuple[fcm.Action, int]] = ((fcm.Answer(), 86), (fcm.HangUp(), 7), (fcm.Stall(), 7))
APNS_LATER = apns.Reply(503, "ServiceUnavailable")
FCM_LATER = fcm.Answer(503, "UNAVAILABLE", "Later.", rpc_status="UNAVAILABLE")
TWILIO_MOODS: Sequence[twilio.Action] = (twilio.TakeAndHangUp(), twilio.TakeAndStall(), twilio.Refusal(20429, 429))
SMTP_LATER = "451 4.3.0 Try again later"


Mood = TypeVar("Mood")


class Person:
    """Somebody with one device, an address and a number."""

    def __init__(self, number: int) -> None:
        self.user_id = f"person_{number:03d}"
        self.email = f"{self.user_id}@customers.example"
        self.phone = f"+1415555{1000 + number}"
        self.has_iphone = number % 2 == 0
        self.device = f"{number:04x}" * 16 if self.has_iphone else f"fcm-token-of-{self.user_id}"


class World:
    """Everybody outside: all peers, two moody webhook receivers, and people."""

    def __init__(self, dns_port: int, chance: random.Random) -> None:
        self.peers = Peers(dns_port)
        self.people = [Person(number) for number in range(PEOPLE)]
        self._chance = chance
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        await self._stack.enter_async_context(self.peers)
        self.moody = await self._stack.enter_async_context(WebhookReceiver.running())
        self.echo = await self._stack.enter_async_context(WebhookReceiver.running())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def receivers(self) -> Sequence[WebhookReceiver]:
        return (self.peers.receiver, self.moody, self.echo)

    async def open(self, shop: Shop) -> None:
        """Make the project use them, and draw their moods."""
        await set_up(shop.client, self.peers)
        await shop.add_receiver(self.moody, "/moody", ["order.*", "page.viewed"], retrySchedule=SCHEDULE)
        await shop.add_receiver(self.echo, "/echo", ["push.sent", "email.sent", "sms.sent"], retrySchedule=SCHEDULE)
        for person in self.people:
            traits = {"email": person.email, "phone": person.phone}
            await shop.run(IDENTIFY, input={"userId": person.user_id, "traits": traits})
            platform = "IOS" if person.has_iphone else "ANDROID"
            await shop.run(REGISTER, input={"userId": person.user_id, "platform": platform, "token": person.device})
        self._draw_moods()

    def calm(self) -> None:
        """From now on everybody is well."""
        for moody in self.receivers:
            moody.scripts.clear()
        self.peers.apns.scripts.clear()
        self.peers.fcm.scripts.clear()
        self.peers.twilio.scripts.clear()
        self.peers.smtp.replies.clear()
        self.peers.smtp.drop_after_data = False

    def arrivals(self) -> Counter[str]:
        """How often each push, mail and text message came, by the delivery's id or what its text says."""
        peers = self.peers
        return Counter(
            [
                *(push.payload["deliveryId"] for push in peers.apns.accepted),
                *(message["data"]["deliveryId"] for message in peers.fcm.accepted),
                *(f"{mail.recipient} {mail.message['Subject']}" for mail in peers.smtp.received),
                *(f"{message.form['To']} {message.form['Body']}" for message in peers.twilio.messages),
            ]
        )

    def _draw_moods(self) -> None:
        for person in self.people:
            later = self._chance.randrange(ANSWERS)
            if person.has_iphone:
                self.peers.apns.scripts[person.device] = _draw(self._chance, APNS_MOODS)
                self.peers.apns.scripts[person.device][later] = APNS_LATER
            else:
                self.peers.fcm.scripts[person.device] = _draw(self._chance, FCM_MOODS)
                self.peers.fcm.scripts[person.device][later] = FCM_LATER
            self.peers.twilio.scripts[person.phone] = self._chance.sample(TWILIO_MOODS, self._chance.randint(0, 2))
        self.moody.scripts["/moody"] = _draw(self._chance, WEBHOOK_MOODS) * MANY
        self.echo.scripts["/echo"] = _draw(self._chance, WEBHOOK_MOODS) * MANY


def was_answered_2xx(request: Received) -> bool:
    """Whether a status from 200 to 299 went out whole."""
    match request.action:
        case receiver.Reply(status=status):
            return 200 <= status < 300
        case receiver.HangUp(when="body") | receiver.Stall(where="body") | receiver.StreamForever():
            return True
    return False


def _draw(chance: random.Random, moods: Sequence[tuple[Mood, int]]) -> list[Mood]:
    return chance.choices([mood for mood, _ in moods], [weight for _, weight in moods], k=ANSWERS)
