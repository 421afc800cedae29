"""The bytes of a mail: headers that readers and filters rely on, and a signature that verifies."""

from __future__ import annotations

import email
from base64 import b64decode
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from email.utils import parseaddr
from typing import cast
from uuid import UUID

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import example, given
from hypothesis import strategies as st

from engine.email.dkim_signing import DkimKeyPair, DkimSigner, make_key_pair, sign
from engine.email.message import Mail, mail_bytes, message_id_of, one_line
from engine.email.sender import Mailbox, read_mailbox
from engine.email.unsubscribe import UnsubscribeTokens, Unsubscription, unsubscribe_url

DATE = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROJECT = UUID(int=7)
URL = unsubscribe_url(
    "https://gateway.example", UnsubscribeTokens(b"secret" * 6), Unsubscription(PROJECT, "EMAIL", user_id="u" * 256)
)
MAIL = Mail(
    from_="Ada Lovelace <ada@shop.example>",
    to="bob@example.com",
    subject="Grüße aus dem Laden " * 8,
    text="Hallo Bob,\n.\n..zwei Punkte\n" + "lang " * 400,
    html="<p>Hallo <b>Bob</b></p>" * 60,
    reply_to="help@shop.example",
    message_id=message_id_of(UUID(int=1), "shop.example"),
    unsubscribe_url=URL,
)


@pytest.fixture(scope="module")
def keys() -> DkimKeyPair:
    return make_key_pair()


def parsed(content: bytes) -> EmailMessage:
    return cast(EmailMessage, email.message_from_bytes(content, policy=default))


def test_a_mail_has_both_parts_and_one_click_unsubscribing() -> None:
    content = mail_bytes(MAIL, date=DATE)
    message = parsed(content)
    assert message["From"] == "Ada Lovelace <ada@shop.example>"
    assert (message["To"], message["Reply-To"]) == ("bob@example.com", "help@shop.example")
    assert message["Subject"].strip() == MAIL.subject.strip()
    assert message["Message-ID"] == "<00000000000000000000000000000001@shop.example>"
    assert message["Date"] == "Fri, 01 May 2026 12:00:00 +0000"
    # RFC 8058 section 3.1: as they are, in one line each; no program decodes a URL.
    assert f"List-Unsubscribe: <{URL}>\r\n".encode() in content
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in content
    plain, html = message.iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert cast(EmailMessage, plain).get_content().replace("\r\n", "\n").rstrip("\n") == MAIL.text
    assert cast(EmailMessage, html).get_content().rstrip("\r\n") == MAIL.html


def test_lines_are_short_and_end_as_smtp_wants_them() -> None:
    content = mail_bytes(MAIL, date=DATE)
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("changed", [None, b"Hallo", b"ada@shop.example", b"bob@example.com", b"One-Click"])
def test_what_was_signed_verifies_and_what_was_changed_does_not(keys: DkimKeyPair, changed: bytes | None) -> None:
    signed = sign(mail_bytes(MAIL, date=DATE), DkimSigner("shop.example", "sendora", keys.private_pem))
    asked: list[bytes] = []

    def published(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name)
        return f"v=DKIM1; k=rsa; p={keys.public_base64}".encode()

    if changed is not None:
        head, _, tail = signed.rpartition(changed)
        signed = head + changed.swapcase() + tail
    verified = dkim.verify(signed, dnsfunc=published)
    assert verified is (changed is None)
    assert asked == [b"sendora._domainkey.shop.example."]


def test_the_signature_covers_what_filters_look_at(keys: DkimKeyPair) -> None:
    signed = sign(mail_bytes(MAIL, date=DATE), DkimSigner("shop.example", "sendora", keys.private_pem))
    header = "".join(parsed(signed)["DKIM-Signature"].split())
    assert "a=rsa-sha256;c=relaxed/relaxed;d=shop.example" in header
    names = set(header.partition(";h=")[2].partition(";")[0].split(":"))
    assert {"from", "to", "subject", "date", "message-id", "list-unsubscribe", "list-unsubscribe-post"} <= names


def test_a_relay_on_the_way_may_fold_and_space_as_it_likes(keys: DkimKeyPair) -> None:
    signed = sign(mail_bytes(MAIL, date=DATE), DkimSigner("shop.example", "sendora", keys.private_pem))
    changed = signed.replace(b"To: bob@example.com\r\n", b"TO:   bob@example.com  \r\n") + b"\r\n\r\n"
    assert changed != signed
    assert dkim.verify(changed, dnsfunc=lambda name, timeout=5: f"v=DKIM1; p={keys.public_base64}".encode())


