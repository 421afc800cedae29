"""What a mail says: reading its HTML, and the rules against phishing, which ordinary newsletters pass."""

from __future__ import annotations

import time

import pytest

from engine.email.html import Link, read_html
from engine.email.scan import registrable, scan
from engine.email.sender import Mailbox

SHOP = Mailbox("The Shop", "news@shop.example")

NEWSLETTER = """<!DOCTYPE html><html><head><title>Spring</title><style>p { color: red }</style></head><body>
<!--[if mso]><table><tr><td><![endif]-->
<h1>Spring sale at <a href="https://www.shop.example/">shop.example</a></h1>
<p>Hi Ada,<br>Node.js, ASP.NET and README.md shirts are here. Pay with PayPal, Apple Pay or Amazon Pay.</p>
<p><a href="https://shop.example/sale?utm_source=mail&amp;utm_campaign=spring">See the sale</a>
or <a href="https://www.shop.example/login">log in to your account</a>.</p>
<p>Built with <a href="https://nodejs.org/">Node.js</a> and <a href="https://dotnet.microsoft.com/apps">ASP.NET</a>.</p>
<p><a href="https://www.facebook.com/shop"><img src="https://cdn.example.net/fb.png" alt="Facebook"></a>
<a href="https://www.instagram.com/shop">Instagram</a> <a href="https://apps.apple.com/app/1">Get our app</a>
<a href="https://shop.onelink.me/x">Open in the app</a></p>
<p>Our partner <a href="https://partner.example.org/offer">Partner &amp; Co</a> has 10 % off.
<a href="mailto:help@shop.example">help@shop.example</a> <a href="tel:+14155550132">+1 415 555 0132</a></p>
<p><a href="#top">Top</a> <a href="https://münchen.example.de/">Munich</a>
<a href="https://xn--mnchen-3ya.example.de/">Munich</a> <a href="https://xn--80ak6aa4i.xn--p1ai/">по-русски</a></p>
<p><a href="https://gateway.test/unsubscribe/x">Unsubscribe</a></p>
<!--[if mso]></td></tr></table><![endif]--></body></html>"""

CONFIRMATION = """<p>Please confirm your subscription to our newsletter.</p>
<p><a href="https://lists.example.org/confirm/1">Yes, subscribe me</a></p>"""
OWN_RESET = """<p>You asked to reset your password. If it was you, verify your account:</p>
<p><a href="https://accounts.shop.example/reset/1">Verify and sign in</a></p>
<p><a href="https://twitter.com/shop">Twitter</a></p>"""


@pytest.mark.parametrize("html", [NEWSLETTER, CONFIRMATION, OWN_RESET], ids=["newsletter", "opt-in", "reset"])
def test_ordinary_mail_passes(html: str) -> None:
    read = read_html(html)
    assert scan(sender=SHOP, subject="Your order from Amazon, PayPal and us", text=read.text, html=read) is None


@pytest.mark.parametrize("name", ["Ada's Apple Tree Farm", "Google Ads Tips Weekly", "Stripe & Dot Fabrics", "", "Ada"])
def test_names_that_only_hold_a_brand_pass(name: str) -> None:
    assert scan(sender=Mailbox(name, "a@farm.example"), subject="Hi", text="Hi", html=None) is None


def test_a_brand_may_use_its_own_name() -> None:
    sender = Mailbox("PayPal Service", "service@mail.paypal.com")
    html = read_html('<p>Verify your account</p><a href="https://www.paypal.com/signin">Log in to PayPal</a>')
    assert scan(sender=sender, subject="Hi", text="", html=html) is None


