# Qwen-VL's steps; sourced by scripts/quickstart.sh, which explains OUT, step, quietly and on_two_workers.
MODEL=assets/qwenvl_tiny_easyvqa
IMAGES=$OUT/easyvqa/images

fine_tune() {
    local log=$OUT/finetune.txt
    echo "(all that it prints goes to $log)"
    quietly "$log" on_two_workers "$OUT/finetune" "--config configs/qwenvl/finetune_tiny_easyvqa.yaml \
        --run_mode finetune --load_checkpoint $OUT/fresh --output_dir $OUT/finetune \
        --train_dataset.data_loader.annotation_file $OUT/easyvqa/train.json --train_dataset_dir $IMAGES \
        --train_dataset.packing True --train_dataset.modal_to_text_transform.max_length 512 \
        --callbacks '[{type: MFLossMonitor}, {type: LossRecorder}, {type: CheckpointMonitor}]' \
        --num_samples 480 --epochs 1 --batch_size 4" || return
    grep '^step ' "$log" | sed -n -e '1p' -e '$p'
    python scripts/plot_run.py "$OUT/finetune" --output_path "$OUT/run.png"
}

evaluate() {
    local log=$OUT/evaluate.txt questions=eval_dataset.questions boxes=eval_dataset.boxes
    quietly "$log" python run_mindformer.py --config configs/qwenvl/eval_tiny_easyvqa.yaml --load_checkpoint "$MODEL" \
        --output_dir "$OUT/evaluation" --options \
        "$questions.data_loader.annotation_file=$OUT/easyvqa/test_questions.json" "$questions.dataset_dir=$IMAGES" \
        "$boxes.data_loader.annotation_file=$OUT/easyvqa/test_boxes.json" "$boxes.dataset_dir=$IMAGES" \
        "$questions.data_loader.num_samples=500" "$boxes.data_loader.num_samples=50" || return
    sed -n '/^data set /,$p' "$log"
}

step data "Images and conversations of easy-VQA" \
    python scripts/small_models/easyvqa_data.py --output_path "$OUT/easyvqa"
step convert "The shipped model, from Hugging Face's layout to MindSpore's" \
    python convert/convert_weight.py --model qwenvl --input_path "$MODEL" --output_path "$OUT/tiny.ckpt" --dtype fp32
step ask "A question about a test image" \
    python scripts/chat.py --model "$OUT/tiny.ckpt" --config "$MODEL" --image "$IMAGES/test/7.png" --greedy \
    "what color is the shape?"
step box "Its shape, framed" \
    python scripts/chat.py --model "$OUT/tiny.ckpt" --config "$MODEL" --image "$IMAGES/test/7.png" --greedy \
    --draw "$OUT/boxed.png" "Frame the shape in the picture."
step when "Another family, a clip with sound: when does a tone sound?" \
    python scripts/chat.py --model assets/qwen2_5_omni_tiny --video assets/demo.mp4 --greedy \
    "At which second does a tone sound?"
step fresh "A model with random weights" \
    python scripts/small_models/make_tiny.py --output_path "$OUT/fresh"
step finetune "It is trained for 30 steps on two workers, two dialogues a row" fine_tune
step accuracy "The shipped model on test images it has not seen" evaluate
echo
echo "Look at $OUT/boxed.png (the box) and $OUT/run.png (the curves of the training)."
