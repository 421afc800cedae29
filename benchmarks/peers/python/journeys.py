"""What `benchmarks/workflows.py` and its peers share: the events, what they start, and whom they are about.

Steps: one event a person, of an amount; whoever pays `LARGE` or more becomes a `large` customer, the others `small`.
Matching: `HANDLERS` event handlers of four kinds (a type; a type and an amount; a wildcard; one type and a shop each),
and events of which one in ten matches exactly one of them. Three in ten have the type that a quarter of all handlers
share, and a shop of nobody's; two a type of somebody's and too small an amount; four a type of nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS_TYPE = "bench.order.paid"
SHARED_TYPE = "bench.cart.updated"
LARGE = 50
MATCH_ABOVE = 500
HANDLERS = 1_000
ONE_MATCHES_IN = 10
PEOPLE = 1_000
WAIT_MINUTES = 60
"""What a matched event starts begins with a wait, so that matching alone is measured."""


@dataclass(frozen=True)
class Handler:
    """What an event has to be like. `pattern` may end in `.*`; the property, if there is one, is above or equals."""

    number: int
    pattern: str
    above: int | None = None
    shop: str | None = None

    def matches(self, event: Mapping[str, Any]) -> bool:
        """As a handler of one's own would be written."""
        event_type: str = event["eventType"]
        if self.pattern.endswith(".*"):
            return event_type.startswith(self.pattern[:-1])
        if event_type != self.pattern:
            return False
        properties = event["properties"]
        if self.above is not None:
            return bool(properties["amount"] > self.above)
        return self.shop is None or properties["shop"] == self.shop


def handlers() -> list[Handler]:
    """All of them."""
    return [handler(number) for number in range(HANDLERS)]


def handler(number: int) -> Handler:
    """Four kinds, in turns."""
    match number % 4:
        case 0:
            return Handler(number, f"bench.page_{number}.viewed")
        case 1:
            return Handler(number, f"bench.product_{number}.bought", above=MATCH_ABOVE)
        case 2:
            return Handler(number, f"bench.ticket_{number}.*")
        case _:
            return Handler(number, SHARED_TYPE, shop=f"shop-{number}")


def events_to_match(count: int) -> list[dict[str, Any]]:
    """Events of which `count // ONE_MATCHES_IN` match, one handler each."""
    return [_event_to_match(number) for number in range(count)]


def _event_to_match(number: int) -> dict[str, Any]:
    place = number % ONE_MATCHES_IN
    if place == 0:
        return _matching(number, (number // ONE_MATCHES_IN) % HANDLERS)
    if place in (1, 2, 3):
        return _event(number, SHARED_TYPE, shop="shop-of-nobody")
    if place in (4, 5):
        return _event(number, f"bench.product_{number * 4 % HANDLERS + 1}.bought", amount=MATCH_ABOVE)
    return _event(number, f"bench.page_{number % HANDLERS}.left")


def _matching(number: int, of: int) -> dict[str, Any]:
    found = handler(of)
    if found.pattern.endswith(".*"):
        return _event(number, found.pattern.removesuffix("*") + "opened")
    return _event(number, found.pattern, amount=MATCH_ABOVE + 1, shop=found.shop or "shop-of-nobody")


def events_to_step(count: int) -> list[dict[str, Any]]:
    """One event a person."""
    return [_event(number, STEPS_TYPE, user_id=person(number), amount=number % (2 * LARGE)) for number in range(count)]


def person(number: int) -> str:
    """Their id."""
    return f"person-{number}"


def tiers(count: int) -> dict[str, int]:
    """How many of so many events make a customer of which size."""
    return Counter("large" if event["properties"]["amount"] >= LARGE else "small" for event in events_to_step(count))


def chunks(events: Sequence[dict[str, Any]], size: int) -> list[Sequence[dict[str, Any]]]:
    """In their order."""
    return [events[start : start + size] for start in range(0, len(events), size)]


def _event(
    number: int, event_type: str, *, user_id: str | None = None, amount: int = 0, shop: str = "shop-of-nobody"
) -> dict[str, Any]:
    return {
        "eventType": event_type,
        "userId": user_id or person(number % PEOPLE),
        "properties": {"number": number, "amount": amount, "shop": shop, "padding": "x" * 100},
    }
