# Sourced by the other scripts, or by you: makes the environment in .venv (or $VENV) once per state of pyproject.toml,
# activates it, and changes to the repository. Where that fails it returns 1; a shell that sourced it stays open.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}

make_environment() {
    local wanted stamp=$VENV/.made-for
    wanted=$(cat "$ROOT/pyproject.toml"; echo "$ROOT")
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    local python
    python=$(command -v python3.11) || { echo "error: python3.11 is not on PATH" >&2; return 1; }
    echo "Making the environment in $VENV (a few minutes, once) …"
    "$python" -m venv "$VENV" || return
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel || return
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[test]" || return
    echo "$wanted" >"$stamp"
}

make_environment || return 1
# shellcheck disable=SC1091
source "$VENV/bin/activate"
cd "$ROOT" || return 1
