#!/usr/bin/env bash
# The published recipe with the combination of docs/learning.md.
#
#   recipes/modern.sh DATA OUT [FLAGS]
#   recipes/modern.sh --smoke OUT [FLAGS]
#
# The arguments, the data, the steps and the result are those of published_baseline.sh.
# The hyperparameters were found on a small data set with clean and with noisy labels,
# and steps of 32 examples. The full recipe was not run.
set -euo pipefail

hparams=lr=2e-3,bndecay=0.9,frontend=pcen,freq_masks=1,time_masks=1,cosine=1,warmup_steps=200
if [[ ${1:-} == --smoke ]]; then # It has four steps.
  hparams=${hparams/warmup_steps=200/warmup_steps=2}
fi
export NOISY_HPARAMS=$hparams CURATED_HPARAMS=$hparams
exec "$(dirname "$0")/published_baseline.sh" "$@"
