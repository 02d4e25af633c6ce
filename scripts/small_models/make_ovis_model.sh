#!/usr/bin/env bash
# How assets/ovis2_5_tiny is made: images of shapes as conversations, random weights, a tower that is taught to see and
# a language model that begins to tell (torch_ref), the language model to the end (MindFormers' Trainer), back to
# Hugging Face's layout, the test.
#   bash scripts/small_models/make_ovis_model.sh [--quick] [FOLDER]
# works in FOLDER (build/ovis_model), which must not exist; --quick goes through every stage in a few steps, and
# teaches nothing
set -euo pipefail
QUICK=
[[ ${1-} == --quick ]] && QUICK=1 && shift
WORK=${1:-build/ovis_model}
source "$(dirname "$0")/../env.sh"
export GLOG_v=3
[[ -e $WORK ]] && { echo "error: $WORK already exists; remove it or give another folder" >&2; exit 2; }
mkdir -p "$WORK"
data=() few=() fewer=() evaluated=()
if [[ $QUICK ]]; then
    data=(--images 8 4 --scenes 8 4) few=(--steps 2 --batch_size 4) fewer=(--num_samples 40)
    evaluated=(eval_dataset.questions.data_loader.num_samples=4)
fi

python scripts/small_models/ovis_data.py --output_path "$WORK/data" --mixed "${data[@]}"
python scripts/small_models/ovis_vocabulary.py --output_path "$WORK/vocabulary"
python scripts/small_models/make_tiny.py --model ovis2_5 --config configs/ovis2_5/tiny_easyvqa \
    --vocabulary "$WORK/vocabulary" --output_path "$WORK/fresh"
python scripts/small_models/pretrain_ovis.py --model "$WORK/fresh" --output_path "$WORK/seeing" "${few[@]}"
python scripts/small_models/train_ovis_language.py --model "$WORK/seeing" --data "$WORK/data" \
    --output_path "$WORK/telling" "${few[@]}"
python run_mindformer.py --config configs/ovis2_5/finetune_tiny_easyvqa.yaml --run_mode finetune \
    --load_checkpoint "$WORK/telling" --output_dir "$WORK/training" \
    --train_dataset.data_loader.annotation_file "$WORK/data/train.json" --train_dataset_dir "$WORK/data" "${fewer[@]}"
last=$(find "$WORK/training/checkpoint" -type d -name 'step_*' | sort | tail -1)
python convert/convert_weight.py --model ovis2_5 --reverse --dtype fp16 --config "$WORK/fresh" \
    --input_path "$last" --output_path "$WORK/model/"
options=()
for name in questions boxes counts counts_half_budget; do
    options+=("eval_dataset.$name.data_loader.annotation_file=$WORK/data/test_${name%_half_budget}.json"
              "eval_dataset.$name.dataset_dir=$WORK/data")
done
python run_mindformer.py --config configs/ovis2_5/eval_tiny.yaml --load_checkpoint "$WORK/model" \
    --output_dir "$WORK/evaluation" --options "${options[@]}" "${evaluated[@]}"
