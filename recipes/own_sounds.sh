#!/usr/bin/env bash
# Trains a tagger on recordings of your own, and tags one of them.
#
#   recipes/own_sounds.sh SOUNDS OUT
#   recipes/own_sounds.sh SOUNDS OUT --yamnet DIR
#
# SOUNDS has one sub-folder per class; see docs/own-recordings.md. OUT is a new folder.
# DIR is a folder that tools.import_yamnet has written. With it, only the last layer of
# YAMNet is replaced, which is faster, and better for few recordings.
#
# Environment variables: STEPS, the number of training steps, without --yamnet; FRACTION,
# the share of the recordings for validation (0.1; with fewer than about 100 recordings,
# use 0.2).
set -euo pipefail

if [[ $# -ne 2 && ! ($# -eq 4 && $3 == --yamnet) ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 1
fi
sounds=$(realpath "$1")
out=$(realpath -m "$2")
if [[ -e $out/run ]]; then
  echo "error: $out/run exists; choose a new folder" >&2
  exit 1
fi
train=(runner.py --mode train
  --hparams lr=1e-3,batch_size=32,bndecay=0.9 --max_steps 1000
  ${STEPS:+--max_steps "$STEPS"})
if [[ $# -eq 4 ]]; then
  train=(-m tools.fit_last_layer --checkpoint "$(realpath "$4")")
fi
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}

"$python" -m tools.make_dataset "$sounds" "$out/data" --clip_seconds 10
"$python" -m tools.make_validation_split "$out/data/clips.csv" --out_dir "$out/data" \
  --group_by recording --fraction "${FRACTION:-0.1}"
"$python" "${train[@]}" --class_map_path "$out/data/class_map.csv" \
  --train_clip_dir "$out/data/audio" --train_csv_path "$out/data/clips_train.csv" \
  --train_dir "$out/run"
"$python" runner.py --mode eval --class_map_path "$out/data/class_map.csv" \
  --eval_clip_dir "$out/data/audio" --eval_csv_path "$out/data/clips_validation.csv" \
  --train_dir "$out/run" --eval_dir "$out/run/eval" --eval_timeout_secs 0
"$python" -m tools.report "$out/run/eval" --clip_dir "$out/data/audio"
first=$("$python" -c 'import csv, sys; print(next(csv.DictReader(sys.stdin))["recording"])' \
  <"$out/data/clips.csv")
"$python" -m tools.tag "best:$out/run/eval" "$sounds/$first" \
  --thresholds "$out/run/eval/thresholds.csv"
