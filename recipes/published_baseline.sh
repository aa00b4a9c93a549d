#!/usr/bin/env bash
# Trains the published baseline on the noisy set, then on the curated set, and predicts.
#
#   recipes/published_baseline.sh DATA OUT [FLAGS]      the full recipe: many hours
#   recipes/published_baseline.sh --smoke OUT [FLAGS]   a few steps on synthetic clips
#
# DATA has the unzipped data set: train_noisy.csv, train_noisy/, train_curated.csv,
# train_curated/ and test/. OUT gets all checkpoints and submission.csv. Run the script
# again after a stop to resume. FLAGS are further flags of `runner.py --mode train`.
#
# PYTHON=... selects another Python than the one in .venv, which `make` creates.
# NOISY_HPARAMS=... and CURATED_HPARAMS=... replace the hyperparameters of the two runs,
# except batch_size and warmstart.
# On a Tesla V100 the original took about 3 hours for the noisy set and 5 for the
# curated set, and reached an lwlrap of 0.546 on the whole test set.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  [[ ${1:-} == --help ]] && exit 0
  exit 1
fi
data=$1
out=$2
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
# bash runs this after the current program has ended, so its checkpoint is saved.
trap 'exit 143' TERM
class_map=$here/class_map.csv

# Noisy set: 10 epochs of 9,148 batches. Curated set: 100 epochs of 1,217 batches.
noisy_steps=91480
curated_steps=121700
checkpoint_steps=1000 # 40 MB each: 9 GB in all
batch_size=64
noisy_hparams=${NOISY_HPARAMS:-lr=1e-4,dropout=0.8,lsmooth=0.3,global_pool=max}
curated_hparams=${CURATED_HPARAMS:-lr=3e-3,lrdecay=0.94,dropout=0.6,lsmooth=0.1,global_pool=max}

if [[ $data == --smoke ]]; then
  data=$out/data
  noisy_steps=4
  curated_steps=4
  checkpoint_steps=2
  batch_size=4
  PYTHONPATH=$here "$python" -m tools.make_demo_data "$data"
  rm -rf "$data/train_noisy"
  cp -r "$data/train_curated" "$data/train_noisy"
  cp "$data/train_curated.csv" "$data/train_noisy.csv"
fi

for path in train_noisy train_noisy.csv train_curated train_curated.csv test; do
  if [[ ! -e $data/$path ]]; then
    echo "error: there is no $data/$path" >&2
    missing=1
  fi
done
[[ -z ${missing:-} ]] || exit 1

train() {
  "$python" "$here/runner.py" --mode train --class_map_path "$class_map" \
    --checkpoint_steps "$checkpoint_steps" --seed 1 "$@"
}

echo "Noisy set" >&2
train \
  --train_clip_dir "$data/train_noisy" \
  --train_csv_path "$data/train_noisy.csv" \
  --train_dir "$out/noisy" \
  --max_steps "$noisy_steps" \
  --hparams "batch_size=$batch_size,$noisy_hparams" \
  "${@:3}"

echo "Curated set, from the weights of the noisy run" >&2
train \
  --train_clip_dir "$data/train_curated" \
  --train_csv_path "$data/train_curated.csv" \
  --train_dir "$out/curated" \
  --max_steps "$curated_steps" \
  --warmstart_checkpoint "$out/noisy" \
  --hparams "batch_size=$batch_size,$curated_hparams,warmstart=1" \
  "${@:3}"

"$python" "$here/runner.py" --mode inference --class_map_path "$class_map" \
  --inference_clip_dir "$data/test" \
  --inference_checkpoint "$out/curated" \
  --predictions_csv_path "$out/submission.csv"
