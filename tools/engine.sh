#!/usr/bin/env bash
# Sees to it that a Docker engine answers, and to what the images are built from; does nothing, fast, where all is there.
#
#   tools/engine.sh up        an engine that answers: one that runs already, or Debian's, installed and started
#   tools/engine.sh base      the base image: pulled or, where no registry can be reached, made with debootstrap
#   tools/engine.sh compose   `docker compose` (v2) and `docker buildx`, as plugins of this user's client
#   tools/engine.sh down      stops the engine, if `up` has started it
#
# $BASE names another base image than debian:bookworm-slim; one that is not Debian's bookworm can only be pulled.
# $DOCKERD_ARGS are further arguments for the engine. Where systemd runs, the engine is systemd's, and `down` leaves it.
# Exit code 3: the machine lacks something that cannot be installed from here; the message says what to do.
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
readonly WHO=engine
source tools/common.sh
PATH="$PATH:/usr/sbin:/sbin" # Debian keeps these out of an ordinary user's PATH
readonly BASE=${BASE:-debian:bookworm-slim}
readonly POLICY=/usr/sbin/policy-rc.d
# What belongs to an engine that `up` has started: its process, as "pid start-time", and its log.
readonly STATE=${TEREDO_LAB_ENGINE:-/run/teredo-lab-engine}
readonly DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
readonly PULL_SECONDS=30 START_SECONDS=60 STOP_SECONDS=60

# --- the engine ------------------------------------------------------------------------------------------------------

answers() { docker info &>/dev/null; }

# The engine that we have started: its process id, if it still runs. A pid alone may be another process by now.
ours() {
    local pid born
    read -r pid born 2>/dev/null <"$STATE/pid" && [[ $(start_time "$pid") == "$born" ]] && echo "$pid"
}

# When a process was started, in clock ticks since boot; nothing if it is gone.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

ensure_engine() {
    answers && return
    local why
    why=$(docker info 2>&1 || true)
    if [[ $why == *"permission denied"* ]]; then
        lack "an engine runs, but you may not use it. As root: usermod -aG docker ${USER:-$(id -un)}; then log in again"
    fi
    if [[ -n ${DOCKER_HOST-} && $DOCKER_HOST != unix:* ]]; then
        lack "no engine answers at $DOCKER_HOST: start it, or unset DOCKER_HOST to use one on this machine"
    fi
    if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
        may_install || lack "no Docker engine answers, and installing one needs root or passwordless sudo, and apt." \
            "Install docker.io (Debian, Ubuntu) or Docker's own packages, start it, then try again"
        install_engine
    fi
    answers || start_engine
    say "$(docker version --format 'Docker {{.Server.Version}} answers')"
}

install_engine() {
    local packages=(docker.io)
    timed "reading the package lists (apt)" apt update || say "going on with the lists that are here"
    # From Debian 13 on the client is a package of its own.
    if ! command -v docker >/dev/null && apt-cache show docker-cli &>/dev/null; then packages+=(docker-cli); fi
    timed "installing ${packages[*]} (apt)" without_daemons apt install --no-install-recommends "${packages[@]}" ||
        lack "apt could not install ${packages[*]}: see above"
    hash -r
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"; }

# Run a command during which packages start no daemons: where there is no systemd we start the engine ourselves, since
# what an init script starts there has no owner who would ever stop it.
without_daemons() {
    if [[ -d /run/systemd/system || -e $POLICY ]]; then
        "$@"
        return
    fi
    local code=0
    printf '%s\n' '#!/bin/sh' '# teredo-lab: temporary, while packages are installed' 'exit 101' |
        as_root install -m 755 /dev/stdin "$POLICY"
    "$@" || code=$?
    as_root rm -f "$POLICY"
    return "$code"
}

start_engine() {
    may_be_root || lack "the Docker engine is installed but does not run, and starting it needs root. Run: sudo tools/engine.sh up"
    if [[ -d /run/systemd/system ]]; then
        timed "starting the engine (systemd)" as_root systemctl start docker ||
            lack "systemd could not start the engine: journalctl -u docker says why"
        return
    fi
    as_root install -d -m 755 "$STATE"
    if ! timed "starting the engine (dockerd, its log is $STATE/log)" start_dockerd; then
        as_root tail -n 20 "$STATE/log" >&2 || true
        lack "the engine does not start: see the end of its log above"
    fi
}

# A session of its own keeps it running after us; the shell notes down who it is and becomes it.
start_dockerd() {
    local arguments
    read -ra arguments <<<"${DOCKERD_ARGS-}"
    as_root rm -f "$STATE/pid"
    # shellcheck disable=SC2016 # the inner shell expands these
    as_root setsid --fork bash -c '
        for fd in /proc/$$/fd/*; do ((${fd##*/} <= 2)) || eval "exec ${fd##*/}>&-"; done # it would hold locks of others
        exec >"$1/log" 2>&1
        echo "$$ $(sed "s/.*) //" /proc/$$/stat | cut -d " " -f 20)" >"$1/pid"
        shift
        exec dockerd "$@"' - "$STATE" ${DOCKER_HOST:+"--host=$DOCKER_HOST"} "${arguments[@]}" || return
    local end=$((SECONDS + START_SECONDS))
    until answers; do
        sleep 0.1
        ((SECONDS < end)) && { [[ ! -s $STATE/pid ]] || [[ -n $(ours) ]]; } || return
    done
}

