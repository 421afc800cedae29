"""Sender domains: the records to publish, and whether a name server has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from engine.clock import DatabaseClock
from engine.email import domains
from engine.email.domains import PROBATION, txt_look_up
from tests.integration.graphql_support import Gateway, Tenant, open_gateway
from tests.peers.dns import DnsPeer, dns_peer

ADD = """mutation ($domain: String!) { addSenderDomain(domain: $domain) {
  senderDomain { id domain status probationUntil dnsRecords { type name value verified } }
  userErrors { code path message }
} }"""
VERIFY = """mutation ($id: ID!) { verifySenderDomain(id: $id) {
  senderDomain { id domain status probationUntil dnsRecords { name verified } }
  userErrors { code path message }
} }"""


@pytest.fixture
async def name_server() -> AsyncIterator[DnsPeer]:
    async with dns_peer() as peer:
        yield peer


@pytest.fixture
async def gateway(module_database_url: str, name_server: DnsPeer) -> AsyncIterator[Gateway]:
    async with open_gateway(module_database_url) as opened:
        opened.services = replace(opened.services, look_up_txt=txt_look_up(name_server.address))
        yield opened


async def add(tenant: Tenant, domain: str = "shop.example") -> Any:
    added = (await tenant.data(ADD, domain=domain))["addSenderDomain"]
    assert added["userErrors"] == []
    return added["senderDomain"]


async def verify(tenant: Tenant, domain: Any) -> Any:
    return (await tenant.data(VERIFY, id=domain["id"]))["verifySenderDomain"]


def publish(name_server: DnsPeer, domain: Any) -> None:
    for record in domain["dnsRecords"]:
        name_server.txt[record["name"]] = [record["value"]]


async def test_a_domain_comes_with_the_records_to_publish(gateway: Gateway) -> None:
    domain = await add(await gateway.tenant(), "Shop.Example.")
    assert (domain["domain"], domain["status"], domain["probationUntil"]) == ("shop.example", "PENDING", None)
    dkim, spf, dmarc = domain["dnsRecords"]
    assert dkim["name"] == "sendora._domainkey.shop.example"
    assert dkim["value"].startswith("v=DKIM1; k=rsa; p=MIIBIjANBgkq")
    assert spf == {
        "type": "TXT",
        "name": "shop.example",
        "value": "v=spf1 include:_spf.gateway.test ~all",
        "verified": False,
    }
    assert (dmarc["name"], dmarc["value"]) == ("_dmarc.shop.example", "v=DMARC1; p=none;")


async def test_it_is_verified_when_all_three_are_there_and_on_probation_from_the_first_time_on(
    gateway: Gateway, name_server: DnsPeer
) -> None:
    tenant = await gateway.tenant()
    domain = await add(tenant)
    publish(name_server, domain)
    first = (await verify(tenant, domain))["senderDomain"]
    assert first["status"] == "VERIFIED"
    assert [record["verified"] for record in first["dnsRecords"]] == [True, True, True]
    now = gateway.services.clock.now()
    assert abs(datetime.fromisoformat(first["probationUntil"]) - (now + PROBATION)) < timedelta(minutes=1)
    # Looking again later does not begin it anew.
    assert isinstance(gateway.services.clock, DatabaseClock)
    gateway.services.clock.advance(timedelta(days=10))
    again = (await verify(tenant, domain))["senderDomain"]
    assert (again["status"], again["probationUntil"]) == ("VERIFIED", first["probationUntil"])
    assert sorted(set(name_server.asked)) == sorted(record["name"] for record in domain["dnsRecords"])
    found = await tenant.data("query ($id: ID!) { node(id: $id) { ... on SenderDomain { status } } }", id=domain["id"])
    assert found == {"node": {"status": "VERIFIED"}}


@pytest.mark.parametrize("missing", [0, 1, 2], ids=["dkim", "spf", "dmarc"])
async def test_it_fails_while_one_is_not_there(gateway: Gateway, name_server: DnsPeer, missing: int) -> None:
    tenant = await gateway.tenant()
    domain = await add(tenant)
    publish(name_server, domain)
    del name_server.txt[domain["dnsRecords"][missing]["name"]]
    looked = (await verify(tenant, domain))["senderDomain"]
    assert (looked["status"], looked["probationUntil"]) == ("FAILED", None)
    assert [record["verified"] for record in looked["dnsRecords"]] == [index != missing for index in range(3)]


async def test_a_verified_domain_whose_key_is_taken_out_of_dns_fails(gateway: Gateway, name_server: DnsPeer) -> None:
    tenant = await gateway.tenant()
    domain = await add(tenant)
    publish(name_server, domain)
    verified = (await verify(tenant, domain))["senderDomain"]
    name_server.txt[domain["dnsRecords"][0]["name"]] = ["v=DKIM1; p="]
    looked = (await verify(tenant, domain))["senderDomain"]
    assert (looked["status"], looked["probationUntil"]) == ("FAILED", verified["probationUntil"])


async def test_while_dns_does_not_answer_nothing_changes(
    gateway: Gateway, name_server: DnsPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "LOOKUP_SECONDS", 0.2)
    tenant = await gateway.tenant()
    domain = await add(tenant)
    publish(name_server, domain)
    await verify(tenant, domain)
    for trouble in ("silent", "broken"):
        setattr(name_server, trouble, True)
        refused = await verify(tenant, domain)
        assert refused["senderDomain"] is None
        assert [error["code"] for error in refused["userErrors"]] == ["STATE"]
        setattr(name_server, trouble, False)
    assert await tenant.data("{ senderDomains { status } }") == {"senderDomains": [{"status": "VERIFIED"}]}


async def test_two_look_for_the_same_domain_and_each_has_its_own_key(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    await add(tenant)
    again = (await tenant.data(ADD, domain="SHOP.example"))["addSenderDomain"]
    assert (again["senderDomain"], [error["code"] for error in again["userErrors"]]) == (None, ["CONFLICT"])
    assert again["userErrors"][0]["path"] == ["domain"]


NO_DOMAINS = (
    "", "com", "co.uk", "https://shop.example", "shop.example/x", "a@b.example", "-x.example", "1.2.3.4", "a..b",
    "shop.local", "x" * 64 + ".example", "a." * 130 + "example", "shop_x.example", "sh op.example",
)  # fmt: skip


async def test_what_is_no_domain_is_refused(gateway: Gateway) -> None:
    tenant = await gateway.tenant()
    for domain in NO_DOMAINS:
        refused = (await tenant.data(ADD, domain=domain))["addSenderDomain"]
        assert refused["senderDomain"] is None, domain
        assert [(error["code"], error["path"]) for error in refused["userErrors"]] == [("INVALID", ["domain"])]


async def test_a_domain_in_another_script_is_kept_in_ascii(gateway: Gateway) -> None:
    assert (await add(await gateway.tenant(), "Bücher.Example"))["domain"] == "xn--bcher-kva.example"


def published(kind: str, value: str) -> domains.DnsRecord:
    return domains.DnsRecord(kind=kind, name="", value=value)


@pytest.mark.parametrize(
    ("kind", "found", "is_there"),
    [
        ("SPF", ["v=spf1 include:_spf.gateway.test -all"], True),
        ("SPF", ["google-site-verification=x", "v=spf1 ip4:192.0.2.1 +include:_SPF.gateway.test ?all"], True),
        ("SPF", ["v=spf1 include:other.example ~all"], False),
        ("SPF", ["v=spf1 -include:_spf.gateway.test ~all"], False),
        ("SPF", ["v=spf10 include:_spf.gateway.test"], False),
        # Two policies are an error, RFC 7208 section 3.2.
        ("SPF", ["v=spf1 include:_spf.gateway.test ~all", "v=spf1 -all"], False),
        ("DKIM", ["v=DKIM1;k=rsa;p=AAA BBB"], True),
        ("DKIM", ["p=AAABBB"], True),
        ("DKIM", ["v=DKIM1; k=rsa; p=AAACCC"], False),
        ("DMARC", ["v=DMARC1; p=reject; rua=mailto:a@b.example"], True),
        ("DMARC", ["v=DMARC1; p=nothing"], False),
        ("DMARC", ["v=DMARC1; p=none", "v=DMARC1; p=none"], False),
        ("DMARC", [], False),
    ],
)
def test_what_does_what_a_record_is_for(kind: str, found: list[str], is_there: bool) -> None:
    value = "v=spf1 include:_spf.gateway.test ~all" if kind == "SPF" else "v=DKIM1; k=rsa; p=AAABBB"
    assert domains.is_published(published(kind, value), found) is is_there
