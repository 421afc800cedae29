"""DKIM (RFC 6376): key pairs of sender domains, and signing mail with them, relaxed/relaxed.

dkimpy canonicalizes and writes the header; its RSA in pure Python takes 10 ms a mail, so that one function of it is
replaced by OpenSSL's, which takes a twentieth of that and gives the same bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dkim
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KEY_BITS = 2048
"""What RFC 8301 asks for; 4096 do not fit into one TXT string and gain nothing."""
CACHED_KEYS = 256
SIGNED_HEADERS = (
    b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Reply-To", b"MIME-Version", b"Content-Type",
    b"List-Unsubscribe", b"List-Unsubscribe-Post",
)  # fmt: skip
"""RFC 8058 wants the two last ones signed."""


class DkimKeyPair(msgspec.Struct, frozen=True):
    """`private_pem` is PKCS#1, as dkimpy reads it; `public_base64` is what stands behind `p=` in DNS."""

    private_pem: bytes
    public_base64: str

    def __repr__(self) -> str:
        return "DkimKeyPair(…)"


class DkimSigner(msgspec.Struct, frozen=True):
    """What signs a domain's mail."""

    domain: str
    selector: str
    private_pem: bytes

    def __repr__(self) -> str:
        return f"DkimSigner(domain={self.domain}, selector={self.selector})"


def make_key_pair() -> DkimKeyPair:
    """Takes some tens of milliseconds: call it in a thread."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return DkimKeyPair(private, b64encode(public).decode())


def sign(mail: bytes, signer: DkimSigner) -> bytes:
    """The mail (with CRLF) with a DKIM-Signature on top of it."""
    present = {line.partition(b":")[0].lower() for line in mail.partition(b"\r\n\r\n")[0].split(b"\r\n")}
    header: bytes = dkim.sign(
        mail,
        signer.selector.encode(),
        signer.domain.encode(),
        signer.private_pem,
        canonicalize=(b"relaxed", b"relaxed"),
        include_headers=[name for name in SIGNED_HEADERS if name.lower() in present],
    )
    return header + mail


def _sign_digest(digest: Any, key: Mapping[str, int]) -> bytes:
    numbers = (key["prime1"], key["prime2"], key["privateExponent"], key["publicExponent"], key["modulus"])
    return _private_key(*numbers).sign(digest.digest(), PKCS1v15(), Prehashed(SHA256()))


@lru_cache(maxsize=CACHED_KEYS)
def _private_key(prime1: int, prime2: int, private: int, public: int, modulus: int) -> rsa.RSAPrivateKey:
    """Ours, so its primes need no check."""
    return rsa.RSAPrivateNumbers(
        prime1,
        prime2,
        private,
        rsa.rsa_crt_dmp1(private, prime1),
        rsa.rsa_crt_dmq1(private, prime2),
        rsa.rsa_crt_iqmp(prime1, prime2),
        rsa.RSAPublicNumbers(public, modulus),
    ).private_key(unsafe_skip_rsa_key_validation=True)


dkim.RSASSA_PKCS1_v1_5_sign = _sign_digest
