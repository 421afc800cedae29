"""Whatever anybody asks of the served schema, nothing is ever our fault: no INTERNAL error, no 5xx, no time-out.

`SENDORA_FUZZ_EXAMPLES` says how many operations each root field gets from each of the two sources, and
`SENDORA_FUZZ_SEED` which; without a seed they are the same each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from launch.ports import free_port
from schema import print_sdl
from tests.acceptance.fuzzing import PATIENCE, SCHEMA, Answer, Target, documents, root_fields, scalars
from tests.acceptance.gateway_client import Gateway
from tests.acceptance.running import Running

EXAMPLES = int(os.environ.get("SENDORA_FUZZ_EXAMPLES", "1"))
SEED = os.environ.get("SENDORA_FUZZ_SEED")
CALLERS = st.sampled_from(("ADMIN", "ADMIN", "ADMIN", "VIEWER", "INGEST", "NOBODY"))
"""Half of them get in everywhere: whoever is refused at the door finds nothing."""

PEOPLE = ["user_001", "user_002", "ada"]
WORLD: dict[str, Any] = {
    "identify": {"input": {"userId": "ada", "traits": {"email": "ada@example.com", "phone": "+14155550132"}}},
    "saveTemplate": {"input": {"name": "t", "channel": "EMAIL", "subject": "Hi {{ user.id }}", "bodyText": "Hi"}},
    "saveAudience": {
        "input": {"name": "a", "where": [{"path": "profile.traits.plan", "op": "EQ", "value": "pro"}]},
    },
    "saveWebhookEndpoint": {"input": {"url": "https://example.com/hook", "events": ["*"]}},
    "saveInboundEndpoint": {
        "input": {"name": "i", "eventType": "repo.pushed", "verifier": "GITHUB", "secret": "s" * 32}
    },
    "cloneBlueprint": {"key": "birthday"},
    "registerPushToken": {"input": {"platform": "IOS", "token": "00112233", "userId": "ada"}},
    "sendPush": {"input": {"userIds": PEOPLE, "push": {"title": "Hi", "body": "Hi"}}},
    "saveInsight": {"input": {"name": "f", "funnel": {"steps": [{"eventType": "a"}, {"eventType": "b"}]}}},
    "addSenderDomain": {"domain": "mail.example.com"},
    "saveTrustedDocuments": {"documents": [{"name": "q", "document": "{ viewer { role } }"}]},
}
"""Something of every kind, beside the sample events."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway of its own, which may be spoilt; there is nobody whom its limits on cost would protect."""
    bounds = {"SENDORA_COST_LIMIT": "1000000000", "SENDORA_COST_RESTORE": "1000000000"}
    running = Running(tmp_path_factory.mktemp("fuzz") / "data", free_port(), **bounds)
    running.until_welcomed(60)
    gateway = Gateway.of(running)
    found = Target(gateway.url, {"ADMIN": gateway.secret_key, "NOBODY": None})
    found.keys = {**found.keys, "VIEWER": _make_key(found, "VIEWER"), "INGEST": _make_key(found, "INGEST")}
    for name, arguments in WORLD.items():
        _make(found, name, arguments)
    found.learn()
    yield found
    found.session.close()
    running.process.terminate()
    assert running.process.wait(20) == 0
    assert not [line for line in running.output.splitlines() if "internal_error" in line or "Traceback" in line]


def _make_key(target: Target, role: str) -> str:
    made = target.data(f'mutation {{ createApiKey(name: "k", kind: PUBLISHABLE, role: {role}) {{ token }} }}')
    return str(made["createApiKey"]["token"])


def _make(target: Target, name: str, arguments: dict[str, Any]) -> None:
    root = SCHEMA.mutation_type
    assert root is not None
    declared = ", ".join(f"${each}: {root.fields[name].args[each].type}" for each in arguments)
    passed = ", ".join(f"{each}: ${each}" for each in arguments)
    document = f"mutation ({declared}) {{ {name}({passed}) {{ userErrors {{ code message path }} }} }}"
    assert target.data(document, **arguments) == {name: {"userErrors": []}}


def bounded(function: Callable[..., None]) -> Callable[..., None]:
    """So many examples and no more; a failure is reported as it came, since what it did cannot be undone."""
    limits = settings(
        max_examples=EXAMPLES,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        derandomize=SEED is None,
        suppress_health_check=list(HealthCheck),
    )
    limited = limits(function)
    return limited if SEED is None else seed(int(SEED))(limited)


@pytest.mark.parametrize("root_field", root_fields())
def test_operations_with_values_that_lead_somewhere(target: Target, root_field: str) -> None:
    @bounded
    @given(CALLERS, documents(target, root_field))
    def ask(caller: str, drawn: tuple[str, dict[str, Any]]) -> None:
        target.ask(caller, *drawn).check()

    ask()
    _open_again(target)


OPERATIONS = {
    found.ok().label: found.ok() for found in schemathesis.graphql.from_file(print_sdl()).get_all_operations()
}


@pytest.mark.parametrize("label", OPERATIONS)
def test_operations_as_schemathesis_makes_them(target: Target, label: str) -> None:
    for name, strategy in scalars(target).items():
        if name not in ("ID", "String", "Int"):
            schemathesis.graphql.scalar(name, strategy)

    @bounded
    @given(CALLERS, OPERATIONS[label].as_strategy())
    def ask(caller: str, case: Any) -> None:
        response = case.call(
            base_url=target.url, session=target.session, headers=target.headers(caller), timeout=PATIENCE
        )
        Answer(caller, case.body, response.status_code, response.content, response.elapsed).check()

    ask()
    _open_again(target)


def _open_again(target: Target) -> None:
    """Somebody may have closed the project to all documents but trusted ones."""
    target.data("mutation { updateProjectSettings(input: { requireTrustedDocuments: null }) { userErrors { code } } }")
