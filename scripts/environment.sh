# Sourced by part_*.sh: sets PYTHON, unless it is given, to the Python of an activated environment, or else to that of
# .venv, which `make` has made. (Conda activates its base by itself.)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" = base ] && [ -x .venv/bin/python ]; then
        PYTHON=.venv/bin/python
    fi
fi
if ! "$PYTHON" -c 'import sys, importlib.util as i; sys.exit(i.find_spec("torch") is None)' 2>/dev/null; then
    echo "error: $PYTHON has no PyTorch; run \`make .venv/ready\`, or activate an environment that has it" >&2
    exit 2
fi
