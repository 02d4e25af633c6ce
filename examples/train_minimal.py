"""Fine-tuning on one page: a checkpoint and conversations in, losses out, without MindFormers.

    python examples/train_minimal.py --model DIR --data train.json --media DIR

It is what ``run_mindformer.py --run_mode finetune`` does, and its first losses are that command's to the bit
(tests/examples/test_train_minimal.py). What it leaves out: ranks, packing, micro-batches, adapters, loss scaling,
checkpoints, learning-rate schedules. Any family works, since nothing here knows one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl import families
from ms_impl.cli.main import command
from ms_impl.data.batch import collate, sizes_of
from ms_impl.data.files import ConversationFile
from ms_impl.data.packing import pack
from ms_impl.data.sample_reader import read_sample
from ms_impl.data.template import Template
from ms_impl.io.json_files import read_json
from ms_impl.kernels.operators import train_by_kernels
from ms_impl.train.adamw import AdamW
from ms_impl.train.feed import step_columns
from ms_impl.train.gradient_norm import ClipByGlobalNorm
from ms_impl.weights import load_weights


def load(directory: Path, media: Path, max_length: int) -> tuple[nn.Cell, Template]:
    """The model in training mode, in fp32, and the template that turns conversations into its arrays."""
    family = families.for_config(read_json(directory / "config.json"), str(directory))
    config = family.resolve("config").from_file(directory)
    model = family.resolve("model")(config)
    load_weights(model, directory, family)
    template = family.make_template(directory, config, dataset_dir=str(media), max_length=max_length)
    return model.set_train(), template


def batches(template: Template, file: Path, rows: int, max_length: int) -> Iterator[tuple[Tensor, ...]]:
    """The file's conversations in order, ``rows`` at a time, as the arrays that the model takes."""
    conversations = ConversationFile(file)
    samples = [read_sample(template, conversations[number])[0] for number in range(len(conversations))]
    columns = [name for name in step_columns(template) if name != "seeds"]  # of the dropout that adapters have
    # One shape for the whole run, since every shape is a graph to compile.
    sizes = sizes_of(template, [sample.outline for sample in samples], {"tokens": max_length})
    for start in range(0, len(samples) - rows + 1, rows):
        packed = [pack([sample], position_axes=template.position_axes) for sample in samples[start : start + rows]]
        batch = collate(packed, template, sizes)
        yield tuple(None if batch[name] is None else Tensor(batch[name]) for name in columns)


class TrainStep(nn.Cell):
    """Loss, gradients, clipping and update in one graph."""

    def __init__(self, model: nn.Cell, learning_rate: float):
        super().__init__(auto_prefix=False)
        train_by_kernels(model)  # on a CPU; without, plain operators do it
        self.optimizer = AdamW(model.trainable_params(), learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
        self.loss_and_gradients = ms.value_and_grad(model, None, self.optimizer.parameters)
        self.clip = ClipByGlobalNorm(1.0)

    def construct(self, *batch: Tensor) -> Tensor:
        """One step on a batch; its loss before the update, a scalar in fp32."""
        loss, gradients = self.loss_and_gradients(*batch)
        gradients, _ = self.clip(gradients)
        return ops.depend(loss, self.optimizer(gradients))


@command
def main() -> int:
    parser = argparse.ArgumentParser(description="fine-tuning on one page")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory in Hugging Face's layout")
    parser.add_argument("--data", type=Path, required=True, help="JSON file of conversations")
    parser.add_argument("--media", type=Path, required=True, help="directory of their images")
    parser.add_argument("--freeze", nargs="*", default=(), help="module groups to leave as they are: vision_tower …")
    parser.add_argument("--rows", type=int, default=4, help="conversations a step")
    parser.add_argument("--max_length", type=int, default=256, help="tokens that each is padded to")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    model, template = load(arguments.model, arguments.media, arguments.max_length)
    model.freeze(tuple(arguments.freeze))
    step = TrainStep(model, arguments.learning_rate)
    for number, batch in enumerate(batches(template, arguments.data, arguments.rows, arguments.max_length), start=1):
        print(f"step {number}  loss {step(*batch).asnumpy():.6f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
