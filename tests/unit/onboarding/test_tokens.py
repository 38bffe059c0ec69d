"""Join tokens against example F15 and against edits."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudgateway.onboarding.tokens import TokenRecord, TokenRefused, mint, verify
from edgeappliance.wire.token import parse_token

KEY = b"the CA key in DER form"
HASH = "ab" * 32


def part(text: str) -> object:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_without_an_id_it_is_exactly_upstreams() -> None:
    token = mint(ca_hash=HASH, key=KEY, expires_at=1_800_000_000, jti="")
    hash_, header, claims, signature = token.split(".")
    assert hash_ == HASH
    assert base64.urlsafe_b64decode(header + "==") == b'{"alg":"HS256","typ":"JWT"}'
    assert base64.urlsafe_b64decode(claims + "==") == b'{"exp":1800000000}'
    assert len(signature) == 43


def test_with_an_id_an_edge_reads_it_the_same() -> None:
    token = mint(ca_hash=HASH, key=KEY, expires_at=1_800_000_000, jti="abc")
    parsed = parse_token(token)
    assert (parsed.ca_hash, parsed.expires_at, parsed.jti) == (HASH, 1_800_000_000, "abc")
    claims = verify(parsed.jwt, key=KEY, now=1_799_999_999)
    assert (claims.expires_at, claims.jti) == (1_800_000_000, "abc")


def test_refusals_are_worded() -> None:
    jwt = mint(ca_hash=HASH, key=KEY, expires_at=100, jti="a").partition(".")[2]
    head, body, _ = jwt.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for text, key, now, reason in [
        (jwt, KEY, 101, "expired"),
        (jwt, b"other", 50, "signature is invalid"),
        (f"{HASH}.{jwt}", KEY, 50, "number of segments"),
        (f"{none}.{body}.", KEY, 50, "unverifiable"),
        (f"{head}.{body}.!", KEY, 50, "malformed|signature"),
        ("", KEY, 50, "number of segments"),
        ("a" * 100_000, KEY, 50, "number of segments"),
    ]:
        with pytest.raises(TokenRefused, match=reason):
            verify(text, key=key, now=now)


@given(st.integers(0, 500), st.integers(1, 255))
def test_no_flipped_byte_passes(position: int, flip: int) -> None:
    jwt = bytearray(mint(ca_hash=HASH, key=KEY, expires_at=2**40, jti="x").partition(".")[2].encode())
    index = position % len(jwt)
    jwt[index] ^= flip
    text = jwt.decode("latin-1")
    try:
        claims = verify(text, key=KEY, now=0)
    except TokenRefused:
        return
    # base64 ignores the spare bits of the last character: the same signature spelled differently
    assert index == len(jwt) - 1
    assert claims.jti == "x"


@given(st.text(max_size=300))
def test_any_text_is_a_typed_refusal(text: str) -> None:
    with pytest.raises(TokenRefused):
        verify(text, key=KEY, now=0)


def test_records_round_trip() -> None:
    record = TokenRecord("id", 200, 100, "for the roof")
    assert TokenRecord.decode("id", record.encode()) == record
    for bad in (b"", b"[]", b'{"expiresAt":1}', b'{"expiresAt":"x","createdAt":1}'):
        with pytest.raises((ValueError, KeyError)):
            TokenRecord.decode("id", bad)
