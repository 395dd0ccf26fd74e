#!/usr/bin/env bash
# Everything that a fresh Debian 12, Debian 13 or Ubuntu 24.04 needs, in two commands:
#
#   ./do example    install what is missing, build the example firmware, boot it in QEMU
#   ./do tests      install what is missing, then lint, type check, the example, all tests
#
# PYTHON=python3.12 ./do ... chooses the interpreter. Nothing is installed outside of apt and .venv in this folder.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
    sed -n '2,8s/^# \{0,1\}//p' do
    exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

has_newlib() { has arm-none-eabi-gcc && [ -e "$(arm-none-eabi-gcc -print-file-name=nano.specs)" ]; }

has_host_c() { has gcc && echo '#include <stdint.h>' | gcc -xc -fsyntax-only - 2>/dev/null; }

python_version_fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# One Debian package a line, for what is not there.
missing_packages() {
    has arm-none-eabi-gcc || echo gcc-arm-none-eabi
    has_newlib || echo libnewlib-arm-none-eabi
    has qemu-system-arm || echo qemu-system-arm
    has "$python" || echo python3
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    if [ "$1" = tests ]; then
        has_host_c || printf '%s\n' gcc libc6-dev
        has clang || echo clang
        has cppcheck || echo cppcheck
    fi
}

install_packages() {
    local line="apt-get install -y --no-install-recommends $*"
    local root=()
    echo "not there yet, from apt: $*"
    if [ "$(id -u)" != 0 ]; then
        # Without a terminal sudo cannot ask for a password.
        if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            root=(sudo)
        else
            echo "this needs root; run: apt-get update && $line"
            exit 1
        fi
    fi
    if ! has apt-get; then
        echo "there is no apt-get here; install what Debian calls: $*"
        exit 1
    fi
    # A source that is out of reach is no reason to stop: apt may know the packages already.
    "${root[@]}" apt-get update -qq || true
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive $line
}

# .venv with nnbuild (editable) and the extra `$1` of pyproject.toml ("" or "[test]"). Nothing is done where the stamp
# names this folder, this pyproject.toml and enough extras; a venv of another folder does not work and is made anew.
install_python() {
    local extra=$1 stamp=.venv/nnbuild.installed project
    project="$(cksum <pyproject.toml)"
    if [ ! -x .venv/bin/python ] || ! grep -qsxF "folder $PWD" "$stamp"; then
        if ! python_version_fits "$python"; then
            echo "$python is older than 3.11; set PYTHON to a newer one, e.g. PYTHON=python3.12 ./do example"
            exit 1
        fi
        "$python" -m venv --clear .venv
        echo "folder $PWD" >"$stamp"
    fi
    if ! grep -qxF -e "$project $extra" -e "$project [test]" "$stamp"; then
        echo "not there yet, into .venv: nnbuild$extra"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$extra"
        echo "$project $extra" >>"$stamp"
    fi
}

# CMSIS-NN, which the tests use where it is found; without network they go on without it.
fetch_cmsis_nn() {
    local reason
    .venv/bin/python -m nnbuild cmsis-nn >/dev/null 2>&1 && return
    reason=$(.venv/bin/python -m nnbuild cmsis-nn --fetch 2>&1 >/dev/null) ||
        echo "tests of CMSIS-NN are left out, there is none here: ${reason%%; hint:*}"
}

example() {
    .venv/bin/python -m SCons -C example_firmware -Q nn-size run
}

# Every step runs, so that one look shows all that is wrong.
tests() {
    local failed=""
    step() {
        echo "== $1"
        "${@:2}" || failed="$failed $1"
    }
    fetch_cmsis_nn
    step example example
    step ruff .venv/bin/python -m ruff check .
    step mypy .venv/bin/python -m mypy --strict nnbuild tests benchmarks example_firmware/tools
    step pytest .venv/bin/python -m pytest
    [ -z "$failed" ] || { echo "failed:$failed"; return 1; }
}

[ $# = 1 ] || usage
python=${PYTHON:-python3}
case $1 in
    example) extra="" ;;
    tests) extra="[test]" ;;
    *) usage ;;
esac
echo "./do $1 uses: gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm$([ "$1" = example ] || echo ", gcc, clang, cppcheck"), python3-venv from apt;"
echo "nnbuild with scons, numpy, onnx, jinja2, onnxruntime, pyelftools$([ "$1" = example ] || echo ", pytest, hypothesis, ruff, mypy") in .venv."
packages=$(missing_packages "$1")
# shellcheck disable=SC2086  # a list of words
[ -z "$packages" ] || install_packages $packages
install_python "$extra"
"$1"
