"""The authentication value (RFC 4380 section 5.2.2)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.teredo import auth
from lab.teredo.address import Endpoint
from lab.teredo.packet import Authentication, bubble, decode, origin_indication
from tests.unit.helpers.teredo import HOST, PEER

SECRET = b"between us"
NONCE = b"\1\2\3\4\5\6\7\x08"
ORIGIN = origin_indication(Endpoint("1.2.3.4", 337))
IPV6 = bubble(PEER, HOST)


@pytest.mark.requirement("S4")
@pytest.mark.parametrize("origin", [b"", ORIGIN], ids=["without origin", "with origin"])
def test_the_value_is_hmac_sha1_of_nonce_confirmation_origin_and_packet(origin: bytes) -> None:
    sealed = auth.seal(SECRET, Authentication(NONCE, b"me", confirmation=1), origin, IPV6)
    assert sealed.value == hmac.new(SECRET, NONCE + b"\1" + origin + IPV6, hashlib.sha1).digest()
    assert len(sealed.value) == 20
    assert auth.verify(SECRET, decode(sealed.encode() + origin + IPV6))


@pytest.mark.requirement("S5")
@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    whole = auth.seal(SECRET, Authentication(NONCE, b"me"), ORIGIN, IPV6).encode() + ORIGIN + IPV6
    at = data.draw(st.sampled_from([index for index in range(len(whole)) if index not in _UNCOVERED]))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    assert not auth.verify(SECRET, decode(bytes(changed)))


_ORIGIN_AT = 4 + 2 + 20 + 9
_UNCOVERED = {
    *range(6),  # lengths and client identifier: the identifier chooses the secret
    _ORIGIN_AT,  # these would make the datagram malformed
    _ORIGIN_AT + 1,
    *range(_ORIGIN_AT + 8, _ORIGIN_AT + 14),
}


@pytest.mark.requirement("S5")
def test_another_secret_a_missing_value_and_a_missing_header_do_not_pass() -> None:
    sealed = auth.seal(SECRET, Authentication(NONCE), b"", IPV6).encode() + IPV6
    assert not auth.verify(b"another", decode(sealed))
    assert not auth.verify(SECRET, decode(Authentication(NONCE).encode() + IPV6))
    assert not auth.verify(SECRET, decode(IPV6))
