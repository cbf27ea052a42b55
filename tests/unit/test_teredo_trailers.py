"""Trailers: what may follow the IPv6 packet (RFC 6081 section 4)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.teredo.address import Endpoint
from lab.teredo.trailers import (
    NO_TRAILERS,
    Discovery,
    Trailers,
    alternate_address_trailer,
    discovery_trailer,
    fresh_nonce,
    nonce_trailer,
    parse_trailers,
    random_port_trailer,
)

NONCE = b"\x01\x02\x03\x04"
LOCAL, OUTSIDE = Endpoint("192.168.1.2", 4096), Endpoint("198.51.100.9", 8192)


@pytest.mark.requirement("T1", "T5", "T6", "T7", "T10", "T11")
def test_each_trailer_has_the_bytes_of_the_rfc() -> None:
    assert nonce_trailer(NONCE) == bytes.fromhex("010401020304")
    assert random_port_trailer(0xC350) == bytes.fromhex("0502c350")
    assert discovery_trailer(Discovery.SOLICITATION) == bytes.fromhex("040400000000")
    assert discovery_trailer(Discovery.ADVERTISEMENT) == bytes.fromhex("040401000000")
    assert alternate_address_trailer((LOCAL,)) == bytes.fromhex("03080000c0a801021000")
    assert alternate_address_trailer((LOCAL, OUTSIDE)) == bytes.fromhex("030e0000c0a801021000c63364092000")


@pytest.mark.requirement("T5", "T6", "T10", "T11")
def test_what_is_written_is_read() -> None:
    data = (
        nonce_trailer(NONCE)
        + random_port_trailer(50000)
        + alternate_address_trailer((LOCAL, OUTSIDE))
        + discovery_trailer(Discovery.ADVERTISEMENT)
    )
    assert parse_trailers(data) == Trailers(NONCE, 50000, Discovery.ADVERTISEMENT, (LOCAL, OUTSIDE))
    assert parse_trailers(b"") == NO_TRAILERS


def test_no_nonce_and_no_port_need_no_trailer() -> None:
    assert nonce_trailer(b"") == random_port_trailer(0) == b""


@pytest.mark.requirement("T11")
def test_a_random_port_is_understood_under_both_types() -> None:
    assert parse_trailers(bytes.fromhex("0202c350")).random_port == 50000
    assert parse_trailers(bytes.fromhex("0502c350")).random_port == 50000


@pytest.mark.requirement("T2")
def test_trailers_are_taken_in_their_order() -> None:
    assert parse_trailers(nonce_trailer(NONCE) + nonce_trailer(b"\5\6\7\x08")).nonce == b"\5\6\7\x08"


@pytest.mark.requirement("T3")
@pytest.mark.parametrize("kind", [0x00, 0x06, 0x3F, 0x80, 0xBF, 0xC0, 0xFF])
def test_an_unknown_trailer_of_most_types_is_skipped(kind: int) -> None:
    seen = parse_trailers(bytes((kind, 3)) + b"abc" + nonce_trailer(NONCE))
    assert (seen.discard, seen.nonce) == (False, NONCE)


@pytest.mark.requirement("T3")
@pytest.mark.parametrize("kind", [0x40, 0x41, 0x7F])
def test_an_unknown_trailer_of_the_others_discards_the_packet(kind: int) -> None:
    assert parse_trailers(nonce_trailer(NONCE) + bytes((kind, 0))).discard


@pytest.mark.requirement("T4")
@pytest.mark.parametrize("rest", [b"\x01", b"\x01\x05abcd", b"\x40", b"\x41\x01", b"\x05\x03ab"])
def test_nothing_is_read_from_a_malformed_trailer_on(rest: bytes) -> None:
    assert parse_trailers(nonce_trailer(NONCE) + rest) == Trailers(NONCE)


@pytest.mark.requirement("T5", "T10", "T11")
@pytest.mark.parametrize(
    "data", ["0103010203", "01050102030405", "01040000000000", "0501c3", "0503c35000", "040300", "040402000000"]
)
def test_a_value_that_is_not_as_it_should_be_means_nothing(data: str) -> None:
    assert parse_trailers(bytes.fromhex(data)) == NO_TRAILERS


@pytest.mark.requirement("T6", "T8", "A5", "A6")
@pytest.mark.parametrize(
    ("entries", "good"),
    [
        ("c0a801021000", True),
        ("c0a801021000" * 4, True),
        ("", False),
        ("c0a801021000" * 5, False),
        ("c0a8010210", False),
        ("c0a80102100000", False),
        ("c0a801020000", False),
        ("e00000fd1000", False),
        ("7f0000011000", False),
        ("000000011000", False),
        ("ffffffff1000", False),
        ("c0a801021000e00000011000", False),
    ],
)
def test_alternate_addresses_are_well_formed_or_none(entries: str, good: bool) -> None:
    value = bytes.fromhex(f"abcd{entries}")  # what is reserved is ignored
    seen = parse_trailers(bytes((3, len(value))) + value)
    assert (bool(seen.alternates), seen.malformed_addresses) == (good, not good)


UNICAST = st.builds(Endpoint, st.sampled_from(["10.0.0.1", "192.168.7.9", "198.51.100.1"]), st.integers(1, 65535))


@pytest.mark.requirement("T5", "T6", "T10", "T11")
@given(
    st.binary(min_size=4, max_size=4).filter(any),
    st.integers(1, 65535),
    st.sampled_from(Discovery),
    st.lists(UNICAST, min_size=1, max_size=4),
    st.permutations(range(4)),
)
def test_trailers_say_the_same_in_every_order(
    nonce: bytes, port: int, discovery: Discovery, alternates: list[Endpoint], order: list[int]
) -> None:
    written = (
        nonce_trailer(nonce),
        random_port_trailer(port),
        discovery_trailer(discovery),
        alternate_address_trailer(tuple(alternates)),
    )
    data = b"".join(written[which] for which in order)
    assert parse_trailers(data) == Trailers(nonce, port, discovery, tuple(alternates))


@pytest.mark.requirement("T3", "T4")
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20))), st.binary(max_size=1))
def test_a_packet_is_discarded_for_exactly_the_types_that_say_so(
    trailers: list[tuple[int, bytes]], rest: bytes
) -> None:
    data = b"".join(bytes((kind, len(value))) + value for kind, value in trailers) + rest
    assert parse_trailers(data).discard == any(0x40 <= kind <= 0x7F for kind, _ in trailers)


@pytest.mark.requirement("T10")
def test_what_is_reserved_in_a_discovery_trailer_is_ignored() -> None:
    assert parse_trailers(bytes.fromhex("040401ffffff")).discovery is Discovery.ADVERTISEMENT


@pytest.mark.requirement("T6", "T8")
def test_the_last_list_of_addresses_counts_whether_it_is_well_formed_or_not() -> None:
    good, bad = alternate_address_trailer((LOCAL,)), bytes.fromhex("03020000")
    assert parse_trailers(good + bad).malformed_addresses
    assert parse_trailers(bad + good).alternates == (LOCAL,)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_there_is_an_answer(data: bytes) -> None:
    seen = parse_trailers(data)
    assert len(seen.alternates) <= 4
    assert 0 <= seen.random_port <= 0xFFFF
    assert len(seen.nonce) in (0, 4)


@pytest.mark.requirement("SN2")
def test_a_nonce_is_random_and_never_the_one_that_means_none() -> None:
    class Zeros(Random):
        drawn = 0

        def randbytes(self, n: int) -> bytes:
            self.drawn += 1
            return bytes(n) if self.drawn < 3 else b"\1" * n

    assert fresh_nonce(Zeros()) == b"\1" * 4
    assert len({fresh_nonce(Random(seed)) for seed in range(50)}) == 50
