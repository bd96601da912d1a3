#!/usr/bin/env bash
# Makes .venv from pyproject.toml; arguments go to `uv sync` (--group docs). Takes uv from the PATH, else installs it into
# .tools/; takes a Python 3.12 or 3.13 that is present, and lets uv fetch one only where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    local candidate
    for candidate in python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

find_uv() {
    if command -v uv >/dev/null 2>&1; then
        command -v uv
        return
    fi
    if [ ! -x .tools/bin/uv ]; then
        local any
        any=${1:-$(command -v python3 || true)}
        if [ -z "$any" ]; then
            echo "xp: neither uv nor Python is here. Install Python 3.12 (or uv) and type: make setup" >&2
            exit 1
        fi
        "$any" -m venv .tools >&2
        .tools/bin/python -m pip install --quiet --disable-pip-version-check uv >&2
    fi
    echo "$PWD/.tools/bin/uv"
}

python=$(find_python)
uv=$(find_uv "$python")
if [ -n "$python" ]; then
    export UV_PYTHON_DOWNLOADS=never
    "$uv" sync --quiet --python "$python" "$@"
else
    "$uv" sync --quiet --python 3.12 "$@"
fi
echo "xp: ready. Try .venv/bin/xp --help"
