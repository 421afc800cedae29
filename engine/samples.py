"""Sample events for a first start: some days in the life of a small shop, so that every list has something to show.

Guarantees: the same people, events and ids for the same `now` in every process (ids do not even depend on `now`, so an
interrupted first start that is repeated stores nothing twice); oldest first; nothing lies in the future. No event is of
a type that changes what may be sent to a person (consent, erasure). Leaves to others: storing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from random import Random

import msgspec

from db.records import NewEvent
from engine.taxonomy import CANONICAL

PEOPLE = 40
SPAN = timedelta(days=6)
"""From the first sign-up to now."""
CUSTOM_MODULE = "analytics"

_FIRST_NAMES = (  # noqa: SIM905, forty quoted names say less
    "Ada Ben Chloe Dev Elif Finn Grace Hugo Ines Jonas Kira Liam Mara Nils Olga Pablo Quinn Rosa Sami Tara "
    "Uma Viktor Wanda Xenia Yusuf Zoe Amir Bruna Carl Dina Emil Fatou Gil Hana Igor Juno Kofi Lena Milo Nora"
).split()
_PLANS = ("free", "free", "plus", "pro")
_CITIES = (("Berlin", "DE"), ("Lyon", "FR"), ("Austin", "US"), ("Portland", "US"), ("Leeds", "GB"), ("Porto", "PT"))
_PRODUCTS = (("Trail shoes", 119.0), ("Rain jacket", 89.5), ("Water bottle", 18.0), ("Day pack", 64.9), ("Socks", 9.5))
_SOURCES = ("search", "newsletter", "friend", "podcast")
_ARTICLES = ("returns", "shipping-times", "size-guide")
_DEVICES = ("ios", "android", "web")


class _Step(msgspec.Struct, frozen=True):
    event_type: str
    pause: timedelta
    properties: dict[str, object]
    traits: dict[str, object] | None = None


def sample_events(now: datetime) -> list[NewEvent]:
    """About 300 events of 40 people over the last six days, oldest first. `now` has a time zone."""
    events = [event for number in range(PEOPLE) for event in _person(number, now)]
    return sorted(events, key=lambda event: (event.timestamp or now, event.key))


def _person(number: int, now: datetime) -> Iterator[NewEvent]:
    random = Random(number)  # noqa: S311, not a secret: the same events each time
    user_id = f"user_{number + 1:03}"
    anonymous_id = f"device_{random.getrandbits(48):012x}"
    context = {"device": random.choice(_DEVICES), "country": random.choice(_CITIES)[1]}
    moment = now - SPAN * random.uniform(0.15, 1.0)
    for index, step in enumerate(_journey(number, random)):
        moment += step.pause
        if moment > now:
            return
        yield NewEvent(
            key=f"sample-{number + 1:03}-{index + 1:02}",
            module=_module_of(step.event_type),
            event_type=step.event_type,
            timestamp=moment,
            user_id=user_id,
            anonymous_id=anonymous_id,
            properties=_json(step.properties),
            context=_json(context),
            traits=None if step.traits is None else _json(step.traits),
        )


def _journey(number: int, random: Random) -> Iterator[_Step]:
    """What one person does: arrives, signs up, looks around; some buy, subscribe, complain or come back."""
    source = random.choice(_SOURCES)
    yield _Step("attribution.installed", timedelta(0), {"source": source, "campaign": f"autumn-{source}"})
    yield _Step("auth.signed_up", _minutes(random, 1, 9), {"method": "email"}, _traits(number, random))
    yield _Step("email.sent", _minutes(random, 0, 1), {"template": "welcome"})
    yield _Step("email.delivered", _minutes(random, 0, 2), {"template": "welcome"})
    if random.random() < 0.6:
        yield _Step("email.opened", _minutes(random, 5, 240), {"template": "welcome"})
    yield from _shopping(number, random)
    if random.random() < 0.35:
        yield from _support(number, random)
    if random.random() < 0.4:
        yield _Step("auth.signed_in", _minutes(random, 300, 1800), {"method": "email"})
        yield _Step("push.opened", _minutes(random, 5, 90), {"campaign": "back-in-stock"})


def _shopping(number: int, random: Random) -> Iterator[_Step]:
    for visit in range(random.randint(1, 3)):
        product, price = random.choice(_PRODUCTS)
        yield _Step("product.viewed", _minutes(random, 10, 600), {"product": product, "price": price})
        if random.random() < 0.5:
            quantity = random.randint(1, 3)
            order = {"orderId": f"A-{number + 1:03}{visit + 1}", "product": product, "quantity": quantity}
            yield _Step("order.placed", _minutes(random, 2, 20), {**order, "total": round(price * quantity, 2)})
    if random.random() < 0.3:
        plan = random.choice(("plus", "pro"))
        yield _Step("billing.subscription_created", _minutes(random, 5, 300), {"plan": plan}, {"plan": plan})


def _support(number: int, random: Random) -> Iterator[_Step]:
    yield _Step("kb.article_viewed", _minutes(random, 30, 400), {"article": random.choice(_ARTICLES)})
    ticket = {"ticketId": f"T-{number + 1:03}"}
    yield _Step("support.ticket_created", _minutes(random, 1, 15), {**ticket, "subject": "Where is my parcel?"})
    yield _Step("support.status_changed", _minutes(random, 20, 300), {**ticket, "from": "open", "to": "solved"})
    score = random.randint(1, 5)
    yield _Step("survey.response", _minutes(random, 10, 100), {**ticket, "question": "csat", "score": score})
    if score <= 2:
        yield _Step("csat.detractor", timedelta(seconds=1), {**ticket, "score": score})


def _traits(number: int, random: Random) -> dict[str, object]:
    name = _FIRST_NAMES[number]
    city, country = random.choice(_CITIES)
    return {
        "firstName": name,
        "email": f"{name.lower()}@example.com",
        "plan": random.choice(_PLANS),
        "city": city,
        "country": country,
    }


def _minutes(random: Random, least: int, most: int) -> timedelta:
    return timedelta(seconds=random.randint(least * 60, most * 60))


def _module_of(event_type: str) -> str:
    known = CANONICAL.get(event_type)
    return CUSTOM_MODULE if known is None else known.module


def _json(value: Mapping[str, object]) -> str:
    return msgspec.json.encode(value).decode()
