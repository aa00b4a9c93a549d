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
# A tenth of the curated clips is held out. Every tenth checkpoint is evaluated on them
# during the training; see OUT/*/eval and OUT/*-eval.log. VALIDATION=0.2 holds out a
# fifth. With VALIDATION=0, training uses the whole curated set, as that of the original
# did, and nothing is evaluated.
# If DATA has the labels of the test clips, test_post_competition.csv, the script ends
# with the lwlrap of submission.csv. TEST_WHERE=usage=Private scores only these clips.
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
evaluate_every=10
batch_size=64
validation=${VALIDATION:-0.1}
noisy_hparams=${NOISY_HPARAMS:-lr=1e-4,dropout=0.8,lsmooth=0.3,global_pool=max}
curated_hparams=${CURATED_HPARAMS:-lr=3e-3,lrdecay=0.94,dropout=0.6,lsmooth=0.1,global_pool=max}

if [[ $data == --smoke ]]; then
  data=$out/data
  noisy_steps=4
  curated_steps=4
  checkpoint_steps=2
  evaluate_every=1
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

export PYTHONPATH=$here
curated_csv=$data/train_curated.csv
if [[ $validation != 0 ]]; then
  "$python" -m tools.make_validation_split "$curated_csv" --out_dir "$out/splits" \
    --fraction "$validation"
  curated_csv=$out/splits/train_curated_train.csv
fi

# Trains in $out/NAME with the given flags, and evaluates.
train() {
  local name=$1
  shift
  local evaluate=("$python" "$here/runner.py" --mode eval --class_map_path "$class_map"
    --eval_clip_dir "$data/train_curated"
    --eval_csv_path "$out/splits/train_curated_validation.csv"
    --train_dir "$out/$name" --eval_dir "$out/$name/eval"
    --eval_every_k "$evaluate_every")
  if [[ $validation != 0 ]]; then
    "${evaluate[@]}" --eval_timeout_secs -1 >"$out/$name-eval.log" 2>&1 &
    trap "kill $! 2>/dev/null || true" EXIT
  fi
  "$python" "$here/runner.py" --mode train --class_map_path "$class_map" \
    --checkpoint_steps "$checkpoint_steps" --seed 1 --train_dir "$out/$name" "$@"
  if [[ $validation != 0 ]]; then
    kill $! && wait $! || true
    "${evaluate[@]}" --eval_timeout_secs 0
  fi
}

echo "Noisy set" >&2
train noisy \
  --train_clip_dir "$data/train_noisy" \
  --train_csv_path "$data/train_noisy.csv" \
  --max_steps "$noisy_steps" \
  --hparams "batch_size=$batch_size,$noisy_hparams" \
  "${@:3}"

echo "Curated set, from the weights of the noisy run" >&2
train curated \
  --train_clip_dir "$data/train_curated" \
  --train_csv_path "$curated_csv" \
  --max_steps "$curated_steps" \
  --warmstart_checkpoint "$out/noisy" \
  --hparams "batch_size=$batch_size,$curated_hparams,warmstart=1" \
  "${@:3}"

"$python" "$here/runner.py" --mode inference --class_map_path "$class_map" \
  --inference_clip_dir "$data/test" \
  --inference_checkpoint "$out/curated" \
  --predictions_csv_path "$out/submission.csv"

labels=$data/test_post_competition.csv
if [[ -e $labels ]]; then
  "$python" -m tools.score "$out/submission.csv" "$labels" \
    --class_map_path "$class_map" ${TEST_WHERE:+--where "$TEST_WHERE"}
fi
