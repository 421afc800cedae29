"""What the parts of a provider's settings and secrets may be. Pure: text is read, nothing is called.

Each check gives the value as it is stored, or a `Misfit`. No message repeats what it was given: it may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from email.errors import MessageError
from email.headerregistry import Address
from email.utils import getaddresses
from typing import Any, TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from engine.contacts import Malformed, parse_email, parse_phone
from engine.egress import MAIL_PORTS, PORTS, Egress
from engine.egress_hosts import Malformed as MalformedHost
from engine.egress_hosts import read_host, read_target
from engine.providers.values import Misfit

MAX_TEXT_CHARACTERS = 512
MAX_KEY_CHARACTERS = 8192
"""Of a private key as PEM: one of 4096 bits has 3,300."""
MAX_CERTIFICATE_CHARACTERS = 32 * 1024
MAX_SERVICE_ACCOUNT_BYTES = 16 * 1024
"""As JSON; Google's have 2,400."""
MAX_PORT = 65535
MIN_SIGNING_SECRET_BYTES, MAX_SIGNING_SECRET_BYTES = 16, 128
"""Of a Svix or Standard Webhooks secret: the specification says 24 to 64, some senders give others."""

Check: TypeAlias = Callable[[object, Egress], object]
"""Gives the value to store, or a `Misfit`."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ALPHANUMERIC_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 &+_-]{1,11}")
_SHORT_CODE = re.compile(r"[0-9]{3,8}")


def text(value: object, _egress: Egress) -> str | Misfit:
    """One line of text."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT_CHARACTERS or _CONTROL.search(value):
        return Misfit(f"This has to be a text of 1 to {MAX_TEXT_CHARACTERS} characters without control characters.")
    return value


def matching(pattern: str, help_text: str) -> Check:
    """A text of a fixed form. `help_text` says which, and where it is found."""
    compiled = re.compile(pattern)

    def check(value: object, _egress: Egress) -> str | Misfit:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            return Misfit(help_text)
        return value

    return check


def one_of(values: Collection[str]) -> Check:
    """One of a few words."""

    def check(value: object, _egress: Egress) -> str | Misfit:
        if not isinstance(value, str) or value not in values:
            return Misfit(f"This has to be one of {', '.join(values)}.")
        return value

    return check


def url(value: object, egress: Egress) -> str | Misfit:
    """A base URL that may be called; stored without a slash at its end."""
    if not isinstance(value, str):
        return Misfit("This has to be a URL, e.g. https://api.example.com.")
    try:
        read_target(value)
    except MalformedHost as error:
        return Misfit(str(error))
    if "?" in value or "#" in value:
        return Misfit("A base URL has no query and no fragment: leave them out.")
    refusal = egress.refusal(value)
    return value.rstrip("/") if refusal is None else Misfit(refusal, "BLOCKED_URL")


def host(value: object, _egress: Egress) -> str | Misfit:
    """The name or address of a server, in its one spelling."""
    if not isinstance(value, str) or re.search(r"[\s/@]", value):
        return Misfit("This has to be the name of a host, e.g. smtp.example.com, without scheme and port.")
    try:
        return read_host(f"[{value}]" if ":" in value else value).name
    except MalformedHost as error:
        return Misfit(str(error))


def mail_server_refusal(host_name: str, port_number: int, egress: Egress) -> str | None:
    """Why this mail server may not be called: as for URLs, but for the ports."""
    authority = f"[{host_name}]" if ":" in host_name else host_name
    is_allowed = port_number not in PORTS and egress.refusal(f"https://{authority}:{port_number}") is None
    if port_number in MAIL_PORTS or is_allowed:
        return None if is_allowed else egress.refusal(f"https://{authority}")
    return f"Port {port_number} may not be called: use one of {', '.join(map(str, sorted(MAIL_PORTS)))}."


