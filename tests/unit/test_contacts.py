"""Phone numbers and addresses: one text for one number or mailbox, and sentences for what is neither."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contacts import Malformed, parse_email, parse_phone

NUMBERS = {
    "+14155550132": "+14155550132",
    " +1 (415) 555-0132 ": "+14155550132",
    "+1.415.555.0132": "+14155550132",
    "tel:+1-415-555-0132": "+14155550132",
    "+44 20 7946 0958": "+442079460958",
    # full-width digits
    "＋４９ 30 901820": "+4930901820",
    # a trunk zero in brackets
    "+49 (0)30 901820": "+4930901820",
    # Italy keeps its zero
    "+39 06 6982": "+39066982",
}
NO_NUMBERS = {
    "": "This is no phone number",
    "ada": "This is no phone number",
    # no country
    "415 555 0132": "This is no phone number",
    "+1": "This is no phone number",
    "+999 123456789": "This is no phone number",
    # no such area, too short, too long
    "+1 000 555 0132": "No country has this",
    "+1 415 555": "No country has this",
    "+14155550132123456": "No country has this",
    "+1 415 555 0132 ext. 5": "extension",
    "+" + "1" * 100: "at most 64",
}


@pytest.mark.parametrize(("text", "normal"), NUMBERS.items())
def test_a_number_comes_out_in_e164(text: str, normal: str) -> None:
    assert parse_phone(text) == normal


@pytest.mark.parametrize(("text", "sentence"), NO_NUMBERS.items())
def test_what_is_no_number_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    refused = parse_phone(text)

    assert isinstance(refused, Malformed)
    assert sentence in refused.message


def test_a_number_without_country_code_needs_a_region() -> None:
    assert parse_phone("030 901820", region="DE") == "+4930901820"
    assert isinstance(parse_phone("030 901820"), Malformed)


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_the_example_number_of_every_region_stays_what_it_is(region: str) -> None:
    example = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    if example is None:
        return
    text = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)

    assert parse_phone(text) == text
    assert parse_phone(phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.INTERNATIONAL)) == text


ADDRESSES = {
    "ada@example.com": "ada@example.com",
    "Ada.Lovelace+x@EXAMPLE.Com": "Ada.Lovelace+x@example.com",
    "ada@München.de": "ada@xn--mnchen-3ya.de",
    "ada@xn--mnchen-3ya.de": "ada@xn--mnchen-3ya.de",
    # decomposed, then composed
    "zoe\u0308@example.com": "zoë@example.com",
}
NO_ADDRESSES = [
    "",
    "ada",
    "ada@",
    "@example.com",
    "ada@localhost",
    "ada@example..com",
    "ada@[127.0.0.1]",
    "Ada <ada@example.com>",
    "ada@example.com, bob@example.com",
    "ada@example.com\r\nBcc: bob@example.com",
    "ada@example.com\0",
    "a" * 400 + "@example.com",
    "\ud800@example.com",
]


@pytest.mark.parametrize(("text", "normal"), ADDRESSES.items())
def test_an_address_comes_out_with_its_domain_in_lower_case_ascii(text: str, normal: str) -> None:
    assert parse_email(text) == normal


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert isinstance(parse_email(text), Malformed)


@given(st.text(max_size=80))
def test_any_text_is_either_an_address_or_malformed_and_its_normal_form_is_its_own(text: str) -> None:
    for parse in (parse_phone, parse_email):
        parsed = parse(text)
        assert isinstance(parsed, Malformed) or parse(parsed) == parsed
