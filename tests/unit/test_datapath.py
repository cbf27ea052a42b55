"""The kernel data path as far as it needs no kernel: its object, the layouts that both sides share, who is inside."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import struct
import subprocess
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.datapath.bpf import BpfError, parse
from lab.datapath.kernel import OBJECT, SLOTS, Entry, Settings
from lab.teredo.address import packed
from lab.teredo.relay import Relay
from lab.teredo.tunnel import Tunnel
from tests.unit.helpers.teredo import HOST, new_relay, qualified_client

SOURCE = OBJECT.with_suffix(".c")
TOOL = Path(__file__).parents[2] / "tools" / "bpf.sh"


def test_the_object_was_made_from_its_source() -> None:
    """After a change of the source: make bpf."""
    assert parse(OBJECT.read_bytes()).source == hashlib.sha256(SOURCE.read_bytes()).hexdigest()


@pytest.mark.skipif(shutil.which("clang-14") is None, reason="needs the package clang-14")
def test_the_compiler_makes_the_same_object(tmp_path: Path) -> None:
    subprocess.run((TOOL, tmp_path / "again.o"), check=True)
    assert (tmp_path / "again.o").read_bytes() == OBJECT.read_bytes()


def test_the_object_holds_both_programs_and_all_maps() -> None:
    found = parse(OBJECT.read_bytes())
    assert set(found.programs) == {"tcx/egress", "tcx/ingress"}
    assert found.license == "Apache-2.0"
    maps = {each.name: each for each in found.maps}
    assert maps["settings"].value_size == ctypes.sizeof(Settings)
    assert maps["entries"].value_size == ctypes.sizeof(Entry)
    assert (maps["entries"].entries, maps["slots"].entries, maps["moved"].value_size) == (SLOTS, SLOTS, SLOTS)
    assert (maps["slots"].key_size, maps["slots"].value_size) == (16, 4)
    assert maps["inside"].key_size == 4 + 16
    for code, relocations in found.programs.values():
        assert len(code) % 8 == 0
        assert {name for _, name in relocations} == set(maps)
        for offset, _ in relocations:
            assert struct.unpack_from("<B", code, offset)[0] == 0x18, "a map is loaded by a 16-byte instruction"


@pytest.mark.parametrize(("name", "layout"), [("settings", Settings), ("entry", Entry)])
def test_both_sides_have_the_same_fields_in_the_same_places(name: str, layout: type[ctypes.Structure]) -> None:
    """The kernel's side as its source says; ctypes gives C's own layout, so order, names and sizes decide."""
    body = re.search(rf"struct {name} {{(.*?)\n}}", SOURCE.read_text(), re.DOTALL)
    assert body is not None
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    there = [
        (field.group(1), sizes[kind] * int(field.group(2) or 1))
        for kind, names in re.findall(r"^\s(u\d+) ([^;]*);", body.group(1), re.MULTILINE)
        for field in re.finditer(r"(\w+)(?:\[(\d+)\])?", names)
    ]
    here = [(field[0], ctypes.sizeof(field[1])) for field in layout._fields_]
    assert there == here


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(60), OBJECT.read_bytes()[:4] + b"\x02\x02" + bytes(58)])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BpfError, match="not an ELF file"):
        parse(data)


def longest(prefixes: dict[IPv6Network, bool], address: bytes) -> bool:
    """What the longest of the prefixes says that an address lies in."""
    within = [network for network in prefixes if IPv6Address(address) in network]
    return bool(within) and prefixes[max(within, key=lambda network: network.prefixlen)]


ADDRESSES = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.sampled_from(
        [packed(each) for each in ("::", "::1", "::2", "fe80::1", "febf::1", "fec0::1", "ff02::1", "fd00::1", "2001::")]
    ),
    st.binary(min_size=12, max_size=12).map(lambda rest: packed("2001::")[:4] + rest),
    st.binary(min_size=8, max_size=8).map(lambda rest: packed("2001:db8:1:2::")[:8] + rest),
)
SERVES = (
    (),
    ("2001:db8::/32",),
    ("2001:db8:1::/48", "::/0"),
    ("2001::/16",),
    ("2001:0:1::/48", "fe80::/64", "fd00::/8"),
)


@given(address=ADDRESSES, serves=st.sampled_from(SERVES), alone=st.booleans())
def test_prefixes_say_who_is_inside_of_a_relay(address: bytes, serves: tuple[str, ...], alone: bool) -> None:
    relay: Relay = new_relay(serves=serves, host_specific=alone)
    assert longest(dict(relay.prefixes()), address) is relay.inside(address)
    own = packed(relay.config.address)
    assert longest(dict(relay.prefixes()), own) is relay.inside(own)


def test_prefixes_say_who_is_inside_of_a_client() -> None:
    client, own = qualified_client()
    machine: Tunnel = client
    assert dict(machine.prefixes()) == {IPv6Network(own): True}
    assert not longest(dict(machine.prefixes()), HOST)
    client.stop(1.0)
    assert not machine.prefixes()
