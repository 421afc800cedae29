"""Cursors that were not given out for the place where they are used: `CURSOR_INVALID`, wherever a cursor is taken."""

from __future__ import annotations

from uuid import UUID

import pytest

from engine.cursors import Cursor, CursorCodec, CursorKind
from tests.acceptance.gateway_client import (
    FOLLOW,
    EventSource,
    Gateway,
    code_of,
    harmless,
    open_event_source,
    open_socket,
)

USER = "cursors"
EVERY_KIND = """{
  viewer { project { head } }
  events(first: 1) { edges { cursor } }
  profiles(first: 1) { edges { cursor } }
  eventTypes(first: 1) { edges { cursor } }
}"""
PLACES = {
    "events after": "query ($cursor: Cursor) { events(after: $cursor) { totalCount } }",
    "events before": "query ($cursor: Cursor) { events(last: 1, before: $cursor) { totalCount } }",
    "profiles after": "query ($cursor: Cursor) { profiles(after: $cursor) { totalCount } }",
    "profiles before": "query ($cursor: Cursor) { profiles(last: 1, before: $cursor) { totalCount } }",
    "eventTypes": "query ($cursor: Cursor) { eventTypes(after: $cursor) { edges { cursor } } }",
    "timeline": (
        f'query ($cursor: Cursor) {{ profile(userId: "{USER}") {{ timeline(after: $cursor) {{ totalCount }} }} }}'
    ),
}
TAKEN = {
    "head": {"stream"},
    "event": {"events after", "events before", "timeline", "stream"},
    "profile": {"profiles after", "profiles before"},
    "eventType": {"eventTypes"},
}
"""Where a cursor of each kind belongs."""


async def cursors(gateway: Gateway, key: str = "") -> dict[str, str]:
    """One of each kind, of the key's project."""
    await gateway.track(key=key, eventType="cursor.tested", userId=USER)
    data = await gateway.data(EVERY_KIND, key=key)
    return {
        "head": data["viewer"]["project"]["head"],
        "event": data["events"]["edges"][0]["cursor"],
        "profile": data["profiles"]["edges"][0]["cursor"],
        "eventType": data["eventTypes"]["edges"][0]["cursor"],
    }


async def bad_cursors(gateway: Gateway, place: str) -> dict[str, str]:
    """All that do not belong there, by what is wrong with them."""
    own, foreign = await cursors(gateway), await cursors(gateway, await gateway.make_project())
    event = own["event"]
    return {
        **{f"a foreign {kind}'s": cursor for kind, cursor in foreign.items()},
        **{f"that of a {kind}": cursor for kind, cursor in own.items() if place not in TAKEN[kind]},
        "tampered": ("A" if event[0] != "A" else "B") + event[1:],
        "tampered at the end": event[:-1] + ("A" if event[-1] != "A" else "Q"),
        "cut": event[:-2],
        "longer": event + "AAAA",
        "no base64": "!!!",
        "unsigned": "AQ",
        "all zeros": "A" * 64,
    }


MALFORMED = ["", "é", "A" * 4097]
"""No cursor can look like this."""


@pytest.mark.parametrize("place", PLACES)
async def test_a_cursor_of_somewhere_else_is_invalid_in_a_list(gateway: Gateway, place: str) -> None:
    bad = await bad_cursors(gateway, place)

    async with harmless(gateway):
        codes = {why: code_of(await gateway.ask(PLACES[place], cursor=cursor)) for why, cursor in bad.items()}
        malformed = [code_of(await gateway.ask(PLACES[place], cursor=cursor)) for cursor in MALFORMED]

    assert codes == dict.fromkeys(bad, "CURSOR_INVALID")
    assert malformed == ["BAD_USER_INPUT"] * len(MALFORMED)


@pytest.mark.parametrize("place", PLACES)
async def test_a_cursor_is_taken_where_it_belongs(gateway: Gateway, place: str) -> None:
    [own] = [cursor for kind, cursor in (await cursors(gateway)).items() if place in TAKEN[kind]]

    assert "errors" not in (await gateway.ask(PLACES[place], cursor=own)).json


async def test_a_cursor_of_somewhere_else_is_invalid_in_a_socket(gateway: Gateway) -> None:
    bad = await bad_cursors(gateway, "stream")
    codes = {}

    async with harmless(gateway), open_socket(gateway) as socket:
        for why, cursor in bad.items():
            await socket.subscribe(why, FOLLOW, after=cursor)
            message = await socket.receive()
            assert (message["type"], message["id"]) == ("error", why)
            codes[why] = message["payload"][0]["extensions"]["code"]
        await socket.subscribe("last", "{ viewer { role } }")
        assert (await socket.receive())["payload"]["data"] == {"viewer": {"role": "ADMIN"}}

    assert codes == dict.fromkeys(bad, "CURSOR_INVALID")


async def ended_by(stream: EventSource) -> list[str]:
    """The codes of the errors that a stream ends with."""
    payload = await stream.item()
    await stream.ended()
    return [error["extensions"]["code"] for error in payload["errors"]]


async def test_a_cursor_of_somewhere_else_is_invalid_in_an_event_stream(gateway: Gateway) -> None:
    bad = await bad_cursors(gateway, "stream")
    by_argument, by_header = {}, {}

    async with harmless(gateway):
        for why, cursor in bad.items():
            async with open_event_source(gateway, FOLLOW, after=cursor) as stream:
                by_argument[why] = await ended_by(stream)
            async with open_event_source(gateway, FOLLOW, last_event_id=cursor) as stream:
                by_header[why] = await ended_by(stream)

    assert by_argument == {why: ["CURSOR_INVALID"] for why in bad}
    assert by_header == {why: ["CURSOR_INVALID"] for why in bad}


@pytest.mark.parametrize("header", ["é", "a b", "A" * 4097])
async def test_a_last_event_id_that_is_no_cursor_ends_the_stream(gateway: Gateway, header: str) -> None:
    async with harmless(gateway), open_event_source(gateway, FOLLOW, last_event_id=header) as stream:
        assert await ended_by(stream) == ["CURSOR_INVALID"]


async def test_a_cursor_beyond_the_head_has_expired(gateway: Gateway) -> None:
    """As after a restore: signed by us, of this project, of a position that the log does not have."""
    secret = (gateway.running.data_dir / "secret").read_text().strip()
    project = UUID(gateway.running.keys["projectId"])
    codec = CursorCodec(secret.encode())
    ahead = codec.encode(Cursor(CursorKind.EVENTS, project, 1, (10**12,)))
    before_restore = codec.encode(Cursor(CursorKind.EVENTS, project, 2**32 - 1, (1,)))

    for cursor in (ahead, before_restore):
        async with harmless(gateway):
            listed = await gateway.ask(PLACES["events after"], cursor=cursor)
            async with open_event_source(gateway, FOLLOW, after=cursor) as stream:
                streamed = await ended_by(stream)
        assert code_of(listed) == "CURSOR_EXPIRED"
        assert streamed == ["CURSOR_EXPIRED"]