def test_each_key_pair_is_new_and_of_2048_bits(keys: DkimKeyPair) -> None:
    other = make_key_pair()
    assert other.public_base64 != keys.public_base64
    public = load_der_public_key(b64decode(keys.public_base64))
    assert isinstance(public, RSAPublicKey)
    assert public.key_size == 2048
    assert "PRIVATE" not in repr(keys) + repr(DkimSigner("a", "b", keys.private_pem))


def test_a_header_is_one_line_whatever_a_template_made_of_it() -> None:
    assert one_line("Hi\r\nBcc: eve@example.com\0\u2028x", 998) == "Hi Bcc: eve@example.com x"
    assert one_line("x" * 2000, 998) == "x" * 998
    message = parsed(
        mail_bytes(Mail(from_=MAIL.from_, to=MAIL.to, subject="a", text="", message_id="<1@a>"), date=DATE)
    )
    assert message["Bcc"] is None
    assert message["List-Unsubscribe"] is None


ENCODED_BREAK = "=?utf-8?q?=0D=0ABcc=3A_eve=40example.com=0D=0A=0D=0Abody?="


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=120),
        st.text('=?utf-8qQbB0DA_.\r\n\x85\u2028 "\\,<>@():', max_size=120),
        st.just(ENCODED_BREAK),
        st.just("=?utf-8?b?DQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ0K?="),
    )
)
@example(ENCODED_BREAK)
@example('Grüße, Ada "Love" \\ (GmbH)')
@example("x" * 900)
def test_what_people_call_themselves_is_text_and_never_a_header(said: str) -> None:
    """The standard library decodes encoded words when a mail is made, and writes their line breaks as they are."""
    name = one_line(said, 900)
    sender = Mailbox(name, "ada@shop.example")
    content = mail_bytes(
        Mail(
            from_=sender.text,
            to=MAIL.to,
            subject=name,
            text="Hi",
            reply_to=sender.text,
            message_id=MAIL.message_id,
        ),
        date=DATE,
    )
    head = content.partition(b"\r\n\r\n")[0]
    assert {line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] != b" "} <= HEADERS
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(content)
    assert str(make_header(decode_header(message["Subject"]))) == name
    for header in ("From", "Reply-To"):
        written, address = parseaddr(message[header])
        assert (str(make_header(decode_header(written))), address) == (name, "ada@shop.example")
    assert read_mailbox(sender.text) == sender


HEADERS = {
    *(b"Message-ID", b"From", b"To", b"Reply-To", b"Subject", b"Date"),
    *(b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding"),
}


def test_an_address_beyond_ascii_is_written_in_utf8() -> None:
    content = mail_bytes(
        Mail(from_=MAIL.from_, to="jürgen@example.com", subject="ü", text="", message_id="<1@a>"), date=DATE
    )
    assert "To: jürgen@example.com\r\n".encode() in content


TOKENS = UnsubscribeTokens(b"a secret of tests, long enough for it")


@pytest.mark.parametrize("who", [{"user_id": "ada"}, {"address": "ada@example.com"}])
def test_a_token_says_who_asks_to_whoever_has_the_secret(who: dict[str, str]) -> None:
    asked = Unsubscription(PROJECT, "EMAIL", **who)
    token = TOKENS.sign(asked)
    # A mail that is sent again has the same body.
    assert token == TOKENS.sign(asked)
    assert TOKENS.read(token) == asked
    assert "ada" not in token
    rotated = UnsubscribeTokens(b"another secret, of another year......", [b"a secret of tests, long enough for it"])
    assert rotated.read(token) == asked
    assert rotated.sign(asked) != token


def test_a_token_that_was_not_made_here_says_nothing() -> None:
    token = TOKENS.sign(Unsubscription(PROJECT, "EMAIL", user_id="ada"))
    others = UnsubscribeTokens(b"the secret of somebody else, who knows").sign(
        Unsubscription(PROJECT, "EMAIL", user_id="ada")
    )
    altered = ("A" if token[0] != "A" else "B") + token[1:]
    for text in ("", "x", "é", "a" * 5000, "%00", others, altered, token + "AAAA", token[:-4]):
        assert TOKENS.read(text) is None, text
