"""The proxy of `docker-compose.yml` before two real gateways: streams pass at once, single connections hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.sync.client import connect

from launch.embedded import EmbeddedValkey
from launch.ports import free_port
from tests.acceptance.running import ROOT, clean_environment, run_command, wait_until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed here")
STREAM = 'subscription { eventStream(after: "%s") { node { key } } }'
"""From a position read before, so that nothing depends on when the stream begins."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """What clients know, and the gateways behind it."""

    port: int
    key: str
    gateways: list[subprocess.Popen[bytes]]

    @contextmanager
    def open(self, method: str, path: str = "/graphql", body: object = None, **headers: str) -> Iterator[HTTPResponse]:
        """One request on a connection of its own, closed afterwards."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent = {"x-api-key": self.key, "content-type": "application/json", **headers}
        text = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, text, {name.replace("_", "-"): value for name, value in sent.items()})
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def stream(self) -> str:
        """A subscription to what is tracked from now on."""
        with self.open("POST", body={"query": "{ viewer { project { head } } }"}) as response:
            answer = json.loads(response.read())
        return STREAM % answer["data"]["viewer"]["project"]["head"]

    def track(self) -> str:
        """Append an event; its key."""
        key = uuid4().hex
        query = f'mutation {{ track(input: {{event: {{id: "{key}", eventType: "a.b"}}}}) {{ event {{ key }} }} }}'
        with self.open("POST", body={"query": query}) as response:
            answer = json.loads(response.read())
        assert answer["data"] == {"track": {"event": {"key": key}}}
        return key


@pytest.fixture(scope="module")
def proxy(
    module_database_url: str,
    redis_server: EmbeddedValkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """nginx with the committed configuration; only the addresses are those of this machine."""
    folder = tmp_path_factory.mktemp("proxy")
    ports = [free_port(), free_port()]
    made = run_command("create-project", "Behind a proxy", DATABASE_URL=module_database_url)
    settings = {
        "DATABASE_URL": module_database_url,
        "REDIS_URL": redis_server.url,
        "SENDORA_SECRET_KEY": "0123456789abcdef" * 2,
    }
    gateways = [
        subprocess.Popen(
            [sys.executable, "cli.py", "serve"], cwd=ROOT, env=clean_environment(PORT=str(port), **settings)
        )
        for port in ports
    ]
    public = free_port()
    nginx = start_nginx(folder, public, ports)
    try:
        for port in ports:
            wait_until(lambda port=port: is_up(port), seconds=20, what="gateway")
        wait_until(lambda: is_up(public), seconds=10, what="proxy")
        yield Proxy(public, json.loads(made.stdout)["secretKey"], gateways)
    finally:
        for process in (nginx, *gateways):
            process.terminate()
            process.wait(10)


def start_nginx(folder: Path, public: int, ports: list[int]) -> subprocess.Popen[bytes]:
    text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text().replace("/tmp/", f"{folder}/")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{public};")
    for number, port in enumerate(ports, 1):
        text = text.replace(f"gateway-{number}:8000", f"127.0.0.1:{port}")
    assert not re.search(r"gateway-\d", text)
    (folder / "nginx.conf").write_text(text)
    # as root, workers would become nobody, who may not write into this folder
    options = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    return subprocess.Popen([str(NGINX), "-p", folder, "-c", folder / "nginx.conf", "-g", options])


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def read_until(response: HTTPResponse, text: str) -> str:
    """What a stream sends until it has sent `text`."""
    seen = ""
    while text not in seen:
        line = response.readline()
        assert line, seen
        seen += line.decode()
    return seen


def test_events_pass_at_once(proxy: Proxy) -> None:
    with proxy.open("POST", body={"query": proxy.stream()}, accept="text/event-stream") as stream:
        assert stream.status == 200

        keys = [proxy.track() for _ in range(4)]

        for key in keys:
            read_until(stream, key)


def test_a_web_socket_passes(proxy: Proxy) -> None:
    url = f"ws://127.0.0.1:{proxy.port}/graphql"
    with connect(url, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "connection_init", "payload": {"x-api-key": proxy.key}}))
        assert json.loads(socket.recv(10))["type"] == "connection_ack"
        socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": proxy.stream()}}))
        key = proxy.track()

        message = json.loads(socket.recv(10))
        while message.get("type") != "next":
            message = json.loads(socket.recv(10))
        assert message["payload"] == {"data": {"eventStream": {"node": {"key": key}}}}


def test_the_requests_of_a_single_connection_meet(proxy: Proxy) -> None:
    for _ in range(4):
        with proxy.open("PUT") as reserved:
            token = reserved.read().decode()
            assert reserved.status == 201
        with proxy.open("GET", accept="text/event-stream", x_graphql_event_stream_token=token) as stream:
            assert stream.status == 200
            body = {"query": proxy.stream(), "extensions": {"operationId": "one"}}
            with proxy.open("POST", body=body, x_graphql_event_stream_token=token) as accepted:
                assert accepted.status == 202, accepted.read()

            read_until(stream, proxy.track())


def test_metrics_are_not_for_the_world(proxy: Proxy) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/metrics")

    assert raised.value.code == 404
    raised.value.close()


def test_a_body_beyond_the_limit_is_refused_by_the_gateway_in_graphql(proxy: Proxy) -> None:
    with proxy.open("POST", body={"query": "{ __typename }", "variables": {"x": "y" * 2_200_000}}) as response:
        answer = json.loads(response.read())

    assert response.status == 413
    assert "errors" in answer


def test_a_gateway_that_is_away_is_passed_over(proxy: Proxy) -> None:
    proxy.gateways[0].kill()
    proxy.gateways[0].wait()

    for _ in range(10):
        proxy.track()
