"""Checkpoints on disk: safetensors, .ckpt and torch files, dtypes, atomic output, and conversion by declared tables.

No framework is imported here.
"""
