#!/usr/bin/env bash
# Compiles the kernel data path to the file that it is given, by default the one in the package. The same bytes each time: a
# test compares them, and another one whether the object holds the SHA-256 of its source.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/../lab/datapath"

hash=$(sha256sum <teredo.bpf.c)
exec clang-14 -target bpfel -mcpu=v3 -O2 -Wall -Wextra -Werror -nostdinc -ffreestanding "-DSOURCE=\"${hash%% *}\"" \
    -c teredo.bpf.c -o "${1:-teredo.bpf.o}"