PHISHING = {
    "script-link": [
        '<a href="javascript:alert(1)">x</a>',
        '<a href="java\nscript:alert(1)">x</a>',
        '<a href=" DATA:text/html;base64,PGI+">x</a>',
        '<form action="vbscript:x"></form>',
        '<iframe src="file:///etc/passwd"></iframe>',
        '<form><button formaction="javascript:alert(1)">x</button></form>',
    ],
    "password-form": ['<form action="https://shop.example/"><input TYPE=" Password "></form>'],
    "ip-link": [
        '<a href="http://192.0.2.7/login">x</a>',
        '<a href="http://3221225991/">x</a>',
        '<a href="http://0xC0.0.2.7/">x</a>',
        '<a href="http://[2001:db8::1]/">x</a>',
        '<a href="//192.0.2.7/">x</a>',
        '<a href="https:\\\\192.0.2.7\\x">x</a>',
        '<a href="https:/192.0.2.7/">x</a>',
        '<a href="https:192.0.2.7/">x</a>',
        '<a href="///192.0.2.7/">x</a>',
        '<a href="https://\u2460\u2468\u2461.\u24ea.\u2461.\u2466/">x</a>',
    ],
    "userinfo-link": ['<a href="https://paypal.com@evil.example/">x</a>'],
    "lookalike-link": [
        # раураl.com, all Cyrillic but for the l; аррӏе.com, all Cyrillic.
        '<a href="https://xn--l-7sba6dbr.com/">x</a>',
        '<a href="https://xn--80ak6aa92e.com/">x</a>',
        '<a href="https://аррӏе.com/">x</a>',
        '<a href="https://paypa1.com/">x</a>',
        '<a href="https://g00gle.com/">x</a>',
    ],
    "misleading-link": [
        '<a href="https://evil.example.net/">https://www.bank.example/login</a>',
        '<a href="https://evil.example.net/"><b>www.bank</b>.com</a>',
        '<a href="https://evil.example.net/">bank&#8203;.com</a>',
        '<a href="https://bank.com.evil.example.net/">bank.com</a>',
    ],
    "credential-request": [
        "<p>Your account has been suspended.</p><a href='https://evil.example.net/'>Restore access, sign in</a>",
        "<p>Unusual sign-in activity</p><a href='https://evil.example.net/'>Verify now</a>",
        "<p>Please enter your recovery phrase</p><a href='https://evil.example.net/'>Unlock</a>",
    ],
    "brand-impersonation": ["<a href='https://evil.example.net/'>Log in to PayPal</a>"],
}
CASES = [(rule, html) for rule, texts in PHISHING.items() for html in texts]


@pytest.mark.parametrize(("rule", "html"), CASES, ids=[f"{rule}-{index}" for index, (rule, _) in enumerate(CASES)])
def test_phishing_is_found_by_its_rule(rule: str, html: str) -> None:
    found = scan(sender=SHOP, subject="Hi", text="", html=read_html(html))
    assert found is not None
    assert found.rule == rule
    assert found.reason.endswith(".")


@pytest.mark.parametrize("name", ["PayPal", "Microsoft Account Team", "office 365 security alert", "Apple Support"])
def test_a_sender_that_calls_itself_a_brand_is_found(name: str) -> None:
    found = scan(sender=Mailbox(name, "a@shop.example"), subject="Hi", text="Hi", html=None)
    assert found is not None
    assert found.rule == "brand-impersonation"


def test_a_link_does_not_hide_among_many() -> None:
    many = "".join(f'<a href="https://shop.example/{each}">x</a>' for each in range(2000))
    assert scan(sender=SHOP, subject="Hi", text="", html=read_html(many * 2)) is None
    found = scan(sender=SHOP, subject="Hi", text="", html=read_html(many + '<a href="http://192.0.2.7/">x</a>'))
    assert found is not None
    assert found.rule == "link-flood"


def test_links_in_the_plain_part_are_looked_at_too() -> None:
    found = scan(sender=SHOP, subject="Hi", text="Go to http://192.0.2.7/login now", html=None)
    assert found is not None
    assert found.rule == "ip-link"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.shop.example", "shop.example"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.de", "example.de"),
        ("Example.COM.", "example.com"),
        ("localhost", "localhost"),
    ],
)
def test_what_somebody_registered(host: str, expected: str) -> None:
    assert registrable(host) == expected


def test_html_becomes_text() -> None:
    read = read_html(NEWSLETTER)
    assert read.text.startswith("Spring sale at shop.example (https://www.shop.example/)\n\nHi Ada,\nNode.js, ASP.NET")
    assert "color: red" not in read.text
    assert "Partner & Co (https://partner.example.org/offer) has 10 % off." in read.text
    assert "Top (#top)" not in read.text
    assert Link("https://shop.example/sale?utm_source=mail&utm_campaign=spring", "See the sale") in read.links


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<a ", "<a b='", "</a", "<![", "<![x ", "<", "< ", "<p>", "<a href=x>", "&amp", "<script>", "<!DOCTYPE ["],
)
@pytest.mark.parametrize("end", ["", ">", "-->"])
def test_reading_takes_time_in_proportion_to_length(piece: str, end: str) -> None:
    html = piece * (64 * 1024 // len(piece)) + end
    began = time.thread_time()
    read_html(html)
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize("html", ["<template>" * 25_000 + "</head>" * 36_000, "<![CDATA[>" * 52_000])
def test_what_is_looked_for_is_not_looked_for_among_everything(html: str) -> None:
    """Ends of what is not open, within 25,000 elements; and sections that have no end."""
    began = time.thread_time()
    read_html(html)
    assert time.thread_time() - began < 2.0