def port(value: object, _egress: Egress) -> int | Misfit:
    """A TCP port."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PORT:
        return Misfit(f"This has to be a port: a number from 1 to {MAX_PORT}.")
    return value


def mailbox(value: object, _egress: Egress) -> str | Misfit:
    """An address to send from, with or without a name: `Shop <shop@example.com>`."""
    help_text = "This has to be an address to send from, e.g. shop@example.com or Shop <shop@example.com>."
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS or _CONTROL.search(value):
        return Misfit(help_text)
    addresses = getaddresses([value])
    if len(addresses) != 1:
        return Misfit(help_text)
    name, address = addresses[0]
    parsed = parse_email(address)
    if isinstance(parsed, Malformed):
        return Misfit(f"{help_text} {parsed.message}")
    try:
        return str(Address(name, addr_spec=parsed)) if name else parsed
    except (ValueError, MessageError):
        return Misfit(help_text)


def contact_url(value: object, egress: Egress) -> str | Misfit:
    """Whom a push service may write to: `mailto:` or `https:` (RFC 8292, section 2.1)."""
    if isinstance(value, str) and value.startswith("mailto:"):
        parsed = parse_email(value.removeprefix("mailto:"))
        return Misfit(parsed.message) if isinstance(parsed, Malformed) else f"mailto:{parsed}"
    if isinstance(value, str) and value.startswith("https:"):
        return url(value, egress)
    return Misfit("This has to be a mailto: or https: URL at which you can be reached, e.g. mailto:push@example.com.")


def sms_sender(value: object, _egress: Egress) -> str | Misfit:
    """What a text message comes from: a number, a short code or a name."""
    if isinstance(value, str):
        if _SHORT_CODE.fullmatch(value) or _ALPHANUMERIC_SENDER.fullmatch(value):
            return value
        parsed = parse_phone(value)
        if isinstance(parsed, str):
            return parsed
    return Misfit("This has to be a number such as +14155550132, a short code, or a sender name of up to 11 letters.")


def apns_key(value: object, _egress: Egress) -> str | Misfit:
    """The text of a .p8 file: a P-256 key in PEM."""
    help_text = "This has to be the whole text of the .p8 file, from -----BEGIN PRIVATE KEY----- on: a P-256 key."
    key = _private_key(value)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        return Misfit(help_text)
    return str(value)


def certificates(value: object, _egress: Egress) -> str | Misfit:
    """Certificates in PEM: of an authority that the machine does not trust by itself."""
    help_text = "This has to be one or more certificates in PEM, from -----BEGIN CERTIFICATE----- on."
    if not isinstance(value, str) or len(value) > MAX_CERTIFICATE_CHARACTERS or "\0" in value:
        return Misfit(help_text)
    try:
        load_pem_x509_certificates(value.encode())
    except ValueError:
        return Misfit(help_text)
    return value


def service_account(value: object, egress: Egress) -> Mapping[str, Any] | Misfit:
    """A Google service account's JSON, as an object or as its text."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return Misfit("This has to be the service account's JSON, as an object or as the text of its file.")
    if not isinstance(value, dict) or len(msgspec.json.encode(value)) > MAX_SERVICE_ACCOUNT_BYTES:
        return Misfit("This has to be the service account's JSON, as an object or as the text of its file.")
    if value.get("type") != "service_account":
        return Misfit('This has to be "service_account": take the key file of a service account.', path=("type",))
    for name in ("project_id", "client_email"):
        checked = text(value.get(name), egress)
        if isinstance(checked, Misfit):
            return Misfit(checked.message, path=(name,))
    if not isinstance(_private_key(value.get("private_key")), RSAPrivateKey):
        return Misfit("This has to be an RSA key in PEM, as it stands in the key file.", path=("private_key",))
    if "token_uri" in value:
        checked_url = url(value["token_uri"], egress)
        if isinstance(checked_url, Misfit):
            return Misfit(checked_url.message, checked_url.code, ("token_uri",))
    return value


def signing_secret(value: object, _egress: Egress) -> str | Misfit:
    """A Svix or Standard Webhooks secret: base64 after `whsec_`."""
    if signing_key(value) is None:
        return Misfit("This has to be the signing secret as the provider shows it: whsec_ and base64 after it.")
    return str(value)


def signing_key(value: object) -> bytes | None:
    """The key that such a secret stands for; None when it is none."""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        return None
    encoded = value.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if MIN_SIGNING_SECRET_BYTES <= len(key) <= MAX_SIGNING_SECRET_BYTES else None


def _private_key(value: object) -> PrivateKeyTypes | None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY_CHARACTERS:
        return None
    try:
        return load_pem_private_key(value.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
