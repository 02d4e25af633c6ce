#!/usr/bin/env bash
# How assets/qwen2_5_omni_tiny is made: images, spoken words and timed clips, random weights, towers taught to see and to
# hear (torch), a language model taught to tell what and when (torch, then MindFormers' Trainer), back to Hugging Face's
# layout, the mean of the weights before and after the last stage, the test.
#   bash scripts/small_models/make_omni_model.sh [--quick] [FOLDER]
# works in FOLDER (build/omni_model), which must not exist; --quick goes through every stage in a few steps, and
# teaches nothing
set -euo pipefail
QUICK=
[[ ${1-} == --quick ]] && QUICK=1 && shift
WORK=${1:-build/omni_model}
source "$(dirname "$0")/../env.sh"
export GLOG_v=3 PYTHONUNBUFFERED=1
[[ -e $WORK ]] && { echo "error: $WORK already exists; remove it or give another folder" >&2; exit 2; }
mkdir -p "$WORK"
data=() towers=(--steps 1500) ears=(--steps 1000) language=(--steps 2100 --questions 10000) samples=1500
if [[ $QUICK ]]; then
    data=(--questions 12 4 --words 20 4 --clips 6 4) towers=(--steps 2) ears=(--steps 2)
    language=(--steps 2 --questions 12) samples=6
fi

python scripts/small_models/omni_data.py --output_path "$WORK/data" "${data[@]}"
python scripts/small_models/make_omni_small.py --output_path "$WORK/fresh"
python scripts/small_models/pretrain_towers.py vision --model "$WORK/fresh" --output_path "$WORK/seeing" \
    "${towers[@]}"
python scripts/small_models/pretrain_towers.py audio --model "$WORK/seeing" --data "$WORK/data" \
    --output_path "$WORK/hearing" "${ears[@]}"
python scripts/small_models/pretrain_language.py --model "$WORK/hearing" --data "$WORK/data" \
    --output_path "$WORK/telling" "${language[@]}"
files=train_dataset.data_loader.annotation_file
python run_mindformer.py --config configs/qwen2_5_omni/finetune_small.yaml --run_mode finetune \
    --load_checkpoint "$WORK/telling" --output_dir "$WORK/training" --train_dataset_dir "$WORK/data" \
    --num_samples "$samples" --options \
    "$files=[$WORK/data/train_questions.jsonl,$WORK/data/train_words.jsonl,$WORK/data/train_clips.jsonl]"
last=$(find "$WORK/training/checkpoint" -type d -name 'step_*' | sort | tail -1)
python convert/convert_weight.py --model qwen2_5_omni --reverse --dtype fp16 --config "$WORK/fresh" \
    --input_path "$last" --output_path "$WORK/trained/"
python scripts/small_models/average_weights.py --input_path "$WORK/telling" "$WORK/trained" --output_path "$WORK/model"
bash scripts/small_models/evaluate_omni.sh "$WORK/model" "$WORK/data" "$WORK/evaluation"
