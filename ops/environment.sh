# Sourced by the commands in this folder: a virtual environment in .venv with the project and its extras in it.

prepare_environment() { # the extras to install, with commas between them
  local extras=$1 python=${PYTHON:-python3} extra missing=no
  if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "Python 3.11 or newer is needed; PYTHON=/path/to/it names one" >&2; return 2; }
    echo "making .venv" >&2
    "$python" -m venv .venv || return 1
  fi
  # Installed once for each state of pyproject.toml; an editable install follows the sources by itself.
  for extra in ${extras//,/ }; do
    cmp -s pyproject.toml ".venv/installed-$extra" || missing=yes
  done
  if [ $missing = yes ]; then
    echo "installing flserver and what it needs (.[$extras]); torch is large: this can take minutes" >&2
    # A caller that handles the failure switches errexit off, and what is not installed must not be stamped.
    .venv/bin/python -m pip install --disable-pip-version-check --editable ".[$extras]" |
      { grep --line-buffered -v '^Requirement already satisfied' || true; } >&2 || return 1 # pipefail: pip's status
    for extra in ${extras//,/ }; do
      cp pyproject.toml ".venv/installed-$extra"
    done
  fi
}
