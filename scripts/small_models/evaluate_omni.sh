#!/usr/bin/env bash
# The evaluation of the small Omni, configs/qwen2_5_omni/eval_tiny.yaml, with a model and data that lie elsewhere:
#   bash scripts/small_models/evaluate_omni.sh MODEL DATA OUTPUT [KEY=VALUE …]
set -euo pipefail
MODEL=$1 DATA=$2 OUTPUT=$3
shift 3
options=()
for name in questions words clips long_clips long_clips_without_true_time; do
    options+=("eval_dataset.$name.data_loader.annotation_file=$DATA/test_${name%_without_true_time}.jsonl"
        "eval_dataset.$name.dataset_dir=$DATA")
done
python run_mindformer.py --config configs/qwen2_5_omni/eval_tiny.yaml --load_checkpoint "$MODEL" \
    --output_dir "$OUTPUT" --options "${options[@]}" "$@"
