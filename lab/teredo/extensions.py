"""The extensions of RFC 6081 by name, and which of them build on which."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Extension(StrEnum):
    """An extension of RFC 6081 that a client may have."""

    SYMMETRIC = "symmetric"
    """Symmetric NAT Support (section 5.2)."""

    UPNP = "upnp"
    """UPnP-Enabled Symmetric NAT (section 5.3)."""

    PORT_PRESERVING = "port-preserving"
    """Port-Preserving Symmetric NAT (section 5.4)."""

    SEQUENTIAL = "sequential"
    """Sequential Port-Symmetric NAT (section 5.5)."""

    HAIRPINNING = "hairpinning"
    """Hairpinning (section 5.6)."""

    LOAD_REDUCTION = "load-reduction"
    """Server Load Reduction (section 5.7)."""


ALL: Final = frozenset(Extension)

_NEEDS: Final = {
    Extension.UPNP: {Extension.SYMMETRIC},
    Extension.PORT_PRESERVING: {Extension.SYMMETRIC},
    Extension.SEQUENTIAL: {Extension.SYMMETRIC, Extension.PORT_PRESERVING},
}


def lacking(extensions: Iterable[Extension]) -> tuple[Extension, Extension] | None:
    """An extension among these, and another one that it builds on and that is not among them; None if all is well."""
    chosen = frozenset(extensions)
    for extension in Extension:
        missing = sorted(_NEEDS.get(extension, set()) - chosen)
        if extension in chosen and missing:
            return extension, missing[0]
    return None
