"""How fast Ovis2.5's answers grow: one decoding step, against torch_ref and against the memory's bandwidth.

    OMP_NUM_THREADS=2 python benchmarks/ovis_decode.py [--quick]

Two layers of the 2B's width with its 16 query heads, 8 key heads, norms on both, and its head, which is the embedding;
random, 118 million parameters. Contestants, rounds, goals and the check against PyTorch are those of decode.py; torch_ref
attends by PyTorch's own operator, which copies no keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from decode import OURS, Contest, memory_reader, ours  # first: it sets the threads before the frameworks are imported

import torch  # isort: skip
import torch_ref.decoder  # isort: skip
from gqa_decoder import attend
from harness import Row, arguments, interleaved, report

from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.model import Ovis2_5
from torch_ref.ovis2_5.model import Ovis2_5 as Reference

CONFIG = Ovis2_5Config.from_dict({
    "model_type": "ovis2_5", "conversation_formatter_class": "Qwen3ConversationFormatter", "hidden_size": 2048,
    "visual_vocab_size": 64,
    "llm_config": {
        "model_type": "qwen3", "vocab_size": 8192, "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
    "vit_config": {
        "model_type": "siglip2_navit", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    },
})  # fmt: skip


def main() -> None:
    """Print the table of all batches, prompts and dtypes."""
    parsed = arguments("ovis_decode", __doc__).parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    report("ovis_decode", list(rows((300,) if parsed.quick else (300, 1500), parsed.repeats)), parsed)


class OvisReference(Reference):
    """torch_ref's model, one token at a time."""

    def __init__(self) -> None:
        torch_ref.decoder.attend = attend
        super().__init__(CONFIG)
        for parameter in self.parameters():  # a deviation that keeps every activation near 1
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.02)

    def new_cache(self, batch: int, length: int) -> list:
        """As decode.py's contest asks for it."""
        return self.llm.model.new_cache(batch, length)

    def token_step(self, segments: torch.Tensor, column: int, prompt: int, cache: list) -> torch.Tensor:
        """Logits [B, vocab] after a token in ``column``, which is its id and position, too."""
        decoder, ids = self.llm.model, torch.full((len(segments), 1), column)
        hidden = decoder.step(decoder.embed(ids), segments, torch.tensor([column]), ids, cache)
        return self.llm.logits(hidden)[:, 0]


def rows(prompts: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Two for each dtype of each batch and prompt."""
    reference = OvisReference().eval()
    models = {name: ours(reference, lambda *each: Ovis2_5(CONFIG, *each), *dtypes) for name, dtypes in OURS.items()}
    with memory_reader() as read:
        for batch in (1, 8):
            for prompt in prompts:
                contest = Contest("Ovis2.5, 16/8", reference, models, batch, prompt)
                yield from contest.rows(interleaved({**contest.runs, "read": read}, repeats))


if __name__ == "__main__":
    main()
