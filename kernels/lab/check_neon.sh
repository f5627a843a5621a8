#!/usr/bin/env bash
# Check the NEON lanes without an ARM machine. Debian: g++-aarch64-linux-gnu qemu-user.  `-cpu max` has DotProd and I8MM.
set -euo pipefail
cd "$(dirname "$0")/../.."
cmake -S kernels/lab -B build/neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static > /dev/null
cmake --build build/neon
qemu-aarch64 -cpu max build/neon/parity
