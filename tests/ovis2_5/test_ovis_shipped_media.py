"""Several images and a video, as a file and as its frames, asked about with the shipped model by each way that users have.

``Ovis25Inference``, chat.py and run_mindformer.py give the same answers, and these are torch_ref's, token by token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import easy_vqa
import pytest
import torch
from PIL import Image
from preloaded import run_script

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "assets/ovis2_5_tiny"
IMAGES = Path(easy_vqa.__file__).parent / "data/test/images"
FRAMES, SHOWN = 6, 3
LENGTH = 48
QUESTION = "what color is the shape?"
LIMIT = {"do_sample": False, "max_new_tokens": LENGTH}
