#!/usr/bin/env bash
# Runs the tests with several versions: each line of VERSIONS has the versions of Python,
# TensorFlow and Keras. Then the first and the last exchange checkpoints. Environments
# are kept in .matrix. A version that cannot be installed is reported and skipped.
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
pythons=()

install() { # python tensorflow keras venv
    local done="$4/.done"
    [[ $done -nt requirements.txt && $done -nt requirements-dev.txt ]] && return
    "python$1" -m venv "$4" &&
        "$4/bin/python" -m pip install --quiet --requirement requirements-dev.txt \
            "tensorflow==$2" "keras==$3" &&
        touch "$done"
}

while read -r python tensorflow keras; do
    [[ -n $python ]] || continue
    name="python$python-tensorflow$tensorflow-keras$keras"
    if ! install "$python" "$tensorflow" "$keras" ".matrix/$name"; then
        summary+="$name: NOT RUN, it could not be installed"$'\n'
        status=1
        continue
    fi
    pythons+=(".matrix/$name/bin/python")
    echo "== $name"
    result=$("${pythons[-1]}" -m pytest -q "$@" < /dev/null | tee /dev/stderr) || status=1
    summary+="$name: $(tail -n 1 <<< "$result")"$'\n'
done <<< "$VERSIONS"
if ((${#pythons[@]} > 1)); then
    echo "== checkpoints between ${pythons[0]} and ${pythons[-1]}"
    result=$(tests/exchange_checkpoints.sh "${pythons[0]}" "${pythons[-1]}") || status=1
    summary+="checkpoints: $result"$'\n'
fi
echo
printf '%s' "$summary"
exit $status
