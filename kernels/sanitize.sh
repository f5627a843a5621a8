#!/usr/bin/env bash
# Run the native engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer, beside the installed engine.
# Usage, in the environment that runs the tests: kernels/sanitize.sh [pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
package=build/sanitized/package
rm -rf "$package" && mkdir -p "$package"
cp -r gamegen_env tests pyproject.toml "$package/"
rm -f "$package"/gamegen_env/engine/_native*.so
cmake -S kernels -DGAMEGEN_CUDA=OFF -B build/sanitized/build -DGAMEGEN_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/build/sanitized" > /dev/null
cmake --build build/sanitized/build --parallel 2
cp build/sanitized/_native*.so "$package/gamegen_env/engine/"
cd "$package"
export PYTHONPATH="$PWD" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# The interpreter itself leaks at exit.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)" \
    python -m pytest -q -p no:cacheprovider tests/test_native.py tests/test_native_fuzz.py tests/test_engines.py "$@"
