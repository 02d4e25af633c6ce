#!/usr/bin/env bash
# How assets/qwenvl_tiny_easyvqa is made: easy-VQA as conversations, random weights, a vision tower taught to see
# (torch_ref), a language model taught to tell (MindFormers' Trainer), back to Hugging Face's layout, the test.
#   bash scripts/small_models/make_easyvqa_model.sh [FOLDER]
# works in FOLDER (build/easyvqa_model), which must not exist
set -euo pipefail
WORK=${1:-build/easyvqa_model}
source "$(dirname "$0")/../env.sh"
export GLOG_v=3
[[ -e $WORK ]] && { echo "error: $WORK already exists; remove it or give another folder" >&2; exit 2; }
mkdir -p "$WORK"

python scripts/small_models/easyvqa_data.py --output_path "$WORK/data"
python scripts/small_models/make_tiny.py --output_path "$WORK/fresh"
python scripts/small_models/pretrain_vision.py --model "$WORK/fresh" --output_path "$WORK/looking" \
    --steps 3000 --learning_rate 1.5e-3
python scripts/small_models/pretrain_vision.py --model "$WORK/looking" --output_path "$WORK/seeing" \
    --steps 3500 --learning_rate 1.2e-3
python run_mindformer.py --config configs/qwenvl/finetune_tiny_easyvqa.yaml --run_mode finetune \
    --load_checkpoint "$WORK/seeing" --output_dir "$WORK/training" \
    --train_dataset.data_loader.annotation_file "$WORK/data/train.json" --train_dataset_dir "$WORK/data/images"
last=$(find "$WORK/training/checkpoint" -type d -name 'step_*' | sort | tail -1)
python convert/convert_weight.py --model qwenvl --reverse --dtype fp16 --config "$WORK/fresh" \
    --input_path "$last" --output_path "$WORK/model/"
python run_mindformer.py --config configs/qwenvl/eval_tiny_easyvqa.yaml \
    --load_checkpoint "$WORK/model" --output_dir "$WORK/evaluation" --options \
    "eval_dataset.questions.data_loader.annotation_file=$WORK/data/test_questions.json" \
    "eval_dataset.boxes.data_loader.annotation_file=$WORK/data/test_boxes.json" \
    "eval_dataset.questions.dataset_dir=$WORK/data/images" "eval_dataset.boxes.dataset_dir=$WORK/data/images"
