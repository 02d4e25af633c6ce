#!/usr/bin/env bash
# From a bare machine with Python 3.11 to a question answered, a box drawn and a fine-tune on two workers.
# Each step is done once: what it made stands in build/quickstart, and a later run only shows it again. Remove that folder
# to start over.
set -euo pipefail
source "$(dirname "$0")/env.sh"
export GLOG_v=3 PYTHONUNBUFFERED=1

MODEL=assets/qwenvl_tiny_easyvqa
OUT=build/quickstart
IMAGES=$OUT/easyvqa/images
mkdir -p "$OUT"

# step NAME TITLE COMMAND…: run the command once, and keep what it printed.
step() {
    local name=$1 title=$2
    shift 2
    echo
    echo "== $title"
    if [[ -f $OUT/$name.done ]]; then
        cat "$OUT/$name.done"
        return
    fi
    echo "\$ $*" >"$OUT/$name.log"
    if ! "$@" 2>&1 | tee -a "$OUT/$name.log"; then
        echo "error: this step failed; all it printed is in $OUT/$name.log" >&2
        exit 1
    fi
    mv "$OUT/$name.log" "$OUT/$name.done"
}

fine_tune() {
    local log=$OUT/finetune.txt port
    port=$(python -c 'import socket; probe = socket.socket(); probe.bind(("127.0.0.1", 0)); print(probe.getsockname()[1])')
    echo "(all that it prints goes to $log)"
    bash scripts/msrun_launcher.sh "run_mindformer.py --config configs/qwenvl/finetune_tiny_easyvqa.yaml \
        --run_mode finetune --use_parallel True --load_checkpoint $OUT/fresh --output_dir $OUT/finetune \
        --train_dataset.data_loader.annotation_file $OUT/easyvqa/train.json --train_dataset_dir $IMAGES \
        --train_dataset.packing True --train_dataset.modal_to_text_transform.max_length 512 \
        --callbacks '[{type: MFLossMonitor}, {type: LossRecorder}, {type: CheckpointMonitor}]' \
        --num_samples 480 --epochs 1 --batch_size 4" 2 "$port" "$OUT/finetune/msrun_log" True 300 >"$log" 2>&1 ||
        { tail -n 40 "$log"; return 1; }
    grep '^step ' "$log" | sed -n -e '1p' -e '$p'
    python scripts/plot_run.py "$OUT/finetune" --output_path "$OUT/run.png"
}

evaluate() {
    local log=$OUT/evaluate.txt questions=eval_dataset.questions boxes=eval_dataset.boxes
    python run_mindformer.py --config configs/qwenvl/eval_tiny_easyvqa.yaml --load_checkpoint "$MODEL" \
        --output_dir "$OUT/evaluation" --options \
        "$questions.data_loader.annotation_file=$OUT/easyvqa/test_questions.json" "$questions.dataset_dir=$IMAGES" \
        "$boxes.data_loader.annotation_file=$OUT/easyvqa/test_boxes.json" "$boxes.dataset_dir=$IMAGES" \
        "$questions.data_loader.num_samples=500" "$boxes.data_loader.num_samples=50" >"$log" 2>&1 ||
        { tail -n 40 "$log"; return 1; }
    sed -n '/^data set /,$p' "$log"
}

step data "Images and conversations of easy-VQA" \
    python scripts/easyvqa_data.py --output_path "$OUT/easyvqa"
step convert "The shipped model, from Hugging Face's layout to MindSpore's" \
    python convert/convert_weight.py --model qwenvl --input_path "$MODEL" --output_path "$OUT/tiny.ckpt" --dtype fp32
step ask "A question about a test image" \
    python scripts/chat.py --model "$OUT/tiny.ckpt" --config "$MODEL" --image "$IMAGES/test/7.png" --greedy \
    "what color is the shape?"
step box "Its shape, framed" \
    python scripts/chat.py --model "$OUT/tiny.ckpt" --config "$MODEL" --image "$IMAGES/test/7.png" --greedy \
    --draw "$OUT/boxed.png" "Frame the shape in the picture."
step fresh "A model with random weights" \
    python scripts/make_tiny.py --output_path "$OUT/fresh"
step finetune "It is trained for 30 steps on two workers, two dialogues a row" fine_tune
step accuracy "The shipped model on test images it has not seen" evaluate
echo
echo "Look at $OUT/boxed.png (the box) and $OUT/run.png (the curves of the training)."
