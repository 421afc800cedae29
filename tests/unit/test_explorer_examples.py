"""What the explorer sends to the gateway, held against the schema that the gateway serves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema, parse, validate

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "web" / "explorer" / "src"
EXAMPLES = sorted((SOURCES / "examples").glob("*.graphql"))


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema((ROOT / "schema" / "schema.graphql").read_text())


def test_every_example_is_offered() -> None:
    imported = re.findall(r"from '\./([\w-]+\.graphql)'", (SOURCES / "examples" / "index.ts").read_text())
    assert sorted(imported) == [path.name for path in EXAMPLES]
    assert len(EXAMPLES) == 16


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid(schema: GraphQLSchema, path: Path) -> None:
    assert validate(schema, parse(path.read_text())) == []


def test_the_question_whose_key_it_is_is_valid(schema: GraphQLSchema) -> None:
    question = re.search(r"WHOAMI = '([^']+)'", (SOURCES / "identity.ts").read_text())
    assert question is not None
    assert validate(schema, parse(question[1])) == []
