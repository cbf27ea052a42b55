"""Teredo addresses (RFC 4380 section 4, RFC 5991 section 3.1)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils6 import teredoAddrExtractInfo

from lab.teredo import address
from lab.teredo.address import CONE, Endpoint, Forbidden, TeredoAddress
from tests.unit.helpers.teredo import FORBIDDEN_HOSTS

BESIDE_THEM = (
    *("1.0.0.1", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0"),
    *("172.15.255.255", "172.32.0.0", "192.0.2.1", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"),
    *("198.18.0.1", "223.255.255.255"),
)
"""The closest neighbours of the excluded ranges."""

endpoints = st.builds(Endpoint, st.ip_addresses(v=4).map(str), st.integers(0, 65535))


@pytest.mark.requirement("F1", "F2")
def test_numbers_are_those_of_the_rfc() -> None:
    assert address.PORT == 3544
    assert address.text(address.PREFIX + bytes(12)) == "2001::"


@pytest.mark.requirement("F5")
def test_the_parts_lie_where_section_4_puts_them() -> None:
    teredo = TeredoAddress("65.54.227.120", 0x8000, Endpoint("192.0.2.45", 40000))
    assert str(teredo) == "2001:0:4136:e378:8000:63bf:3fff:fdd2"


@pytest.mark.requirement("F5", "F12")
@given(st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF), endpoints)
def test_parsing_gives_back_what_was_packed_and_scapy_agrees(server: str, flags: int, mapped: Endpoint) -> None:
    teredo = TeredoAddress(server, flags, mapped)
    assert address.parse(teredo.packed) == teredo
    assert teredoAddrExtractInfo(str(teredo)) == (server, flags, mapped.host, mapped.port)


@given(st.binary(min_size=16, max_size=16))
def test_only_the_service_prefix_makes_an_address_teredo(packed: bytes) -> None:
    assert (address.parse(packed) is not None) == (packed[:4] == bytes.fromhex("20010000")) == address.is_teredo(packed)


@pytest.mark.parametrize("length", [0, 8, 15, 17])
def test_another_length_is_no_teredo_address(length: int) -> None:
    assert address.parse((address.PREFIX + bytes(13))[:length]) is None


@pytest.mark.requirement("F8")
def test_unknown_flag_bits_are_kept_and_change_nothing() -> None:
    mapped = Endpoint("192.0.2.45", 40000)
    strange = address.parse(TeredoAddress("203.0.113.1", 0x7CFF, mapped).packed)
    assert strange is not None
    assert (strange.mapped, strange.server, strange.cone) == (mapped, "203.0.113.1", False)


@pytest.mark.requirement("F6", "F7", "U1")
def test_random_flags_leave_cone_reserved_universal_and_group_bits_zero_and_vary_all_others() -> None:
    drawn = [address.random_flags(Random(seed)) for seed in range(2000)]
    ones, zeros = 0, 0
    for flags in drawn:
        ones, zeros = ones | flags, zeros | (flags ^ 0xFFFF)
    assert ones == 0x3CFF
    assert zeros == 0xFFFF


@pytest.mark.requirement("F10")
def test_a_link_local_address_carries_an_endpoint_in_the_same_format() -> None:
    endpoint = Endpoint("203.0.113.1", 3544)
    assert address.text(address.link_local(endpoint, cone=True)) == "fe80::8000:f227:34ff:8efe"
    assert address.link_local(endpoint, cone=False)[8:10] == b"\0\0"
    assert address.cone_bit(address.link_local(endpoint, cone=True))
    assert not address.cone_bit(address.link_local(endpoint, cone=False))
    assert address.is_link_local(address.link_local(endpoint, cone=False))


@given(endpoints)
def test_obfuscation_hides_and_is_undone(endpoint: Endpoint) -> None:
    hidden = address.obfuscate(endpoint)
    assert address.reveal(hidden) == endpoint
    assert address.host_bytes(endpoint.host) not in hidden[2:]


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(7)])
def test_six_bytes_are_needed_for_an_endpoint(data: bytes) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        address.reveal(data)


@pytest.mark.requirement("X9", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_hosts_of_excluded_ranges_are_not_global(host: str) -> None:
    assert not address.is_global_unicast(host)
    assert Endpoint(host, 4000) in Forbidden()


@pytest.mark.requirement("X9")
@pytest.mark.parametrize("host", BESIDE_THEM)
def test_hosts_beside_the_excluded_ranges_are_global(host: str) -> None:
    assert address.is_global_unicast(host)
    assert Endpoint(host, 4000) not in Forbidden()


@pytest.mark.requirement("X9")
def test_port_0_and_the_own_subnets_broadcast_addresses_are_forbidden() -> None:
    forbidden = Forbidden(frozenset({"192.0.2.255"}))
    assert Endpoint("192.0.2.255", 4000) in forbidden
    assert Endpoint("192.0.2.254", 0) in forbidden
    assert Endpoint("192.0.2.254", 4000) not in forbidden


@pytest.mark.requirement("R14", "V11")
@pytest.mark.parametrize("text", ["fe80::1", "febf::1", "ff02::1", "ff0e::1", "::", "::1"])
def test_addresses_of_link_scope_and_of_groups_are_not_forwarded(text: str) -> None:
    assert not address.is_global(address.packed(text))


@pytest.mark.parametrize("text", ["2001::1", "2001:db8::1", "2002::1", "fd00::1"])
def test_other_unicast_addresses_are(text: str) -> None:
    assert address.is_global(address.packed(text))


def test_the_cone_bit_is_the_highest_flag() -> None:
    assert TeredoAddress("203.0.113.1", CONE, Endpoint("192.0.2.1", 1)).cone
    assert not TeredoAddress("203.0.113.1", 0x7FFF, Endpoint("192.0.2.1", 1)).cone
