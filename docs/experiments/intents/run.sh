#!/usr/bin/env bash
# SmolLM2-135M-Instruct on CLINC150, HWU64 and SNIPS: a large model fine-tuned on all rows, two more on half of them each so
# that the mask says something (cross-fitting), then the small one with xent, cat-xent and cat-dist under the same budget.
#
#   docs/experiments/intents/run.sh CHECKPOINT DATA OUT
#
# CHECKPOINT: folder of SmolLM2-135M-Instruct as Hugging Face transformers lays it out. DATA: folder with
# clinc150/, hwu64/ and snips/, each with train.jsonl, validation.jsonl and test.jsonl as trainer/DATA.md describes them.
# STEPS, LARGE_STEPS, SMALL_LAYERS, LARGE_LAYERS, SEEDS, ROWS, TRAIN_CAP and TEST_CAP make it shorter. Every part goes on where it was stopped.
set -euo pipefail
checkpoint=$1 data=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
margay=${MARGAY:-target/release/margay}
steps=${STEPS:-1500} large_steps=${LARGE_STEPS:-3000} layers=${SMALL_LAYERS:-10} large_layers=${LARGE_LAYERS:-30} seeds=${SEEDS:-3} rows=${ROWS:-200}
train_cap=${TRAIN_CAP:-100000} test_cap=${TEST_CAP:-100000}
sets=(clinc150 hwu64 snips)

common=(--set "model.checkpoint=$checkpoint" --set "evaluation.rows=$rows")
for at in 0 1 2; do
    common+=(--set "data.train.$at.path=$data/${sets[at]}/train.jsonl" --set "data.train.$at.cap=$train_cap")
    common+=(--set "data.evaluation.$at.path=$data/${sets[at]}/validation.jsonl")
done

large() { # NAME [more settings]
    local name=$1
    shift
    [ -e "$out/$name/model/model.safetensors" ] && return
    "$margay" train "$here/large.toml" --resume "${common[@]}" --set "out=$out/$name" --set "model.first_layers=$large_layers" \
        --set "training.steps=$large_steps" "$@"
}
large large
large large-0 --set "data.leave_out={fold=0,of=2}"
large large-1 --set "data.leave_out={fold=1,of=2}"

for at in 0 1 2; do
    common+=(--set "data.test.$at.path=$data/${sets[at]}/test.jsonl" --set "data.test.$at.cap=$test_cap")
done
"$margay" train "$here/small.toml" --compare xent,cat-xent,cat-dist --seeds "$seeds" "${common[@]}" \
    --set "out=$out/small" --set "model.first_layers=$layers" --set "training.steps=$steps" \
    --set "large.annotations=$out/large.annotations" --set "large.checkpoint=$out/large/model" \
    --set "large.cross_fit=[\"$out/large-0/model\", \"$out/large-1/model\"]"
