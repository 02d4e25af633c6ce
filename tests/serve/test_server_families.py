"""Servers of the other families, by the official client: thinking, clips, sounds, adapters. Answers are chat's."""

from __future__ import annotations

import base64
import json
import math
import struct
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from running_server import KEY, NAME, ROOT, TINY, RunningCommand, RunningServer, data_url, image_part
from safetensors.numpy import save_file

from ms_impl.data.thinking import split_thinking
from ms_impl.generate.load import load

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow

OVIS, OMNI, CLIP = ROOT / "assets/ovis2_5_tiny", ROOT / "assets/qwen2_5_omni_tiny", ROOT / "assets/demo.mp4"
COUNT, WHEN, WORD = "How many shapes are red?", "At which second does a tone sound?", "Which word was spoken?"


class Served:
    """A server of a checkpoint, a client of it, and the same model here."""

    def __init__(self, directory: Path, model: Path, *arguments: str):
        self.server = RunningServer(directory, "--max_length", "512", *arguments, model=model)
        self.client = openai.OpenAI(base_url=self.server.url, api_key=KEY, max_retries=0)
        self.model, self.template = load(model)
        self.directory = directory

    def ask(self, content, name: str = NAME, **fields):
        said = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model=name, messages=said, **fields)

    def chat(self, query, options=None, **settings) -> str:
        template = self.template.with_options(**options) if options else self.template
        return self.model.chat(template, query, dataset_dir=self.directory, **settings)[0]


def served(tmp_path_factory, request, model: Path, *arguments: str) -> Served:
    made = Served(tmp_path_factory.mktemp("served"), model, *arguments)
    request.addfinalizer(made.server.process.wait)
    request.addfinalizer(made.server.process.kill)
    return made


@pytest.fixture(scope="module")
def ovis(tmp_path_factory, request, demo) -> Served:
    made = served(tmp_path_factory, request, OVIS)
    (made.directory / "image1").write_bytes(demo.read_bytes())
    return made


@pytest.fixture(scope="module")
def omni(tmp_path_factory, request) -> Served:
    pytest.importorskip("av")
    made = served(tmp_path_factory, request, OMNI)
    (made.directory / "video1").write_bytes(CLIP.read_bytes())
    with wave.open(str(made.directory / "audio1"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(16_000)
        sound.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 8))) for n in range(16_000)))
    return made


def clip_part() -> dict:
    return {"type": "video_url", "video_url": {"url": data_url(CLIP, "video/mp4")}}


def test_thinking_comes_apart_from_the_answer(ovis, demo):
    content = [image_part(data_url(demo)), {"type": "text", "text": COUNT}]
    query = [{"image": "image1"}, {"text": COUNT}]
    told = {"chat_template_kwargs": {"enable_thinking": True}}
    expected = split_thinking(ovis.chat(query, enable_thinking=True), ovis.template.think_end)
    message = ovis.ask(content, extra_body=told).choices[0].message
    assert message.content == expected[1].strip() and message.content
    assert message.reasoning_content and message.reasoning_content in expected[0]
    stream = ovis.ask(content, extra_body=told, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == message.content
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == message.reasoning_content
    budget = {"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 3}}
    short = ovis.ask(content, extra_body=budget).choices[0].message
    settings = {"enable_thinking": True, "enable_thinking_budget": True, "thinking_budget": 3}
    expected = split_thinking(ovis.chat(query, **settings), ovis.template.think_end)
    assert (short.reasoning_content in expected[0], short.content) == (True, expected[1].strip())
    assert short.reasoning_content != message.reasoning_content
    plain = ovis.ask(content).choices[0].message
    assert not hasattr(plain, "reasoning_content") and plain.content == ovis.chat(query)


def test_ovis_takes_a_video_and_how_many_frames(ovis):
    (ovis.directory / "video1").write_bytes(CLIP.read_bytes())
    content, query = (
        [clip_part(), {"type": "text", "text": "What happens?"}],
        [{"video": "video1"}, {"text": "What happens?"}],
    )
    prompts = []
    for options in ({"num_frames": 2}, {"num_frames": 4}):
        found = ovis.ask(content, extra_body={"mm_processor_kwargs": options}, max_tokens=8)
        assert found.choices[0].message.content == ovis.chat(query, options, max_new_tokens=8)
        prompts.append(found.usage.prompt_tokens)
    assert prompts[0] < prompts[1]


def test_a_sound_by_url_or_as_input_audio(omni):
    file = omni.directory / "audio1"
    expected = omni.chat([{"audio": "audio1"}, {"text": WORD}])
    parts = (
        {"type": "audio_url", "audio_url": {"url": data_url(file, "audio/wav")}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.read_bytes()).decode(), "format": "wav"}},
    )
    for part in parts:
        assert omni.ask([part, {"type": "text", "text": WORD}]).choices[0].message.content == expected and expected


