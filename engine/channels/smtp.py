"""Mail through a relay, over SMTP (RFC 5321) with STARTTLS, TLS or neither, one recipient at a time.

Guarantees: the relay's address is resolved and checked by `Egress`, and the checked address is the one that is dialled;
a few connections per account are kept and used again, and when a kept one turns out to be dead before the mail went
out, the mail is tried once more on a new one. A refusal keeps the relay's own code: 5xx is for good, 4xx passes.
SMTP does not deduplicate: when the body was handed over and no answer came, the outcome is `Unknown`.
Leaves to others: what is in the mail, and its signature. `close` ends all connections.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections import OrderedDict
from ipaddress import ip_address

import aiosmtplib
import msgspec
from aiosmtplib.errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from engine.channels.base import SEND_TIMEOUT, Accepted, Answer, Deferred, Outcome, Rejected, Unknown
from engine.dispatch.values import DeliveryError
from engine.egress import MAIL_PORTS, Blocked, Egress
from engine.egress_networks import forbidden_kind

MAX_CONNECTIONS = 8
"""To one account at once; relays count them, and 8 carry several hundred mails a second."""
MAX_RELAYS = 64
"""Accounts whose connections are kept; those that were used least recently are closed."""
IDLE_SECONDS = 30.0
"""How long a connection waits for the next mail. Relays close idle ones after some minutes."""
CONNECT_SECONDS = 5.0
MAX_ANSWER_CHARACTERS = 1000
SERVICE_CLOSING = 421
_CREDENTIALS_REFUSED = frozenset({530, 534, 535, 538})
"""RFC 4954 section 6."""

_ADDRESS = re.compile(r"<?[^\s<>@,;:]+@[^\s<>,;:]+>?")
_ENHANCED_CODE = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
_DEAD_MAILBOX = re.compile(r"5\.(?:1\.(?:[0-6]|10)|2\.1)")
"""RFC 3463: the mailbox or its domain does not exist, has moved or was switched off. Not: full, or against a policy."""


class SmtpAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send, and as whom. `security` is STARTTLS, TLS or NONE; `from_address` is the default sender."""

    host: str
    port: int
    security: str = "STARTTLS"
    username: str | None = None
    password: str | None = None
    from_address: str | None = None

    def __repr__(self) -> str:
        return f"SmtpAccount(host={self.host}, port={self.port})"


class SmtpMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One mail. `sender` and `recipient` are those of the envelope; `content` has CRLF line ends."""

    account: SmtpAccount
    sender: str
    recipient: str
    message_id: str
    content: bytes
    repeatable: bool = False

    def __repr__(self) -> str:
        return f"SmtpMessage(account={self.account}, message_id={self.message_id})"


class SmtpSender:
    """Sends for one process. `hello_name` is what it calls itself; `tls` trusts more than the system does, in tests."""

    def __init__(self, egress: Egress, *, hello_name: str = "localhost", tls: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        self._hello_name = hello_name
        self._tls = tls or ssl.create_default_context()
        self._relays: OrderedDict[SmtpAccount, _Relay] = OrderedDict()

    async def send(self, message: SmtpMessage) -> Outcome:
        """One attempt. Never raises for what the relay or the network does."""
        progress = _Progress()
        relay = self._relay(message.account)
        try:
            async with asyncio.timeout(SEND_TIMEOUT.total_seconds()):
                return await self._deliver(relay, message, progress)
        except (SMTPException, OSError, _NeedsUtf8) as error:
            return _outcome(error, progress)

    async def close(self) -> None:
        """Close all connections, without waiting for the relays to agree."""
        for relay in self._relays.values():
            relay.close()
        self._relays.clear()

    async def _deliver(self, relay: _Relay, message: SmtpMessage, progress: _Progress) -> Outcome:
        async with relay.places:
            kept = relay.take()
            if kept is not None:
                try:
                    return await _transmit(relay, kept, message, progress)
                except (SMTPServerDisconnected, SMTPResponseException) as error:
                    # It had been closed while it waited, or has carried as many as its relay lets it.
                    if progress.handed_over or not _is_closed(error):
                        raise
            progress.is_connecting = True
            client = await self._connect(message.account)
            progress.is_connecting = False
            return await _transmit(relay, client, message, progress)

    def _relay(self, account: SmtpAccount) -> _Relay:
        relay = self._relays.get(account)
        if relay is None:
            relay = self._relays[account] = _Relay()
        self._relays.move_to_end(account)
        while len(self._relays) > MAX_RELAYS:
            _, oldest = self._relays.popitem(last=False)
            oldest.close()
        return relay

    async def _connect(self, account: SmtpAccount) -> aiosmtplib.SMTP:
        client = aiosmtplib.SMTP(
            hostname=account.host,
            sock=await self._dial(account.host, account.port),
            username=account.username,
            password=account.password,
            local_hostname=self._hello_name,
            use_tls=account.security == "TLS",
            start_tls=account.security == "STARTTLS",
            tls_context=self._tls,
            timeout=SEND_TIMEOUT.total_seconds(),
        )
        # Whatever happens, it closes the socket.
        await client.connect()
        return client

    async def _dial(self, host: str, port: int) -> socket.socket:
        """A connection to the first checked address that takes one. Raises `Blocked` and `OSError`."""
        failure: OSError = OSError("the host has no address")
        for address in await self._egress.resolve(host, port):
            self._check_port(address, port)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(made, (address, port))
            except OSError as error:
                made.close()
                failure = error
                continue
            except BaseException:
                made.close()
                raise
            return made
        raise failure

    def _check_port(self, address: str, port: int) -> None:
        """On the internet only the ports of mail; what the operator allows besides is private, on any port."""
        if self._egress.guarded and port not in MAIL_PORTS and forbidden_kind(ip_address(address)) is None:
            raise Blocked(f"Port {port} is not one of mail: use {', '.join(map(str, sorted(MAIL_PORTS)))}.")


class _NeedsUtf8(Exception):
    """An address is not ASCII, and the relay takes no others."""


class _Progress:
    """How far an attempt has come."""

    def __init__(self) -> None:
        self.is_connecting = False
        self.handed_over = False


class _Relay:
    """The connections of one account."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []
        self._is_closed = False

    def take(self) -> aiosmtplib.SMTP | None:
        """The connection that was used last and is still open; those that have waited too long are closed."""
        while self._idle:
            since, client = self._idle.pop()
            if client.is_connected and time.monotonic() - since < IDLE_SECONDS:
                return client
            client.close()
        return None

    def give_back(self, client: aiosmtplib.SMTP) -> None:
        if self._is_closed or not client.is_connected:
            client.close()
        else:
            self._idle.append((time.monotonic(), client))

    def close(self) -> None:
        self._is_closed = True
        for _, client in self._idle:
            client.close()
        self._idle.clear()


async def _transmit(relay: _Relay, client: aiosmtplib.SMTP, message: SmtpMessage, progress: _Progress) -> Outcome:
    """One mail over a connection, which is given back when the relay's answers leave it usable."""
    try:
        answer = await _converse(client, message, progress)
    except SMTPResponseException as error:
        if error.code != SERVICE_CLOSING and client.is_connected:
            try:
                await client.rset()
            except SMTPException:
                client.close()
        relay.give_back(client)
        raise
    except BaseException:
        client.close()
        raise
    relay.give_back(client)
    return Accepted(
        provider_message_id=message.message_id,
        answer=Answer(status_code=answer.code, response_body=_without_addresses(answer.message)),
    )


async def _converse(client: aiosmtplib.SMTP, message: SmtpMessage, progress: _Progress) -> aiosmtplib.SMTPResponse:
    needs_utf8 = not (message.sender + message.recipient).isascii()
    options = None
    if needs_utf8:
        if client.is_ehlo_or_helo_needed:
            await client.ehlo()
        if not client.supports_extension("smtputf8"):
            raise _NeedsUtf8
        options = ["SMTPUTF8", "BODY=8BITMIME"]
    encoding = "utf-8" if needs_utf8 else "ascii"
    await client.mail(message.sender, options=options, encoding=encoding)
    await client.rcpt(message.recipient, encoding=encoding)
    progress.handed_over = True
    return await client.data(message.content)


