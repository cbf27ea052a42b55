#!/usr/bin/env bash
# Sets up what a fresh machine lacks; does nothing, fast, when nothing is lacking. The Makefile calls it.
#
#   tools/setup.sh run        what a lab needs: system packages, and .venv with the run-time dependencies
#   tools/setup.sh check      what `make check` needs: .venv with the development tools, no system packages
#   tools/setup.sh test       what the tests need: both of the above, tshark and tcpdump, coturn, a UPnP client and clang,
#                             and a browser, if it can be had
#   tools/setup.sh bench      what benchmarks need: the same, and what labs are compared with, if it can be had
#   tools/setup.sh packages   only the system packages of `test`
#
# Exit code 3: the machine lacks something that cannot be installed from here; the message says what to do.
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
readonly WHO=set-up
source tools/common.sh
PATH="$PATH:/usr/sbin:/sbin" # Debian keeps these out of an ordinary user's PATH
readonly POLICY=/usr/sbin/policy-rc.d
readonly POLICY_MARK="# teredo-lab: temporary"
readonly HALF_MADE=.venv/.half-made
readonly TOLD=.venv/.without-optional

# What is needed, as command:package. lab/doctor/commands.py has the same list, and what each is for.
readonly LAB=(iptables-restore:iptables nft:nftables ipset:ipset conntrack:conntrack ip:iproute2 tc:iproute2 ping:iputils-ping
    sysctl:procps ethtool:ethtool)
readonly TESTS=(tshark:tshark tcpdump:tcpdump turnserver:coturn upnpc:miniupnpc clang-14:clang-14)
# Optional: what they are for is left out where they are missing.
readonly OPTIONAL=(miredo:miredo miredo-server:miredo-server miniupnpd:miniupnpd-nftables)

# Optional for benchmarks: sections that need them are left out, and say so.
readonly PEERS=(iperf3:iperf3 mnexec:mininet brctl:bridge-utils)

# Optional: without a browser, tests of the live page are skipped, and its benchmark is left out.
readonly BROWSER=(chromium:chromium chromedriver:chromium-driver)

commands() { echo "${@%%:*}"; }
packages() { echo "${@##*:}"; }

# Those of the command:package pairs whose command is missing.
missing() {
    local pair
    for pair; do
        command -v "${pair%%:*}" >/dev/null || echo "$pair"
    done
}

missing_browser() { command -v google-chrome >/dev/null || missing "${BROWSER[@]}"; }

# --- system packages -------------------------------------------------------------------------------------------------

