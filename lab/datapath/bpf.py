"""Loads programs and maps of the kernel's BPF from an object file: bpf(2), and what of ELF that needs.

The object is clang's. Its section `maps` holds five words for each map (type, key size, value size, entries, flags); a
program is a section whose name says where it attaches.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

PROGRAM_TYPES: Final = {"tcx/ingress": 46, "tcx/egress": 47}
"""Sections that are programs, and what they attach as."""

_SYSCALLS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}

_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _LINK_CREATE = 0, 2, 3, 5, 28
_ANY = -1
_SCHED_CLS = 3
_PSEUDO_MAP_FD = 1
_LOG_SIZE = 1 << 20
_LOG_LINES = 12

_SYMTAB, _REL = 2, 9
_INSTRUCTION = 8

_REMEDIES: Final = {
    (_ANY, errno.EPERM): "; it needs CAP_BPF and CAP_NET_ADMIN, of root outside of user namespaces and containers",
    (_ANY, errno.ENOSYS): "; it has no BPF",
    (_LINK_CREATE, errno.EINVAL): "; it needs Linux 6.6 or newer",
}
"""What to do about an error, by command of bpf(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(Exception):
    """The kernel does not take it; the message says what, and why as far as the kernel tells."""


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map that an object defines; sizes in bytes."""

    name: str
    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Object:
    """What an object file holds: programs by section, each with (offset, map) where maps are used; and maps."""

    programs: dict[str, tuple[bytes, tuple[tuple[int, str], ...]]]
    maps: tuple[MapSpec, ...]
    license: str
    source: str


def parse(data: bytes) -> Object:
    """Read an object file. Raises BpfError if it is not one of clang's for little-endian BPF."""
    if data[:6] != b"\x7fELF\x02\x01" or data[18:20] != b"\xf7\0":
        raise BpfError("not an ELF file for little-endian BPF")
    sections = list(_sections(data))
    by_name = {name: content for name, content, *_ in sections}
    symbols, programs = [], {}
    for _, content, kind, link, _ in sections:
        if kind == _SYMTAB:
            strings = sections[link][1]
            for name, _, _, section, value, _ in struct.iter_unpack("<IBBHQQ", content):
                symbols.append((_string(strings, name), section, value))
    for name, content, *_ in sections:
        if name in PROGRAM_TYPES:
            programs[name] = (content, tuple(_relocations(sections, name, symbols)))
    numbers = {number: name for number, (name, *_) in enumerate(sections)}
    maps = [
        MapSpec(name, *struct.unpack_from("<5I", by_name["maps"], value))
        for name, section, value in sorted(symbols, key=lambda symbol: symbol[2])
        if numbers.get(section) == "maps" and name and name != "maps"
    ]
    return Object(programs, tuple(maps), _string(by_name["license"], 0), _string(by_name["source"], 0))


_Section = tuple[str, bytes, int, int, int]


def _sections(data: bytes) -> Iterator[_Section]:
    """Name, content, type, link and info of each section."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + number * size) for number in range(count)]
    strings = data[headers[names][4] :]
    for name, kind, _, _, offset, length, link, info, _, _ in headers:
        yield _string(strings, name), data[offset : offset + length], kind, link, info


def _relocations(
    sections: list[_Section], program: str, symbols: list[tuple[str, int, int]]
) -> Iterator[tuple[int, str]]:
    for _, content, kind, _, info in sections:
        if kind == _REL and sections[info][0] == program:
            for offset, what in struct.iter_unpack("<QQ", content):
                yield offset, symbols[what >> 32][0]


def _string(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


class Map:
    """A map in the kernel; closing the descriptor lets go of it."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        words = (spec.type, spec.key_size, spec.value_size, spec.entries, spec.flags)
        self.fd = _bpf(_MAP_CREATE, struct.pack("=7I16s", *words, 0, 0, spec.name.encode()[:15]), f"map {spec.name}")

    def __setitem__(self, key: bytes, value: bytes) -> None:
        with_key, with_value = _buffer(key), _buffer(value)
        attributes = struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(with_key), ctypes.addressof(with_value), 0)
        _bpf(_MAP_UPDATE, attributes, f"a value of the map {self.spec.name}")

    def __delitem__(self, key: bytes) -> None:
        """Raises KeyError."""
        with_key = _buffer(key)
        attributes = struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(with_key), 0, 0)
        try:
            _bpf(_MAP_DELETE, attributes, "")
        except BpfError:
            raise KeyError(key) from None

    def memory(self) -> mmap.mmap:
        """The values of a map of kind array, as memory that this process shares with the kernel."""
        size = self.spec.entries * (self.spec.value_size + 7 & ~7)
        return mmap.mmap(self.fd, size + mmap.PAGESIZE - 1 & -mmap.PAGESIZE)

    def close(self) -> None:
        os.close(self.fd)


class Loaded:
    """An object's maps and programs in the kernel. Closing it, or the end of the process, undoes all of it."""

    def __init__(self, parsed: Object, entries: Mapping[str, int] | None = None) -> None:
        """With so many entries in these maps, rather than as many as the object says. Raises BpfError."""
        self.maps: dict[str, Map] = {}
        self._programs: dict[str, int] = {}
        try:
            for spec in parsed.maps:
                self.maps[spec.name] = Map(replace(spec, entries=(entries or {}).get(spec.name, spec.entries)))
            for name, (code, relocations) in parsed.programs.items():
                self._programs[name] = self._load(name, code, relocations, parsed.license)
        except BpfError:
            self.close()
            raise

    def _load(self, name: str, code: bytes, relocations: tuple[tuple[int, str], ...], license: str) -> int:
        patched = bytearray(code)
        for offset, target in relocations:
            patched[offset + 1] |= _PSEUDO_MAP_FD << 4
            struct.pack_into("<i", patched, offset + 4, self.maps[target].fd)
        instructions, terms = _buffer(bytes(patched)), _buffer(license.encode() + b"\0")
        log: ctypes.Array[ctypes.c_char] | None = None
        while True:
            attributes = struct.pack(
                "=IIQQIIQII16sII",
                _SCHED_CLS,
                len(patched) // _INSTRUCTION,
                ctypes.addressof(instructions),
                ctypes.addressof(terms),
                int(log is not None),
                len(log) if log is not None else 0,
                ctypes.addressof(log) if log is not None else 0,
                0,
                0,
                name.rpartition("/")[2].encode(),
                0,
                0,
            )
            try:
                return _bpf(_PROG_LOAD, attributes, f"the program {name}")
            except BpfError as error:
                if log is None:
                    log = ctypes.create_string_buffer(_LOG_SIZE)
                    continue
                said = log.value.decode(errors="replace").strip().splitlines()[-_LOG_LINES:]
                raise BpfError("\n".join((str(error), *said))) from None

    def attach(self, name: str, interface: int) -> int:
        """Run a program on an interface for as long as the descriptor is open, after those that are there already."""
        attributes = struct.pack("=4I16x", self._programs[name], interface, PROGRAM_TYPES[name], 0)
        return _bpf(_LINK_CREATE, attributes, f"attaching {name}")

    def close(self) -> None:
        for fd in self._programs.values():
            os.close(fd)
        for each in self.maps.values():
            each.close()
        self._programs, self.maps = {}, {}


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None or sys.byteorder != "little":
        raise BpfError(f"{what}: machines of kind {platform.machine()} are not known here")
    memory = _buffer(attributes)
    result: int = _libc.syscall(number, command, memory, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise BpfError(
            f"{what}: {os.strerror(error)}{_REMEDIES.get((command, error), _REMEDIES.get((_ANY, error), ''))}"
        )
    return result
