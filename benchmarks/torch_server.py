"""torch_ref behind HTTP, as a model of transformers is served by hand: one request after another, tokens streamed.

    OMP_NUM_THREADS=2 python benchmarks/torch_server.py DIR

What serve.py measures this project's server against; of Qwen-VL, and of text alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from ms_impl import families
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decoding import Answer, samplers
from ms_impl.generate.mixin import stop_sequences
from ms_impl.generate.text import TextStreamer
from torch_ref.qwenvl.model import QwenVL


class TorchChat:
    """Answers of a checkpoint directory."""

    def __init__(self, directory: Path):
        family = families.get("qwenvl")
        self.model = QwenVL.from_pretrained(directory)
        self.template = family.make_template(directory, self.model.config)
        self.generation = GenerationConfig.for_checkpoint(directory, directory / "config.json", None, family.generation)
        self.lock = Lock()

    def answer(self, asked: dict[str, Any]) -> Iterator[tuple[str, int]]:
        """The pieces of an answer's text, and how many tokens it has by then."""
        changed = {name: asked[name] for name in ("temperature", "top_k", "top_p")}
        generation = self.generation.changed(do_sample=True, max_new_tokens=asked["max_tokens"], **changed)
        sample = self.template.encode_turn(asked["messages"][0]["content"], None, None, generation)
        stops = stop_sequences(self.template, generation)
        (sampler,) = samplers(generation, asked["seed"], 1)
        answer = Answer(sample.input_ids, sampler, stops, generation.max_new_tokens)
        text = TextStreamer(stops, self.template.tokenizer.detokenizer())
        with self.lock:
            for logits in self._logits(answer):
                piece = text.add(answer.extend(logits.numpy()))
                yield piece + (text.finish() if answer.finished else ""), len(answer.tokens)

    @torch.inference_mode()
    def _logits(self, answer: Answer) -> Iterator[torch.Tensor]:
        """Those of each token until the answer is finished, with a preallocated cache."""
        model, ids = self.model, torch.tensor([answer.prompt])
        length = ids.shape[1]
        end = length + answer.max_new_tokens
        segments = torch.zeros(1, end, dtype=torch.int64)
        segments[:, :length] = 1
        alpha, cache = model.config.ntk_alpha(length), model.new_cache(1, end)
        hidden, columns = model.transformer.wte(ids), torch.arange(length)
        while True:
            yield model.step(hidden, segments, columns, alpha, cache)[0]
            if answer.finished:
                return
            columns = columns[-1:] + 1
            segments[:, columns] = 1
            hidden = model.transformer.wte(torch.tensor([answer.tokens[-1:]]))


def handler(chat: TorchChat) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            count = 0
            for piece, count in chat.answer(asked):  # noqa: B007
                if piece:
                    self._send({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            self._send({"choices": [], "usage": {"completion_tokens": count}})
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, chunk: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    """One that many may ask at once."""

    request_queue_size = 128


def main() -> None:
    """Print the address, and serve."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    server = Server(("127.0.0.1", 0), handler(TorchChat(Path(sys.argv[1]))))
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
