#!/usr/bin/env bash
# Build KenLM's lmplz and build_binary from the source that the `kenlm` package on PyPI carries (LGPL; nothing of it is kept
# in this repository). They go to $PINISI_KENLM, by default ~/.cache/pinisi/kenlm. One to two minutes.
# Needs g++, cmake (`pip install cmake` will do) and the headers of Boost and Eigen; on Debian, as root, they are installed.
set -euo pipefail

version=0.3.0
target=${PINISI_KENLM:-$HOME/.cache/pinisi/kenlm}
python=${PYTHON:-python3}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends g++ make cmake libboost-program-options-dev libboost-thread-dev \
        libboost-system-dev libboost-test-dev libeigen3-dev zlib1g-dev libbz2-dev liblzma-dev >/dev/null
fi
for tool in g++ make cmake; do
    command -v "$tool" >/dev/null || { echo "kenlm.sh: $tool is missing; install it and run this again" >&2; exit 2; }
done

# --no-binary for this package alone: for all, pip would build cmake from source too.
"$python" -m pip download --quiet --no-deps --no-binary kenlm --dest "$build" "kenlm==$version"
tar -xzf "$build/kenlm-$version.tar.gz" -C "$build"
cmake -S "$build/kenlm-$version" -B "$build/make" -DKENLM_MAX_ORDER=6 -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_POLICY_VERSION_MINIMUM=3.5 >"$build/log" || { cat "$build/log" >&2; exit 1; }
make -C "$build/make" -j "${JOBS:-2}" lmplz build_binary query >"$build/log" 2>&1 || { tail -30 "$build/log" >&2; exit 1; }
mkdir -p "$target"
cp "$build"/make/bin/{lmplz,build_binary,query} "$target"/
echo "lmplz, build_binary and query are in $target"