stop_engine() {
    local pid
    if ! pid=$(ours); then
        say "nothing to stop: tools/engine.sh up has started no engine here, or it is gone"
        return
    fi
    may_be_root || lack "stopping the engine needs root. Run: sudo tools/engine.sh down"
    timed "stopping the engine" stop_dockerd "$pid" || lack "process $pid did not end; its log is $STATE/log"
    as_root rm -f "$STATE/pid"
}

stop_dockerd() {
    as_root kill -TERM "$1"
    local end=$((SECONDS + STOP_SECONDS))
    while ours >/dev/null; do
        sleep 0.1
        ((SECONDS < end)) || return
    done
}

# --- the base image --------------------------------------------------------------------------------------------------

has_base() { docker image inspect "$BASE" &>/dev/null; }

ensure_base() {
    has_base && return
    ensure_engine
    has_base && return
    if timed "pulling $BASE (at most $PULL_SECONDS s)" timeout "$PULL_SECONDS" docker pull --quiet "$BASE"; then return; fi
    [[ $BASE == debian:bookworm-* ]] || lack "$BASE could not be pulled, and only Debian's bookworm can be made from here"
    may_be_root || lack "$BASE could not be pulled, and making it (debootstrap) needs root. Run: sudo tools/engine.sh base"
    if ! command -v debootstrap >/dev/null; then
        may_install || lack "$BASE could not be pulled, and debootstrap, which could make it, is missing: install it"
        timed "reading the package lists (apt)" apt update || say "going on with the lists that are here"
        timed "installing debootstrap (apt)" apt install --no-install-recommends debootstrap ||
            lack "apt could not install debootstrap: see above"
    fi
    make_base
}

make_base() {
    local mirror security root keys=()
    mirror=$(site bookworm)
    security=$(site bookworm-security)
    if [[ -e $DEBIAN_KEYS ]]; then keys=(--keyring "$DEBIAN_KEYS"); fi
    # Not in /tmp, which is often mounted without devices.
    root=$(as_root mktemp -d /var/tmp/teredo-lab-base.XXXXXX)
    # shellcheck disable=SC2064 # the value of now
    trap "as_root rm -rf --one-file-system '$root'" EXIT
    timed "making it of Debian's packages (debootstrap)" as_root debootstrap --variant=minbase \
        "${keys[@]}" bookworm "$root" ${mirror:+"$mirror"} ||
        lack "debootstrap could not make $BASE: it needs a mirror of Debian, or load the image with docker load"
    timed "leaving out what no container needs" as_root bash -euc "$(declare -f slim); slim \"\$@\"" - \
        "$root" "$mirror" "$security"
    timed "giving it to the engine" import "$root" || lack "the engine does not take the image: see above"
    as_root rm -rf --one-file-system "$root"
    trap - EXIT
}

# Where this machine's apt gets a release of Debian from; nothing if it does not.
# shellcheck disable=SC2016 # apt expands these
site() { apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 2>/dev/null | sed -n "s/^$1 //p;T;q"; }

