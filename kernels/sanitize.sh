#!/usr/bin/env bash
# Run the tests of the native engine, or with "cuda" first those of the emulated CUDA engine, under AddressSanitizer and
# UndefinedBehaviorSanitizer, beside the installed engine.
# Usage, in the environment that runs the tests: kernels/sanitize.sh [cuda] [pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
package=build/sanitized/package
target=_native tests=(tests/test_native.py tests/test_native_fuzz.py tests/test_engines.py)
if [ "${1:-}" = cuda ]; then
    shift
    target=_simt tests=(tests/test_cuda_engine.py tests/test_device_canvas.py)
    export SIMT_LIBRARY=$PWD/build/sanitized/_simt.so
fi
rm -rf "$package" && mkdir -p "$package"
cp -r gamegen_env tests pyproject.toml "$package/"
cmake -S kernels -DGAMEGEN_CUDA=OFF -DGAMEGEN_SIMT=ON -B build/sanitized/build -DGAMEGEN_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/build/sanitized" > /dev/null
cmake --build build/sanitized/build --parallel 2 --target $target
if [ $target = _native ]; then
    rm -f "$package"/gamegen_env/engine/_native*.so
    cp build/sanitized/_native*.so "$package/gamegen_env/engine/"
else
    cp build/sanitized/_simt.*.so "$SIMT_LIBRARY"
fi
cd "$package"
export PYTHONPATH="$PWD" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# The interpreter itself leaks at exit.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)" \
    python - $target -q -p no:cacheprovider "${tests[@]}" "$@" << 'EOF'
import sys
from pathlib import Path

import pytest

if sys.argv.pop(1) == "_native":
    # An editable install finds its own package before it looks here.
    sys.meta_path = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
    from gamegen_env.engine import _native

    assert Path(_native.__file__).is_relative_to(Path.cwd()), f"expected the engine built here, got {_native.__file__}"
sys.exit(pytest.main(sys.argv[1:]))
EOF
