#!/usr/bin/env bash
# Runs the tests with several versions: each line of VERSIONS has the versions of Python,
# TensorFlow and Keras, and optionally a constraints file. Then the first
# and the last exchange checkpoints. Environments are kept in .matrix. A version that
# cannot be installed is reported and skipped. With NEXT=1, only the line of NEXT_VERSIONS,
# which is not released yet, is run.
#
#   [NEXT=1] tests/matrix.sh [pytest's arguments]
set -uo pipefail
cd "$(dirname "$0")/.."
VERSIONS='
3.11 2.16.2 3.5.0
3.11 2.18.1 3.8.0
3.11 2.21.0 3.15.1
3.12 2.20.0 3.13.2 constraints-kaggle.txt
3.13 2.20.0 3.13.2 constraints-kaggle.txt
3.13 2.21.0 3.15.1
'
NEXT_VERSIONS='3.14 2.22.0rc0 3.15.1'
[[ -z ${NEXT:-} ]] || VERSIONS=$NEXT_VERSIONS
status=0
summary=''
pythons=()

# The upper bounds of TensorFlow and TensorBoard are left out. Pre-releases of TensorFlow
# also install keras-nightly, in the same folder as Keras. TensorFlow 2.16 has no NumPy 2,
# which Ray's PyArrow needs.
install() { # python venv keras packages
    local files=(requirements{,-dev,-cluster}.txt)
    [[ $4 != tensorflow==2.16.* ]] || unset 'files[2]'
    "python$1" -m venv "$2" &&
        "$2/bin/python" -m pip install --quiet "${@:4}" --requirement \
            <(sed -E '/^-r/d; s/^(tensor[a-z]+.*),<.*/\1/' "${files[@]}") &&
        "$2/bin/python" -m pip uninstall --quiet --yes keras-nightly &&
        "$2/bin/python" -m pip install --quiet --force-reinstall --no-deps "keras==$3"
}

while read -r python tensorflow keras constraints; do
    [[ -n $python ]] || continue
    name="python$python-tensorflow$tensorflow-keras$keras"
    if ! install "$python" ".matrix/$name" "$keras" "tensorflow==$tensorflow" \
        ${constraints:+--constraint "$constraints"}; then
        summary+="$name: NOT RUN, it could not be installed"$'\n'
        status=1
        continue
    fi
    pythons+=(".matrix/$name/bin/python")
    echo "== $name"
    result=$("${pythons[-1]}" -m pytest -q "$@" < /dev/null | tee >(cat >&2)) || status=1
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