# As root: install "$1", which are required, and "$2", which are not.
install() {
    local required optional
    read -ra required <<<"$1"
    read -ra optional <<<"$2"
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    timed "reading the package lists (apt)" "${apt[@]}" update || say "going on with the lists that are here"
    if ! forbid_daemons; then
        optional=()
        [[ $1 != *coturn* ]] || lack "coturn is needed, and with your $POLICY its daemon would start: install it yourself"
    fi
    if ((${#required[@]})); then
        timed "installing ${required[*]} (apt)" "${apt[@]}" install --no-install-recommends "${required[@]}" || exit 3
    fi
    if ((${#optional[@]})); then
        timed "installing ${optional[*]} (apt)" "${apt[@]}" install --no-install-recommends "${optional[@]}" || true
    fi
    disable_daemons "${required[@]}" "${optional[@]}"
}

# Debian starts the daemons of Miredo, coturn and miniupnpd on the machine itself when their packages are installed. Nobody asked
# for that: the lab starts its own in its namespaces. Answers whether it is certain that none will be started.
forbid_daemons() {
    if [[ -e $POLICY ]] && ! grep -qF "$POLICY_MARK" "$POLICY"; then
        local service answer
        for service in miredo coturn miniupnpd; do
            answer=0
            "$POLICY" "$service" start >/dev/null 2>&1 || answer=$?
            ((answer == 101)) && continue
            say "not installing what has daemons: $POLICY is yours, and it would let $service start on this machine"
            return 1
        done
        return 0
    fi
    trap 'rm -f "$POLICY"' EXIT
    printf '%s\n' '#!/bin/sh' "$POLICY_MARK, while packages are installed: keeps their daemons from being started" \
        'case "$*" in *miredo* | *coturn* | *miniupnpd*) exit 101 ;; esac' >"$POLICY"
    chmod 755 "$POLICY"
}

# Nor shall they be started at the next boot.
disable_daemons() {
    local service
    for service; do
        service=${service%-nftables}
        case $service in miredo* | coturn | miniupnpd) ;; *) continue ;; esac
        if command -v systemctl >/dev/null; then systemctl --quiet disable "$service" >/dev/null 2>&1 || true; fi
        if command -v update-rc.d >/dev/null; then update-rc.d "$service" disable >/dev/null 2>&1 || true; fi
    done
}

# Install "$1", and "$2" if they can be had; do nothing where we may not.
request() {
    may_install || return 0
    as_root bash tools/setup.sh install "$1" "$2"
    hash -r
}

# See to it that the commands of these command:package pairs are there, and the optional ones if that can be.
ensure_packages() {
    local required optional=()
    mapfile -t required < <(missing "$@")
    if [[ ! -e $TOLD ]]; then mapfile -t optional < <(missing "${OPTIONAL[@]}"); fi
    ((${#required[@]} + ${#optional[@]})) || return 0
    request "$(packages "${required[@]}")" "$(packages "${optional[@]}")"

    mapfile -t optional < <(missing "${optional[@]}")
    if ((${#optional[@]})); then
        tell_once=yes
        say "without $(commands "${optional[@]}"), nodes of Miredo, and NATs' UPnP, will be left out"
        if command -v apt-get >/dev/null && ! may_install; then
            say "to have them, without their daemons on this machine: sudo make packages"
        fi
    fi
    mapfile -t required < <(missing "${required[@]}")
    ((${#required[@]})) || return 0
    command -v apt-get >/dev/null && lack_packages "$(packages "${required[@]}")"
    lack "these commands are missing; install them with your system's package manager: $(commands "${required[@]}")"
}

lack_packages() {
    say "packages are missing, and installing them needs root or passwordless sudo; run this, then try again:"
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" >&2
    exit 3
}

# --- Python ----------------------------------------------------------------------------------------------------------

# The first Python that is new enough; nothing if there is none.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

# Debian has venv's other half, ensurepip, in a package of its own; its name holds the version.
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

make_venv() {
    local python version
    python=$(find_python)
    if [[ -z $python ]] && ! command -v python3 >/dev/null; then
        request "python3 python3-venv" ""
        python=$(find_python)
    fi
    [[ -n $python ]] || lack "Python 3.11 or newer is needed, and ${PYTHON:-python3} says" \
        "'$("${PYTHON:-python3}" -V 2>&1 || true)'; name another one with PYTHON=python3.13, for example"
    if ! can_make_venv "$python"; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        if [[ $("$python" -c 'import sys; print(sys.prefix)') == /usr ]] && command -v apt-get >/dev/null; then
            request "$version-venv" ""
            can_make_venv "$python" || lack_packages "$version-venv"
        fi
        can_make_venv "$python" || lack "$python cannot make a virtual environment: its module ensurepip is missing"
    fi
    rm -rf .venv
    mkdir .venv
    touch $HALF_MADE
    timed "making .venv with $("$python" -V)" "$python" -m venv .venv || exit 3
}

# What a stamp says: a virtual environment cannot move, nor outlive its Python or our list of dependencies.
fingerprint() { echo "$PWD $(.venv/bin/python -V 2>&1) $(cat pyproject.toml constraints.txt | sha256sum)"; }

installed() {
    [[ -f .venv/.stamp-$1 && ! -e $HALF_MADE && $(<".venv/.stamp-$1") == "$(fingerprint)" ]]
}

# Whether pip can work on .venv: it was made to the end, it was made here, and its Python is still the same.
sound_venv() {
    [[ ! -e $HALF_MADE ]] && grep -qsF "$PWD/.venv/bin/python" .venv/bin/pip && .venv/bin/python -m pip --version
} &>/dev/null

# See to it that .venv holds the dependencies: "run" or, with the development tools, "test".
ensure_python() {
    local what=$1 requirements=()
    if installed test || installed "$what"; then return; fi
    exec {lock}<. # two runs of make may come here at once
    flock "$lock"
    if installed test || installed "$what"; then return; fi

    [[ -w . && (! -e .venv || -w .venv) ]] || lack "you may not write to $PWD: use a clone of your own"
    sound_venv || make_venv
    if [[ $what == test ]]; then
        # pip knows dependency groups since 25.1 only, and a new .venv holds an older one.
        mapfile -t requirements < <(.venv/bin/python -c 'if True:
            import tomllib
            print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")')
    fi
    touch $HALF_MADE
    local code=0
    PIP_USER=0 timed "installing the Python packages to $what (pip)" .venv/bin/python -m pip install --quiet --no-input \
        --disable-pip-version-check --constraint constraints.txt --editable . "${requirements[@]}" || code=$?
    ((code > 2)) || rm -f $HALF_MADE # pip said itself that it failed: then it has left what was there as it was
    ((code == 0)) || lack "pip could not install the Python packages: it needs the network, or PIP_INDEX_URL set to a mirror"
    fingerprint >".venv/.stamp-$what"
}

tell_once=
case ${1-} in
run)
    ensure_packages "${LAB[@]}"
    ensure_python run
    ;;
check) ensure_python test ;;
test)
    ensure_packages "${LAB[@]}" "${TESTS[@]}"
    mapfile -t browser < <(missing_browser)
    if ((${#browser[@]})); then request "" "$(packages "${browser[@]}")"; fi
    ensure_python test
    ;;
bench)
    ensure_packages "${LAB[@]}"
    mapfile -t peers < <(missing "${PEERS[@]}"; missing_browser)
    if ((${#peers[@]})); then request "" "$(packages "${peers[@]}")"; fi
    ensure_python test
    ;;
packages)
    rm -f $TOLD
    ensure_packages "${LAB[@]}" "${TESTS[@]}"
    ;;
install) # only for itself, as root
    install "$2" "$3"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
if [[ -n $tell_once && -d .venv ]]; then touch $TOLD; fi
