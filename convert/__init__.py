"""Hugging Face ⇄ MindSpore checkpoints, streamed tensor by tensor. Imports neither mindspore, torch nor transformers."""
