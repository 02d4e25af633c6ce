"""Hugging Face ⇄ MindSpore checkpoints, streamed tensor by tensor. Imports no framework."""