def _outcome(error: SMTPException | OSError | _NeedsUtf8, progress: _Progress) -> Outcome:
    match error:
        case SMTPResponseException():
            return _refusal(error, progress)
        case Blocked():
            return Rejected(error=DeliveryError("BLOCKED_URL", str(error), permanent=True))
        case _NeedsUtf8():
            message = "The address has characters outside ASCII, and the relay does not take such addresses."
            return Rejected(error=DeliveryError("SMTPUTF8_NOT_SUPPORTED", message, permanent=True))
    if progress.handed_over:
        message = "The relay took the mail and did not answer: it may have been sent."
        return Unknown(error=DeliveryError("NO_ANSWER", message, permanent=False))
    return Deferred(error=_unreachable(error), is_account=True)


def _refusal(error: SMTPResponseException, progress: _Progress) -> Outcome:
    """What a reply code means: 5xx about this mail is for good, about the account it is for an operator to mend."""
    text = _without_addresses(error.message)
    enhanced = _ENHANCED_CODE.search(text)
    code = f"{error.code} {enhanced[1]}" if enhanced else str(error.code)
    is_permanent = error.code >= 500
    answer = Answer(status_code=error.code, response_body=text)
    if isinstance(error, SMTPAuthenticationError) or error.code in _CREDENTIALS_REFUSED:
        hint = "Give the relay's user name and password again with configureProvider."
        failure = DeliveryError(code, f"The relay refused the credentials: {text}", permanent=False, hint=hint)
        return Deferred(error=failure, answer=answer, is_account=True)
    about_mail = isinstance(error, SMTPRecipientRefused | SMTPDataError)
    if is_permanent and not progress.is_connecting:
        is_dead = about_mail and enhanced is not None and _DEAD_MAILBOX.fullmatch(enhanced[1]) is not None
        failure = DeliveryError(code, f"The relay refused the mail: {text}", permanent=True)
        return Rejected(error=failure, answer=answer, address_is_dead=is_dead)
    failure = DeliveryError(code, f"The relay refused the mail for now: {text}", permanent=False)
    return Deferred(error=failure, answer=answer, is_account=not about_mail or error.code == SERVICE_CLOSING)


def _unreachable(error: SMTPException | OSError) -> DeliveryError:
    cause = error.__cause__ if isinstance(error, SMTPConnectError) and error.__cause__ is not None else error
    match cause:
        case ssl.SSLError():
            return DeliveryError("TLS", "The relay does not speak TLS as it should.", permanent=False)
        case TimeoutError():
            return DeliveryError("TIMEOUT", "The relay did not answer in time.", permanent=False)
        case SMTPServerDisconnected():
            return DeliveryError("DISCONNECTED", "The relay ended the connection.", permanent=False)
        case ConnectionRefusedError():
            return DeliveryError("CONNECTION_REFUSED", "The relay refused the connection.", permanent=False)
        case SMTPException():
            hint = "Choose another security with configureProvider, or mend the relay."
            message = "The relay does not offer what the account asks for: STARTTLS, or a way to sign in."
            return DeliveryError("NOT_SUPPORTED", message, permanent=False, hint=hint)
    return DeliveryError("UNREACHABLE", "The relay could not be reached.", permanent=False)


def _is_closed(error: SMTPException) -> bool:
    return isinstance(error, SMTPServerDisconnected) or (
        isinstance(error, SMTPResponseException) and error.code == SERVICE_CLOSING
    )


def _without_addresses(text: str) -> str:
    """What a relay says, for logs: it likes to repeat whom it refuses."""
    printable = "".join(each if each.isprintable() else " " for each in text.encode("utf-8", "replace").decode())
    return _ADDRESS.sub("<address>", printable)[:MAX_ANSWER_CHARACTERS]
