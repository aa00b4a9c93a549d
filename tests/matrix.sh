#!/usr/bin/env bash
# Runs the suite on several versions: each line of VERSIONS is a Python, TensorFlow,
# Keras. Environments stay in .matrix; a Python that is not there is told and left out.
#
#   tests/matrix.sh [pytest's arguments]
set -uo pipefail
cd "$(dirname "$0")/.."
VERSIONS='
3.11 2.16.2 3.5.0
3.11 2.18.1 3.8.0
3.11 2.21.0 3.15.1
3.12 2.20.0 3.13.2
3.13 2.21.0 3.15.1
'
status=0
summary=''
while read -r python tensorflow keras; do
    [[ -n $python ]] || continue
    name="python$python-tensorflow$tensorflow-keras$keras"
    venv=".matrix/$name"
    done="$venv/.done"
    if [[ ! $done -nt requirements.txt || ! $done -nt requirements-dev.txt ]]; then
        if ! "python$python" -m venv "$venv"; then
            summary+="$name: no python$python"$'\n'
            continue
        fi
        "$venv/bin/python" -m pip install --quiet --requirement requirements-dev.txt \
            "tensorflow==$tensorflow" "keras==$keras" || exit 1
        touch "$done"
    fi
    echo "== $name"
    if result=$("$venv/bin/python" -m pytest -q "$@" < /dev/null | tee /dev/stderr); then
        summary+="$name: $(tail -n 1 <<< "$result")"$'\n'
    else
        summary+="$name: FAILED: $(tail -n 1 <<< "$result")"$'\n'
        status=1
    fi
done <<< "$VERSIONS"
echo
printf '%s' "$summary"
exit $status
