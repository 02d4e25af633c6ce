# Ovis2.5's steps; sourced by scripts/quickstart.sh, which explains OUT, step, quietly, on_two_workers and export_trained.
MODEL=assets/ovis2_5_tiny
DATA=$OUT/data
SCENE=$DATA/images/test/scenes/0.png # several shapes

ask() { python scripts/chat.py --model "$OUT/converted" --greedy "$@"; }

fine_tune() {
    local log=$OUT/finetune.txt
    echo "(all that it prints goes to $log)"
    sed -e "s|build/fresh_ovis|$OUT/fresh|; s|data/ovis|$DATA|g; s|output/ovis2_5_tiny|$OUT/finetune|" \
        scripts/ovis2_5/config/train_tiny.json >"$OUT/train_config.json"
    NPROC=2 quietly "$log" scripts/ovis2_5/run_training.sh "$OUT/train_config.json" --num_samples 480 || return
    grep '^step ' "$log" | sed -n -e '1p' -e '$p'
    python scripts/plot_run.py "$OUT/finetune" --output_path "$OUT/run.png"
}

evaluate() {
    local log=$OUT/evaluate.txt name options=()
    for name in questions boxes counts counts_half_budget; do
        options+=("eval_dataset.$name.data_loader.annotation_file=$DATA/test_${name%_half_budget}.json"
            "eval_dataset.$name.dataset_dir=$DATA" "eval_dataset.$name.data_loader.num_samples=100")
    done
    quietly "$log" python run_mindformer.py --config configs/ovis2_5/eval_tiny.yaml --load_checkpoint "$MODEL" \
        --output_dir "$OUT/evaluation" --options "${options[@]}" || return
    sed -n '/^data set /,$p' "$log"
}

step data "Images of shapes at several sizes, with questions, boxes and counts" \
    python scripts/small_models/ovis_data.py --output_path "$DATA" --images 400 100 --scenes 300 100
step convert "The shipped model, from Hugging Face's layout to MindSpore's" \
    python convert/convert_weight.py --model ovis2_5 --input_path "$MODEL" --output_path "$OUT/converted" --dtype fp32
step ask "A question about an image" \
    ask --image assets/demo.png "what color is the shape?"
step box "Its shape, framed" \
    ask --image assets/demo.png --draw "$OUT/boxed.png" "Locate the circle. Please provide the bounding box coordinates."
step think "A question that is thought over before it is answered" \
    ask --image "$SCENE" --enable_thinking "How many shapes are red?"
step budget "The same with twelve tokens to think" \
    ask --image "$SCENE" --enable_thinking --thinking_budget 12 --max_new_tokens 128 "How many shapes are red?"
step fresh "A model with random weights" \
    python scripts/small_models/make_tiny.py --model ovis2_5 --output_path "$OUT/fresh"
step finetune "It is trained on two workers as a JSON configuration says, several conversations a row" fine_tune
step export "What was trained, in Hugging Face's layout again" export_trained ovis2_5
step accuracy "The shipped model on test images it has not seen" evaluate
echo
echo "Look at $OUT/boxed.png (the box) and $OUT/run.png (the curves of the training)."
