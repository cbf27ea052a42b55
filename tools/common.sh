# shellcheck shell=bash
# What the scripts in this folder share. Each names itself in $WHO, for its messages.

say() { echo "$WHO: $*" >&2; }

# Exit code 3: the machine lacks something; the message says what, and what to do.
lack() {
    say "$@"
    exit 3
}

# Run a command without its output, unless it fails; $1 says what is being done.
timed() {
    local what=$1 start=${EPOCHREALTIME//[!0-9]/} log code=0
    shift
    printf '%s: %s … ' "$WHO" "$what" >&2
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || code=$?
    local tenths=$(((${EPOCHREALTIME//[!0-9]/} - start) / 100000))
    if ((code)); then
        echo "failed:" >&2
        cat "$log" >&2
    else
        echo "$((tenths / 10)).$((tenths % 10)) s" >&2
    fi
    rm -f "$log"
    return "$code"
}

may_be_root() { ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

may_install() { command -v apt-get >/dev/null && may_be_root; }

# Run a command as root, where may_be_root has answered yes.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}