# As in Debian's own image of this name: no documentation but licences, no translations, no lists, nothing that starts
# daemons. What dpkg installs later is left out likewise.
slim() {
    local root=$1 mirror=$2 security=$3
    printf '%s\n' '#!/bin/sh' 'exit 101' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    printf 'path-exclude %s\n' '/usr/share/doc/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/man/*' \
        '/usr/share/groff/*' '/usr/share/lintian/*' '/usr/share/linda/*' >"$root/etc/dpkg/dpkg.cfg.d/docker"
    printf 'path-include %s\n' '/usr/share/doc/*/copyright' >>"$root/etc/dpkg/dpkg.cfg.d/docker"
    printf '%s\n' 'Acquire::Languages "none";' 'Acquire::GzipIndexes "true";' 'Apt::AutoRemove::SuggestsImportant "false";' \
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };' \
        'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >"$root/etc/apt/apt.conf.d/docker"
    if [[ -n $mirror ]]; then
        printf 'deb %s main\n' "$mirror bookworm" "$mirror bookworm-updates" >"$root/etc/apt/sources.list"
    fi
    if [[ -n $security ]]; then echo "deb $security bookworm-security main" >>"$root/etc/apt/sources.list"; fi
    find "$root/usr/share/doc" -type f ! -name copyright -delete
    find "$root/usr/share/doc" -type l -delete
    find "$root/usr/share/doc" -depth -type d -empty -delete
    rm -rf "$root"/usr/share/{info,locale,man,groff,lintian,linda}/* "$root"/var/cache/{apt,debconf}/*-old \
        "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/var/cache/ldconfig/aux-cache "$root"/etc/{hostname,resolv.conf}
}

import() {
    set -o pipefail
    as_root tar --create --directory "$1" --one-file-system --numeric-owner . | docker import --change 'CMD ["bash"]' - "$BASE"
}

# --- the client's plugins --------------------------------------------------------------------------------------------

works() { docker "$1" version 2>/dev/null | grep -qE '\bv?[0-9]+\.[0-9]'; }

# Debian 12 has but Compose v1. The plugins of Debian 13 are programs without libraries, which run on 12 as well; they are
# taken out of their packages, and nothing is installed on the machine.
ensure_plugins() {
    local wanted=() plugin
    for plugin in compose buildx; do works "$plugin" || wanted+=("docker-$plugin"); done
    ((${#wanted[@]})) || return 0
    command -v docker >/dev/null || ensure_engine
    local remedy="install Docker's docker-compose-plugin and docker-buildx-plugin, or your system's packages"
    local mirror keep=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    mirror=$(site "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)") || true
    if [[ ! -e $DEBIAN_KEYS ]] || ! grep -qs '^ID=debian' /etc/os-release || [[ -z $mirror ]]; then
        lack "${wanted[*]} are missing: $remedy"
    fi

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir -p "$scratch"/{lists,cache,packages}/partial "$scratch/root" "$keep"
    : >"$scratch/status"
    echo "deb [signed-by=$DEBIAN_KEYS] $mirror trixie main" >"$scratch/sources.list"
    timed "reading Debian 13's package lists (apt)" private_apt update || lack "${wanted[*]} cannot be had: $remedy"
    timed "fetching ${wanted[*]} (apt)" fetch "${wanted[@]}" || lack "${wanted[*]} cannot be had: $remedy"
    for plugin in "${wanted[@]}"; do
        install -m 755 "$(find "$scratch/root" -path "*/cli-plugins/$plugin" -type f)" "$keep/$plugin"
        works "${plugin#docker-}" || lack "$keep/$plugin does not run here: remove it and $remedy"
        say "$(docker "${plugin#docker-}" version | head -n 1), in $keep"
    done
}

# apt with lists of its own: nothing of the machine's package management is touched.
private_apt() {
    apt-get -qq -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$scratch/lists" \
        -o Dir::State::Status="$scratch/status" -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "$@"
}

fetch() {
    local package
    (cd "$scratch/packages" && private_apt download "$@") || return
    for package in "$scratch"/packages/*.deb; do dpkg-deb --extract "$package" "$scratch/root" || return; done
}

case ${1-} in
up) ensure_engine ;;
base) ensure_base ;;
compose) ensure_plugins ;;
down) stop_engine ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
