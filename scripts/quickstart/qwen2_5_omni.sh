# Qwen2.5-Omni's steps; sourced by scripts/quickstart.sh, which explains OUT, step, quietly, on_two_workers and export_trained.
MODEL=assets/qwen2_5_omni_tiny
DATA=$OUT/data
LONG=clips/test/8.mp4 # silent, 56 s: the shape changes its colour at second 46

ask() { python scripts/chat.py --model "$OUT/converted" --greedy "$@"; }

fine_tune() {
    local log=$OUT/finetune.txt
    echo "(all that it prints goes to $log)"
    quietly "$log" on_two_workers "$OUT/finetune" "--config configs/qwen2_5_omni/finetune_tiny.yaml --run_mode finetune \
        --load_checkpoint $OUT/fresh --output_dir $OUT/finetune --train_dataset_dir $DATA \
        --train_dataset.data_loader.annotation_file \
        [$DATA/train_questions.jsonl,$DATA/train_words.jsonl,$DATA/train_clips.jsonl] --num_samples 80 --epochs 1" || return
    grep '^step ' "$log" | sed -n -e '1p' -e '$p'
    python scripts/plot_run.py "$OUT/finetune" --output_path "$OUT/run.png"
}

evaluate() {
    local log=$OUT/evaluate.txt
    quietly "$log" bash scripts/small_models/evaluate_omni.sh "$MODEL" "$DATA" "$OUT/evaluation" || return
    sed -n '/^data set /,$p' "$log"
}

step data "Images with questions, spoken words, and clips in which something happens" \
    python scripts/small_models/omni_data.py --output_path "$DATA" --questions 400 200 --words 60 100 --clips 80 100
step convert "The shipped model, from Hugging Face's layout to MindSpore's" \
    python convert/convert_weight.py --model qwen2_5_omni --input_path "$MODEL" --output_path "$OUT/converted" --dtype fp32
step ask "A question about an image" \
    ask --image assets/demo.png "what color is the shape?"
step word "A word spoken by a voice that it was not trained on" \
    ask --audio "$DATA/words/test/7.flac" "Which word was spoken?"
step tone "When does a tone sound in a clip?" \
    ask --video assets/demo.mp4 --draw "$OUT/tone.png" "At which second does a tone sound?"
step change "When does a shape change its colour? 64 frames of 56 seconds" \
    ask --video "$DATA/$LONG" --draw "$OUT/change.png" "At which second does the shape change its colour?"
step untrue "The same without true time: with the clock of Hugging Face's processor" \
    ask "At which second does the shape change its colour?" --video "$DATA/$LONG" --options second_per_grid=fixed
step fresh "A model with random weights" \
    python scripts/small_models/make_tiny.py --model qwen2_5_omni --output_path "$OUT/fresh"
step finetune "It is trained on two workers, several conversations a row" fine_tune
step export "What was trained, in Hugging Face's layout again" export_trained qwen2_5_omni
step accuracy "The shipped model on test data it has not seen" evaluate
echo
echo "Look at $OUT/tone.png and $OUT/change.png (the timelines) and $OUT/run.png (the curves of the training)."
