"""Secrets at rest: they open in their place, under a key that is known, unaltered, and nowhere else."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.vault import CannotOpen, Vault

OLD, NEW = b"an old secret, long enough for it", b"a new secret, long enough for it.."
PROJECT = UUID(int=7)


@given(st.binary(max_size=4096), st.uuids(), st.text(max_size=40))
def test_what_is_sealed_opens_in_its_place(value: bytes, project_id: UUID, purpose: str) -> None:
    vault = Vault(NEW)

    sealed = vault.seal(value, project_id=project_id, purpose=purpose)

    assert vault.open(sealed, project_id=project_id, purpose=purpose) == value
    assert len(value) < 8 or value not in sealed


@given(st.binary(min_size=1, max_size=64), st.data())
def test_one_altered_byte_is_noticed(value: bytes, data: st.DataObject) -> None:
    vault = Vault(NEW)
    sealed = bytearray(vault.seal(value, project_id=PROJECT, purpose="p"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(CannotOpen):
        vault.open(bytes(sealed), project_id=PROJECT, purpose="p")


def test_another_project_or_purpose_cannot_open_it() -> None:
    vault = Vault(NEW)
    sealed = vault.seal(b"secret", project_id=PROJECT, purpose="provider:APNS")

    with pytest.raises(CannotOpen):
        vault.open(sealed, project_id=uuid4(), purpose="provider:APNS")
    with pytest.raises(CannotOpen):
        vault.open(sealed, project_id=PROJECT, purpose="provider:FCM")


def test_the_same_value_is_never_sealed_to_the_same_bytes() -> None:
    vault = Vault(NEW)
    assert len({vault.seal(b"secret", project_id=PROJECT, purpose="p") for _ in range(100)}) == 100


def test_an_older_key_opens_while_it_is_known_and_seals_no_more() -> None:
    sealed = Vault(OLD).seal(b"secret", project_id=PROJECT, purpose="p")
    rotated = Vault(NEW, [OLD])

    assert rotated.open(sealed, project_id=PROJECT, purpose="p") == b"secret"
    assert not rotated.is_current(sealed)
    assert rotated.is_current(rotated.seal(b"secret", project_id=PROJECT, purpose="p"))
    with pytest.raises(CannotOpen, match="SENDORA_PREVIOUS_SECRET_KEYS"):
        Vault(NEW).open(sealed, project_id=PROJECT, purpose="p")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(40), bytes(33)])
def test_what_was_never_sealed_is_refused(sealed: bytes) -> None:
    with pytest.raises(CannotOpen):
        Vault(NEW).open(sealed, project_id=PROJECT, purpose="p")
