#!/usr/bin/env bash
# Measures the effect of the two stages of the published recipe on a small data set.
#
#   recipes/noisy_then_clean.sh DATA OUT
#
# DATA has audio/, class_map.csv, train2.csv and val2.csv, for example ESC-10 without
# fold 2, and fold 2. Three runs are evaluated on val2.csv: with noisy labels, of which a
# third were replaced at random; with the clean labels, warm-started from the first run;
# and with only the clean labels, for as many steps as the second run and as both runs.
set -euo pipefail

if [[ $# -ne 2 ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 1
fi
data=$1
out=$2
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
noisy_steps=${NOISY_STEPS:-400}
clean_steps=${CLEAN_STEPS:-300}
mkdir -p "$out"
: >"$out/results.txt"

"$python" - "$data" "$out/train2_noisy.csv" <<'PYTHON'
import csv, pathlib, random, sys

data, noisy = pathlib.Path(sys.argv[1]), sys.argv[2]
names = [name for _, name in csv.reader((data / "class_map.csv").open())]
header, *rows = csv.reader((data / "train2.csv").open())
draw = random.Random(0)
for row in draw.sample(rows, len(rows) // 3):
    row[1] = draw.choice([name for name in names if name != row[1]])
csv.writer(open(noisy, "w", newline="")).writerows([header, *rows])
PYTHON

# Every run resets the moving averages of batch norm, so short runs need a faster decay
# than the default.
common=batch_size=32,bndecay=0.97,global_pool=max
second_stage=lr=3e-3,lrdecay=0.94,dropout=0.6,lsmooth=0.1

run() {
  local name=$1 steps=$2 csv=$3 hparams=$4
  shift 4
  local started=$SECONDS
  "$python" "$here/runner.py" --mode train --class_map_path "$data/class_map.csv" \
    --train_clip_dir "$data/audio" --train_csv_path "$csv" \
    --train_dir "$out/$name" --max_steps "$steps" --checkpoint_steps "$clean_steps" \
    --hparams "$hparams" --seed 1 "$@"
  local minutes=$(((SECONDS - started + 30) / 60))
  "$python" "$here/runner.py" --mode eval --class_map_path "$data/class_map.csv" \
    --eval_clip_dir "$data/audio" --eval_csv_path "$data/val2.csv" \
    --train_dir "$out/$name" --eval_dir "$out/$name/eval" --eval_timeout_secs 0
  echo "$name: $steps steps, $minutes min" >>"$out/results.txt"
  (cd "$out/$name/eval" && grep Overall eval-*.txt | sort -V) >>"$out/results.txt"
}

run noisy "$noisy_steps" "$out/train2_noisy.csv" \
  "$common,lr=1e-3,dropout=0.8,lsmooth=0.3"
run noisy_then_clean "$clean_steps" "$data/train2.csv" \
  "$common,$second_stage,warmstart=1" \
  --warmstart_checkpoint "$out/noisy/model.ckpt-$noisy_steps"
run clean_alone "$((noisy_steps + clean_steps))" "$data/train2.csv" "$common,$second_stage"
cat "$out/results.txt"
