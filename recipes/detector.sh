#!/usr/bin/env bash
# Makes a detector of sounds from annotated recordings, and applies it to one of them.
#
#   recipes/detector.sh RECORDINGS ANNOTATIONS OUT --yamnet DIR [--background DIR]
#   recipes/detector.sh RECORDINGS ANNOTATIONS OUT [--background DIR]
#
# See docs/detecting.md. RECORDINGS is a folder, and ANNOTATIONS a file or folder with
# the times of the sounds in them; it may be the same folder. OUT is a new folder. With
# --yamnet, the detector uses the embeddings of YAMNet, from a folder that
# tools.import_yamnet has written, and is made in minutes. Otherwise, a network is first
# trained from scratch, which needs hours of recordings. --background is a folder of
# recordings in which none of the sounds is heard.
#
# Environment variables: PRECISION, the wanted precision of the detections, instead of
# the highest F1; STEPS, the number of training steps from scratch (1000); CLIP_SECONDS
# (60), which must divide the recordings into at least five clips.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 1
}
[[ $# -ge 3 ]] || usage
recordings=$(realpath "$1")
annotations=$(realpath "$2")
out=$(realpath -m "$3")
shift 3
checkpoint=
background=()
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || usage
  case $1 in
    --yamnet) checkpoint=$(realpath "$2") ;;
    --background) background=(--background "$(realpath "$2")") ;;
    *) usage ;;
  esac
  shift 2
done
if [[ -e $out/run ]]; then
  echo "error: $out/run exists; choose a new folder" >&2
  exit 1
fi
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}

"$python" -m tools.make_dataset "$recordings" "$out/data" --annotations "$annotations" \
  "${background[@]}" --clip_seconds "${CLIP_SECONDS:-60}"
if [[ -z $checkpoint ]]; then
  checkpoint=$out/scratch
  "$python" -m tools.make_dataset "$recordings" "$out/short" \
    --annotations "$annotations" "${background[@]}"
  "$python" runner.py --mode train --model yamnet --class_map_path "$out/short/class_map.csv" \
    --train_clip_dir "$out/short/audio" --train_csv_path "$out/short/clips.csv" \
    --train_dir "$checkpoint" --hparams lr=1e-3,batch_size=32,bndecay=0.9 \
    --max_steps "${STEPS:-1000}"
fi
"$python" -m tools.fit_last_layer --checkpoint "$checkpoint" \
  --class_map_path "$out/data/class_map.csv" --train_clip_dir "$out/data/audio" \
  --train_csv_path "$out/data/clips.csv" --events "$out/data/events.csv" \
  --train_dir "$out/run" --eval_dir "$out/run/eval" \
  --thresholds "$out/thresholds.csv" ${PRECISION:+--precision "$PRECISION"} \
  --hparams example_hop_seconds=0.24
first=$("$python" -c 'import csv, sys; print(next(csv.DictReader(sys.stdin))["recording"])' \
  <"$out/data/clips.csv")
"$python" -m tools.tag "best:$out/run/eval" --thresholds "$out/thresholds.csv" \
  --segments "$out/detections.csv" --audacity "$out/labels" "$recordings/$first"
