"""A look at what a mail says before it leaves, for what only phishing does. Pure.

It is to stop the obvious, from an account that was taken over or opened to deceive, and never an ordinary newsletter:
so each rule asks for a sign that honest mail does not show. What is the sender's own (its domain, its subdomains) is
never suspicious.

    script-link          a link that runs something: javascript:, data:, vbscript:, file:
    password-form        a field for a password
    ip-link              a link to a bare IP address, in whatever spelling
    userinfo-link        a link that hides its host behind a user name: https://bank.example@elsewhere
    lookalike-link       a host that imitates another one with letters of another script, or digits for letters
    misleading-link      a link written on the address of another domain
    credential-request   asks for credentials or an account, and a link elsewhere to give them
    brand-impersonation  signed with a well-known name, or leads to "its" sign-in, from and to other domains
    link-flood           more links than can be looked at
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

import idna
import msgspec

from engine.email.html import HtmlContent, Link
from engine.email.sender import Mailbox

MAX_LINKS = 2000
"""Different ones. A mail with more would hide the one that counts behind them."""

_SCRIPT_SCHEMES = frozenset({"javascript", "data", "vbscript", "file"})
_URL_IN_TEXT = re.compile(r"https?://[^\s<>\"')\]]+", re.IGNORECASE)
_LOOSE_START = re.compile(r"\A(https?):/*", re.IGNORECASE)
_ADDRESS_AS_TEXT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>(?:[\w-]+\.)+[a-z]{2,24})(?P<rest>[:/?#]\S*)?", re.IGNORECASE
)
_NUMERIC_HOST = re.compile(r"(?:(?:0x[0-9a-f]+|[0-9]+)\.?){1,4}", re.IGNORECASE)
_BARE_NAME_ENDS = ("com", "org", "de", "fr", "uk", "eu", "gov", "bank")
"""Of names written without http:// or www. only those that end so are taken for addresses: Node.js and ASP.NET are
none."""
_SECOND_LEVELS = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "net", "ne", "or", "org"})
"""Below a country: example.co.uk is registered, co.uk is not."""

_CONFUSABLES = str.maketrans("аеорсухіјѕԁӏһԛԝьοανυκτρι", "aeopcyxijsdlhqwboavuktpi")
"""Letters of other scripts that look like Latin ones: Cyrillic, then Greek."""
_DIGITS_FOR_LETTERS = str.maketrans("01358", "olesb")

_BRANDS = (
    "paypal", "microsoft", "office 365", "google", "amazon", "apple", "netflix", "facebook", "instagram", "whatsapp",
    "linkedin", "dropbox", "docusign", "adobe", "ebay", "dhl", "fedex", "coinbase", "binance", "metamask", "revolut",
    "wells fargo", "bank of america", "american express", "spotify", "stripe",
)  # fmt: skip
_AUTHORITY = (
    r"(?:account|accounts|billing|customer|help|helpdesk|payments?|security|service|services|support|team|alerts?)"
)
_CREDENTIALS = re.compile(
    r"(?:verify|confirm|validate|re-?activate|restore|unlock)\s+(?:your|the)\s+"
    r"(?:\w+\s+)?(?:account|identity|password|login|credentials|bank|card|wallet|payment)"
    r"|update\s+your\s+(?:\w+\s+)?(?:payment|billing|bank|card|password|login)"
    r"|your\s+(?:\w+\s+)?(?:account|mailbox|password)\s+(?:has\s+been|was|is|will\s+be)\s+"
    r"(?:suspended|locked|limited|disabled|deactivated|expir\w+|terminated|blocked)"
    r"|(?:seed|recovery)\s+phrase|unusual\s+(?:sign-?in|login)\s+activity"
)
_SIGN_IN = re.compile(
    r"\b(?:verify|confirm|validate|sign\s?-?in|log\s?-?in|unlock|restore|re-?activate|secure|update\s+now|update\s+your)\b"
)


class Finding(msgspec.Struct, frozen=True):
    """The rule that fired, and why in a sentence."""

    rule: str
    reason: str


def scan(*, sender: Mailbox, subject: str, text: str, html: HtmlContent | None) -> Finding | None:
    """The first thing found, or None. `text` is the plain part."""
    links = [Link(url) for url in _URL_IN_TEXT.findall(text)]
    if html is not None:
        if html.asks_for_password:
            return Finding("password-form", "The body has a field for a password: nobody asks for one in a mail.")
        links = [*html.links, *links]
    own = registrable(sender.domain)
    said = _plain(f"{subject}\n{text}\n{html.plain if html else ''}")
    asks = _CREDENTIALS.search(said) is not None
    different = dict.fromkeys(links)
    if len(different) > MAX_LINKS:
        return Finding("link-flood", f"The body has more than {MAX_LINKS:,} links: it hides some among the others.")
    for link in different:
        found = _scan_link(link, own, asks)
        if found is not None:
            return found
    return _scan_name(sender, own)


def registrable(host: str) -> str:
    """The part of a host that somebody registered: example.com of www.example.com, example.co.uk of a.example.co.uk."""
    labels = host.lower().rstrip(".").split(".")
    kept = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVELS else 2
    return ".".join(labels[-kept:])


def _scan_link(link: Link, own: str, asks: bool) -> Finding | None:
    scheme = re.sub(r"[\x00-\x20]", "", link.url).partition(":")[0].lower()
    if scheme in _SCRIPT_SCHEMES:
        return Finding("script-link", f"A link begins with {scheme}:, which runs or carries something.")
    parts = _split(link.url)
    if parts is None or not parts.hostname:
        return None
    host = parts.hostname.lower()
    if registrable(host) == own:
        return None
    return next((found for found in _suspicions(link, parts, host, asks) if found is not None), None)


def _suspicions(link: Link, parts: SplitResult, host: str, asks: bool) -> Iterator[Finding | None]:
    if "@" in parts.netloc:
        yield Finding("userinfo-link", "A link hides its host behind a user name.")
    if ":" in host or _NUMERIC_HOST.fullmatch(unicodedata.normalize("NFKC", host)):
        yield Finding("ip-link", "A link leads to a bare IP address.")
    yield _scan_lookalike(host)
    yield _scan_written_address(link, host)
    words = _plain(link.text)
    if asks and _SIGN_IN.search(words):
        yield Finding("credential-request", "The mail asks for credentials, and its link leads to another domain.")
    brand = next((each for each in _BRANDS if re.search(rf"\b{each}\b", words)), None)
    if brand is not None and _SIGN_IN.search(words) and not _is_of(brand, host):
        yield Finding("brand-impersonation", f"A link says that it signs in to {brand}, and leads elsewhere.")


def _scan_written_address(link: Link, host: str) -> Finding | None:
    written = _ADDRESS_AS_TEXT.fullmatch(link.text.strip())
    if written is None:
        return None
    shown = written["host"].lower()
    is_address = written["scheme"] or shown.startswith("www.") or shown.endswith(_BARE_NAME_ENDS)
    if not is_address or registrable(shown) == registrable(host):
        return None
    return Finding("misleading-link", "A link is written on an address of one domain and leads to another.")


def _scan_lookalike(host: str) -> Finding | None:
    for label in host.split("."):
        shown = _decoded(label)
        looks = shown.translate(_CONFUSABLES)
        if not shown.isascii() and not host.rpartition(".")[2].startswith("xn--"):
            scripts = {unicodedata.name(each, "").partition(" ")[0] for each in shown if each.isalpha()}
            if looks.isascii() or ("LATIN" in scripts and scripts & {"CYRILLIC", "GREEK"}):
                return Finding("lookalike-link", "A link's host imitates another one with letters of another script.")
    name = registrable(host).partition(".")[0]
    if name.translate(_DIGITS_FOR_LETTERS) != name and name.translate(_DIGITS_FOR_LETTERS) in _BRANDS:
        return Finding("lookalike-link", "A link's host imitates a well-known name with digits for letters.")
    return None


def _scan_name(sender: Mailbox, own: str) -> Finding | None:
    """Ada's Apple Tree Farm is nobody's business, Apple Support is Apple's."""
    name = _plain(sender.name)
    for brand in _BRANDS:
        if re.fullmatch(rf"{brand}(?:\W+{_AUTHORITY})*\W*", name) and not _is_of(brand, own):
            return Finding("brand-impersonation", f"The sender calls itself {brand}, from another domain.")
    return None


def _is_of(brand: str, host: str) -> bool:
    """Whether a host is under a domain of that very name, whatever it ends with."""
    return registrable(host).partition(".")[0] == brand.replace(" ", "")


def _decoded(label: str) -> str:
    """A label as readers see it."""
    if not label.startswith("xn--"):
        return label
    try:
        return idna.decode(label)
    except (idna.IDNAError, UnicodeError):
        return label


def _split(url: str) -> SplitResult | None:
    """As browsers read it: backslashes are slashes, control characters are not there, and any number of slashes, or
    none, stands between http: and the host."""
    cleaned = re.sub(r"[\x00-\x20]", "", url).replace("\\", "/")
    try:
        parts = urlsplit(_LOOSE_START.sub(r"\1://", f"https:{cleaned}" if cleaned.startswith("//") else cleaned))
        return parts if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()
