"""How to get what a machine lacks, in words; commands are those of Debian and Ubuntu."""

from __future__ import annotations

from typing import Final

DOCTOR: Final = "`teredo-lab doctor` tells what else this machine has and lacks"

TUN: Final = "load the module (modprobe tun) or allow its use (chmod 666 /dev/net/tun)"

USERNS_SYSCTLS: Final = {
    "kernel.unprivileged_userns_clone": 1,
    "user.max_user_namespaces": 15000,
    "kernel.apparmor_restrict_unprivileged_userns": 0,
}
"""What these should be for ordinary users to have user namespaces; which of them there are differs between kernels."""

USER_NAMESPACES: Final = (
    "run as root, or allow them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=15000,"
    " and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)"
)


def modprobe(modules: str) -> str:
    """How to get parts of the kernel."""
    return f"modprobe {modules}; on Ubuntu it may be in the package linux-modules-extra-$(uname -r)"


def install(package: str, *, debian: bool, root: bool) -> str:
    """How to install a package: the command where there is apt, else words."""
    if not debian:
        return f"install it with your system's package manager (Debian calls it {package})"
    return f"{sudo(root=root)}apt-get install -y --no-install-recommends {package}"


def sudo(*, root: bool) -> str:
    """What to put before a command that needs root."""
    return "" if root else "sudo "