def test_a_clip_with_sound_and_what_a_request_changes_of_it(omni):
    content, query = [clip_part(), {"type": "text", "text": WHEN}], [{"video": "video1"}, {"text": WHEN}]
    found = omni.ask(content)
    assert found.choices[0].message.content == omni.chat(query) and found.choices[0].message.content.isdecimal()
    options = {"fps": 1.0, "use_audio_in_video": False}
    changed = omni.ask(content, extra_body={"mm_processor_kwargs": options})
    assert changed.usage.prompt_tokens < found.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="mm_processor_kwargs: unknown dataset_dir"):
        omni.ask(content, extra_body={"mm_processor_kwargs": {"dataset_dir": "/"}})


@pytest.mark.parametrize(
    "options", [{"use_audio_in_video": False}, {"fps": 1.0}, {"fps": 2.0, "video_max_pixels": 1568}], ids=str
)
def test_changed_clips_are_answered_as_chat_does(omni, options):
    content, query = [clip_part(), {"type": "text", "text": WHEN}], [{"video": "video1"}, {"text": WHEN}]
    found = omni.ask(content, extra_body={"mm_processor_kwargs": options})
    assert found.choices[0].message.content == omni.chat(query, options)


def test_adapters_by_name(tmp_path_factory, request):
    directory = random_adapter(tmp_path_factory.mktemp("adapter"))
    made = served(tmp_path_factory, request, TINY, "--adapter", f"other={directory}")
    assert [each.id for each in made.client.models.list()] == [NAME, "other"]
    settings = {"temperature": 1.0, "seed": 3, "max_tokens": 24}
    adapted, template = load(TINY, adapter=directory)
    drawn = {"do_sample": True, "temperature": 1.0, "seed": 3, "max_new_tokens": 24}
    expected = {NAME: made.chat("Hi", **drawn), "other": adapted.chat(template, "Hi", **drawn)[0]}
    assert expected[NAME] != expected["other"]
    for name, answer in expected.items():
        found = made.ask("Hi", name, **settings)
        assert (found.model, found.choices[0].message.content) == (name, answer)
    long = "What shape is in the picture? " * 12  # its graph is compiled while the other model decodes
    asked = [(name, text) for text in (long, "Hi") for name in expected] * 3
    with ThreadPoolExecutor(len(asked)) as pool:
        told = list(pool.map(lambda each: made.ask(each[1], each[0], **settings).choices[0].message.content, asked))
    alone = {each: made.ask(each[1], each[0], **settings).choices[0].message.content for each in asked}
    assert told == [alone[each] for each in asked] and alone[NAME, "Hi"] == expected[NAME]
    with pytest.raises(openai.NotFoundError, match="no such model; this server has: tiny, other"):
        made.ask("Hi", "third")


def test_an_adapter_in_the_models_place_by_ms_swifts_command(tmp_path_factory, request):
    directory = random_adapter(tmp_path_factory.mktemp("adapter"))
    words = ["deploy", "--model", TINY, "--adapters", directory, "--port", 0, "--max_length", 512]
    command = RunningCommand(tmp_path_factory.mktemp("deployed"), "swift.py", *words, VLM_API_KEY=KEY)
    request.addfinalizer(command.process.kill)
    client = openai.OpenAI(base_url=command.url, api_key=KEY, max_retries=0)
    assert [each.id for each in client.models.list()] == [TINY.name]
    said = [{"role": "user", "content": "Hi"}]
    found = client.chat.completions.create(model=TINY.name, messages=said, temperature=1.0, seed=3, max_tokens=24)
    drawn = {"do_sample": True, "temperature": 1.0, "seed": 3, "max_new_tokens": 24}
    answers = []
    for adapter in (directory, None):
        model, template = load(TINY, adapter=adapter)
        answers.append(model.chat(template, "Hi", **drawn)[0])
    assert found.choices[0].message.content == answers[0] != answers[1]
    assert command.end() == 0


def random_adapter(directory: Path) -> Path:
    """A LoRA adapter of random factors for the shipped Qwen-VL, as PEFT writes it."""
    config = json.loads((TINY / "config.json").read_text())
    rng, width, weights = np.random.default_rng(0), config["hidden_size"], {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.transformer.h.{layer}.attn.c_attn"
        for factor, shape in (("lora_A", (4, width)), ("lora_B", (3 * width, 4))):
            weights[f"{name}.{factor}.weight"] = rng.normal(0, 0.5, shape).astype(np.float32)
    save_file(weights, directory / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, "target_modules": ["c_attn"],
            "lora_dropout": 0.0, "bias": "none", "base_model_name_or_path": str(TINY)}  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(told))
    return directory
