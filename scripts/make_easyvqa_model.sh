#!/usr/bin/env bash
# How assets/qwenvl_tiny_easyvqa is made: easy-VQA as conversations, random weights, two trainings of all modules through
# MindFormers' Trainer (where the shape is; then questions of every kind), back to Hugging Face's layout, the test.
#   bash scripts/make_easyvqa_model.sh [FOLDER]      works in FOLDER (build/easyvqa_model), which must not exist
set -euo pipefail
WORK=${1:-build/easyvqa_model}
source "$(dirname "$0")/env.sh"
export GLOG_v=3 OMP_NUM_THREADS=1
[[ -e $WORK ]] && { echo "error: $WORK already exists; remove it or give another folder" >&2; exit 2; }
mkdir -p "$WORK"

# train STAGE WEIGHTS CONVERSATIONS TOKENS EPOCHS RATE: leaves the weights as $WORK/STAGE.ckpt.
train() {
    python run_mindformer.py --config configs/qwenvl/finetune_tiny_easyvqa.yaml --run_mode finetune \
        --load_checkpoint "$2" --output_dir "$WORK/$1" \
        --train_dataset.data_loader.annotation_file "$WORK/data/$3.json" --train_dataset_dir "$WORK/data/images" \
        --train_dataset.modal_to_text_transform.max_length "$4" \
        --model.model_config.config_file "$WORK/fresh/config.json" \
        --train_dataset.tokenizer.vocab_file "$WORK/fresh/qwen.tiktoken" \
        --epochs "$5" --batch_size 8 --lr_schedule.learning_rate "$6"
    local last
    last=$(find "$WORK/$1/checkpoint_network" -name '*.ckpt' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
    mv "$last" "$WORK/$1.ckpt"
}

python scripts/easyvqa_data.py --output_path "$WORK/data"
python scripts/make_tiny.py --output_path "$WORK/fresh"
train places "$WORK/fresh" pretrain 224 4 8.0e-4
train questions "$WORK/places.ckpt" train 352 2 8.0e-4
python convert/convert_weight.py --model qwenvl --reverse --dtype fp16 --config "$WORK/fresh" \
    --input_path "$WORK/questions.ckpt" --output_path "$WORK/model/"
python scripts/evaluate_easyvqa.py --model "$WORK/model"
