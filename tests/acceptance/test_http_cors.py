"""Pages of other origins against a whole gateway: those that are named read answers, the others' browsers keep them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from launch.ports import free_port
from tests.acceptance.gateway_client import Gateway
from tests.acceptance.running import Running
from transport.http.front import PREFLIGHTED_HEADERS

ALLOWED = "https://app.example.com"
FOREIGN = "https://evil.example.com"
QUERY = {"query": "{ __typename }"}
ALLOW_ORIGIN = "access-control-allow-origin"


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two of them: an answer that one passes on for the other goes through both."""
    data = tmp_path_factory.mktemp("cors") / "data"
    origins = f"{ALLOWED}, https://www.example.com"
    running = Running(data, free_port(), SENDORA_GATEWAYS="2", SENDORA_ALLOWED_ORIGINS=origins)
    running.until_welcomed(60)
    yield running
    running.process.terminate()
    assert running.process.wait(20) == 0


@pytest.fixture
def url(gateways: Running) -> str:
    return f"http://127.0.0.1:{gateways.port}/graphql"


@pytest.fixture
async def client(gateways: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        headers={"x-api-key": gateways.keys["secretKey"]},
        timeout=aiohttp.ClientTimeout(10),
        connector=aiohttp.TCPConnector(force_close=True),
    ) as client:
        yield client


def preflight(origin: str, method: str, *headers: str) -> dict[str, str]:
    """What a browser asks before it lets a page send such a request."""
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": ",".join(headers),
    }


def listed(value: str) -> set[str]:
    return {item.strip().lower() for item in value.split(",")}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_preflight_of_a_named_origin_allows_all_that_our_clients_send(
    client: aiohttp.ClientSession, url: str, method: str
) -> None:
    asked = ("content-type", "last-event-id", "x-graphql-event-stream-token", *PREFLIGHTED_HEADERS)
    async with client.options(url, headers=preflight(ALLOWED, method, *asked)) as response:
        assert (response.status, response.headers[ALLOW_ORIGIN]) == (200, ALLOWED)
        assert listed(response.headers["access-control-allow-methods"]) == {"get", "post", "put", "delete"}
        assert set(asked) <= listed(response.headers["access-control-allow-headers"])
        assert response.headers["access-control-max-age"] == "600"
        assert "access-control-allow-credentials" not in response.headers
        assert "origin" in listed(response.headers["vary"])


async def test_a_preflight_of_another_origin_or_for_another_header_is_refused(
    client: aiohttp.ClientSession, url: str
) -> None:
    async with client.options(url, headers=preflight(FOREIGN, "POST", "content-type")) as response:
        assert (response.status, ALLOW_ORIGIN in response.headers) == (400, False)
    async with client.options(url, headers=preflight(ALLOWED, "POST", "x-something")) as response:
        assert response.status == 400


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_a_page_of_a_named_origin_reads_answers_and_refusals(url: str, key: str | None) -> None:
    headers = {"origin": ALLOWED} | ({"x-api-key": key} if key else {})
    async with aiohttp.ClientSession(headers=headers) as page, page.post(url, json=QUERY) as response:
        assert response.status == (401 if key else 200)
        assert response.headers[ALLOW_ORIGIN] == ALLOWED
        assert listed(response.headers["vary"]) == {"accept", "origin"}


@pytest.mark.parametrize("origin", [FOREIGN, "null", "https://app.example.com.evil.com", "http://app.example.com"])
async def test_a_page_of_another_origin_reads_nothing(url: str, origin: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"origin": origin}) as page,
        page.post(url, json=QUERY) as response,
        page.post(url, json=QUERY, headers={"accept": "text/event-stream"}) as stream,
    ):
        assert ALLOW_ORIGIN not in response.headers
        assert ALLOW_ORIGIN not in stream.headers


async def test_a_page_of_a_named_origin_reads_streams_in_both_modes(gateways: Running, url: str) -> None:
    key = gateways.keys["publishableKey"]
    page = aiohttp.ClientSession(
        headers={"origin": ALLOWED, "x-api-key": key, "sec-fetch-site": "cross-site"},
        timeout=aiohttp.ClientTimeout(10),
        connector=aiohttp.TCPConnector(force_close=True),
    )
    async with page:
        async with page.get(url, params=QUERY, headers={"accept": "text/event-stream"}) as response:
            assert (response.status, response.headers[ALLOW_ORIGIN]) == (200, ALLOWED)
            assert "event: next" in await response.text()
        for _ in range(6):  # whichever gateway accepts
            async with page.put(url) as reserved:
                assert (reserved.status, reserved.headers.getall(ALLOW_ORIGIN)) == (201, [ALLOWED])
                token = {"x-graphql-event-stream-token": await reserved.text()}
            async with page.get(url, headers={"accept": "text/event-stream", **token}) as response:
                assert (response.status, response.headers.getall(ALLOW_ORIGIN)) == (200, [ALLOWED])


async def test_without_named_origins_other_pages_read_nothing(gateway: Gateway) -> None:
    async with (
        aiohttp.ClientSession(headers={"origin": ALLOWED}) as page,
        page.post(gateway.url, json=QUERY) as response,
        page.options(gateway.url, headers=preflight(ALLOWED, "POST", "content-type")) as asked,
    ):
        assert (response.status, ALLOW_ORIGIN in response.headers) == (200, False)
        assert (asked.status, ALLOW_ORIGIN in asked.headers) == (405, False)
