"""E3: rows of every mix have the ids and positions that transformers' own functions give, given the same times."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniPreTrainedModelForConditionalGeneration
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.media.sound import SoundInfo
from ms_impl.qwen2_5_omni.encoding import MEL, PATCHES, RowBuilder
from ms_impl.qwen2_5_omni.media import Probed, SoundSource, VisionSource
from ms_impl.qwen2_5_omni.positions import Clock

STILL = Image.new("RGB", (28, 28))


class Reference:
    """What the original's function asks of its model."""

    spatial_merge_size = 2
    get_llm_pos_ids_for_vision = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_llm_pos_ids_for_vision
    get_chunked_index = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_chunked_index
    get_rope_index = Qwen2_5OmniPreTrainedModelForConditionalGeneration.get_rope_index

    def __init__(self):
        self.config = Qwen2_5OmniThinkerConfig(vision_start_token_id=151652)
        ids = {"audio": 151646, "image": 151655, "video": 151656}
        for name, number in ids.items():
            setattr(self.config, f"{name}_token_id", number)


@pytest.fixture(scope="module")
def reference():
    return Reference()


def sound(generator) -> SoundSource:
    samples = generator.randint(400, 16000 * 12)
    return SoundSource(SoundInfo("s", samples), 0, samples)


def vision(generator, frames: int) -> VisionSource:
    size = (28 * generator.randint(1, 5), 28 * generator.randint(1, 5))
    return VisionSource("v", size, generator.uniform(0.04, 9), stills=(STILL,) * frames)


def random_row(seed: int, config, films: bool):
    """Text, images and sounds in any order, and either films or silent videos: the original has one flag a call."""
    generator = random.Random(seed)
    row = RowBuilder(config, Clock())
    for _ in range(generator.randint(1, 6)):
        row.add_text([100] * generator.randint(0, 5))
        kind = generator.choice((IMAGE, VIDEO, AUDIO))
        if kind == AUDIO:
            row.add_medium(Probed(AUDIO, sound=sound(generator)))
        elif kind == IMAGE:
            row.add_medium(Probed(IMAGE, vision(generator, 1)))
        else:
            source = vision(generator, 2 * generator.randint(1, 12))
            row.add_medium(Probed(VIDEO, source, sound(generator) if films else None))
    row.add_text([100])
    return row.sample("", trained=False)


@pytest.mark.parametrize("films", [False, True])
def test_random_rows(reference, omni_config, films):
    for seed in range(150):
        sample = random_row(seed, omni_config, films)
        visuals = [each for each in sample.media if each.kind == PATCHES]
        grids = {token: [each.geometry[:3] for each in visuals if sample.input_ids[each.columns[0]] == token]
                 for token in (151655, 151656)}  # fmt: skip
        if not visuals:
            continue
        seconds = [each.source.second_per_grid for each in visuals if each.source.is_video]
        ids = torch.from_numpy(sample.input_ids)[None].long()
        positions, deltas = reference.get_rope_index(
            ids,
            torch.tensor(grids[151655]) if grids[151655] else None,
            torch.tensor(grids[151656]) if grids[151656] else None,
            torch.ones_like(ids),
            films,
            torch.tensor([each.geometry[0] for each in sample.media if each.kind == MEL]),
            torch.tensor(seconds) if seconds else None,
        )
        np.testing.assert_array_equal(sample.position_ids, positions[:, 0].numpy(), err_msg=f"seed {seed}")
        assert sample.next_position == int(deltas[0, 0]) + len(sample)


class Processor:
    """What the original's expansion of placeholders asks of its processor."""

    replace = Qwen2_5OmniProcessor.replace_multimodal_special_tokens
    get_chunked_index = Qwen2_5OmniProcessor.get_chunked_index
    image_token, video_token, audio_token = "I", "V", "A"
    vision_bos_token, vision_eos_token, audio_bos_token, audio_eos_token = "[", "]", "{", "}"
    image_processor = video_processor = SimpleNamespace(merge_size=2)


def test_random_films_are_told_in_the_originals_order(omni_config):
    letters = {151652: "[", 151653: "]", 151647: "{", 151648: "}", 151656: "V", 151646: "A"}
    for seed in range(300):
        generator = random.Random(seed)
        source, track = vision(generator, 2 * generator.randint(1, 60)), sound(generator)
        row = RowBuilder(omni_config, Clock())
        row.add_medium(Probed(VIDEO, source, track))
        found = "".join(letters[token] for token in row.ids)
        arguments = iter([track.block.tokens]), iter([]), iter([np.array(source.grid)]), iter([source.second_per_grid])
        (expected,) = Processor().replace(["[V]"], *arguments, True, 25, 2.0)
        assert found == expected, seed
