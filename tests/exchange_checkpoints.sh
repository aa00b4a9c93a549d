#!/usr/bin/env bash
# Two Pythons exchange checkpoints: each trains, then both score and the other resumes.
#
#   tests/exchange_checkpoints.sh PYTHON PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" -m tools.make_demo_data "$work/data" > /dev/null
"$1" make_class_map.py < "$work/data/train_curated.csv" > "$work/class_map.csv"

run() { # python mode flags
    "$1" runner.py --mode "$2" --class_map_path "$work/class_map.csv" "${@:3}" \
        >> "$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
}

train() { # python train_dir max_steps
    run "$1" train --train_clip_dir "$work/data/train_curated" \
        --train_csv_path "$work/data/train_curated.csv" --train_dir "$2" \
        --hparams batch_size=8,lr=1e-3,bndecay=0.8 --max_steps "$3" --seed 1
}

score() { # python checkpoint csv
    run "$1" inference --inference_clip_dir "$work/data/test" \
        --inference_checkpoint "$2" --predictions_csv_path "$3"
}

for pair in "$1 $2" "$2 $1"; do
    read -r trainer other <<< "$pair"
    rm -rf "$work/run"
    train "$trainer" "$work/run" 2
    for python in "$trainer" "$other"; do
        score "$python" "$work/run/model.ckpt-2" "$work/${python//\//_}.csv"
    done
    train "$other" "$work/run" 3
    grep -q "resuming from $work/run/model.ckpt-2" "$work/log"
    "$1" - "$work/${trainer//\//_}.csv" "$work/${other//\//_}.csv" << 'END'
import csv, sys
import numpy as np
one, other = (
    np.array([row[1:] for row in csv.reader(open(path))][1:], float)
    for path in sys.argv[1:]
)
difference = np.abs(one - other).max()
if difference > 1e-6:
    sys.exit(f"scores differ by {difference}")
print(f"{one.shape[0]} clips, scores differ by at most {difference:.1g}; ", end="")
END
done
echo "each resumes from the other's checkpoints"
