"""A mail relay on loopback: STARTTLS or TLS, AUTH, and answers by script.

It takes every mail. What an address shall be answered instead is put in `SmtpPeer.replies` (at RCPT) or
`SmtpPeer.data_replies` (after the body), by address; `drop_after_data` makes it vanish instead of answering the next
body, `answer_seconds` is how long it takes to answer one. Started by itself it prints its port.
"""

from __future__ import annotations

import asyncio
import email
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import default
from typing import Any, cast

import msgspec
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class Received(msgspec.Struct, frozen=True):
    """One mail as it came over the wire."""

    sender: str
    recipient: str
    content: bytes
    user: str | None
    over_tls: bool

    @property
    def message(self) -> EmailMessage:
        return cast(EmailMessage, email.message_from_bytes(self.content, policy=default))


class SmtpPeer:
    """`connections` counts those that were made; `port` is where it listens."""

    def __init__(self, *, users: dict[str, str], max_per_connection: int | None = None) -> None:
        self.received: list[Received] = []
        self.replies: dict[str, str] = {}
        self.data_replies: dict[str, str] = {}
        self.sender_reply: str | None = None
        self.drop_after_data = False
        self.answer_seconds = 0.0
        self.connections = 0
        self.port = 0
        self._users = users
        self._max_per_connection = max_per_connection
        self._protocols: list[_Protocol] = []

    def drop_connections(self) -> None:
        """As a relay does that is started anew."""
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
        self._protocols.clear()

    def connected(self, protocol: _Protocol) -> None:
        self.connections += 1
        self._protocols.append(protocol)

    def authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _kind: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        login, password = data.login.decode(), data.password.decode()
        return AuthResult(success=self._users.get(login) == password, auth_data=login, handled=False)

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        assert isinstance(server, _Protocol)
        if self._max_per_connection is not None and server.mails >= self._max_per_connection:
            return "421 4.7.0 Too many mails on this connection"
        server.mails += 1
        if self.sender_reply is not None:
            return self.sender_reply
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.replies.get(address)
        if reply is not None:
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        [recipient] = envelope.rcpt_tos
        if recipient in self.data_replies:
            return self.data_replies[recipient]
        content = envelope.original_content
        assert isinstance(content, bytes)
        user = session.auth_data if isinstance(session.auth_data, str) else None
        assert server.transport is not None
        is_tls = server.transport.get_extra_info("sslcontext") is not None
        self.received.append(Received(envelope.mail_from or "", recipient, content, user, is_tls))
        if self.drop_after_data:
            self.drop_after_data = False
            assert server.transport is not None
            server.transport.abort()
        await asyncio.sleep(self.answer_seconds)
        return "250 2.0.0 Queued"


class _Session(Session):
    """aiosmtpd warns of this attribute of its own whenever it sets it."""

    login_data: Any = None


class _Protocol(SMTP):
    """One connection. Ends quietly when the transport is aborted under it."""

    def __init__(self, peer: SmtpPeer, **options: Any) -> None:
        super().__init__(peer, **options)
        self._peer = peer
        self._counted = False
        self.mails = 0

    def _create_session(self) -> Session:
        return _Session(self.loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # STARTTLS makes the connection once more, over the same one.
        if not self._counted:
            self._counted = True
            self._peer.connected(self)


@asynccontextmanager
async def smtp_peer(
    *,
    tls: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    users: dict[str, str] | None = None,
    max_per_connection: int | None = None,
    port: int = 0,
) -> AsyncIterator[SmtpPeer]:
    """With `tls` it offers STARTTLS and takes nothing before it, or speaks TLS at once. With `users` it asks for AUTH.

    `max_per_connection`: how many mails one connection carries before the relay ends it with 421.
    """
    peer = SmtpPeer(users=users or {}, max_per_connection=max_per_connection)

    def connection() -> _Protocol:
        with warnings.catch_warnings():
            # It warns of what a loopback peer is for: passwords without TLS.
            warnings.simplefilter("ignore")
            return _Protocol(
                peer,
                hostname="relay.example",
                tls_context=None if implicit_tls else tls,
                require_starttls=tls is not None and not implicit_tls,
                authenticator=peer.authenticate if users else None,
                auth_required=bool(users),
                auth_require_tls=False,
                enable_SMTPUTF8=True,
            )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "127.0.0.1", port, ssl=tls if implicit_tls else None)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        peer.drop_connections()
        await server.wait_closed()


async def _serve() -> None:
    async with smtp_peer(port=2525) as peer:
        print(f"smtp://127.0.0.1:{peer.port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
