#!/usr/bin/env bash
# Builds the images of a lab's nodes, teredo-lab/node:VERSION and teredo-lab/miredo:VERSION; fast where nothing has changed.
#
#   tools/images.sh [--no-cache and other arguments for docker build]
#   tools/images.sh --source    prints what tells their source apart from others
#
# $BASE names another base image, $VERSION another tag than the project's version. How pip reaches its index is taken over
# from this machine: index and certificates from pip's environment variables or its configuration, proxies from the
# environment. Neither the images nor their history hold any of it.
# Exit code 3: the machine lacks something that cannot be installed from here; the message says what to do.
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
readonly WHO=images
source tools/common.sh
export BASE=${BASE:-debian:bookworm-slim}
VERSION=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
# What the images are made of: `teredo-lab up` compares it with what they would be made of now.
SOURCE=$(find lab images pyproject.toml constraints.txt -type f ! -name '*.pyc' ! -name certificates.crt -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
export VERSION SOURCE
if [[ ${1-} == --source ]]; then
    echo "$SOURCE"
    exit
fi
readonly CERTIFICATES=images/certificates.crt # .dockerignore lets it through; git does not

# One of pip's settings, by its name: from the environment, or else from pip's own files.
pip_setting() {
    local variable=PIP_${1^^}
    variable=${variable//-/_}
    if [[ -n ${!variable-} ]]; then
        echo "${!variable}"
    else
        python3 -m pip config get "global.$1" 2>/dev/null || true
    fi
}

# What is in a file: of this machine alone, a build cannot reach it.
of_the_network() { tr ' ' '\n' <<<"$1" | sed '/^file:/d' | paste -s -d ' ' -; }

build() {
    local image=$1
    shift
    # The host's network: where names or proxies are known to the host alone, a bridge would not do.
    timed "building $image" docker build --network host --file images/Dockerfile --tag "$image" --build-arg VERSION "$@" .
}

tools/engine.sh base
exec {lock}<images # two runs of make may come here at once
flock "$lock"

PIP_INDEX_URL=$(pip_setting index-url)
PIP_EXTRA_INDEX_URL=$(of_the_network "$(pip_setting extra-index-url)")
PIP_TRUSTED_HOST=$(pip_setting trusted-host)
export PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST
reach=(--build-arg PIP_INDEX_URL) # also an empty one, as Compose does: else it would build all anew
for variable in PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST {http,https,no}_proxy {HTTP,HTTPS,NO}_PROXY; do
    if [[ -n ${!variable-} ]]; then reach+=(--build-arg "$variable"); fi
done
trusted=$(pip_setting cert)
if [[ -r $trusted ]]; then cp "$trusted" "$CERTIFICATES"; fi # it stays: docker compose builds with it, too

for target in node miredo; do
    build "teredo-lab/$target:$VERSION" --target "$target" --build-arg BASE --build-arg SOURCE "${reach[@]}" "$@" || exit 1
done
# Those of earlier builds, which have no name any more; running containers keep theirs.
docker image prune --force --filter label=org.teredo-lab.source >/dev/null || true
