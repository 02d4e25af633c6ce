"""Ovis2.5 in PyTorch, side by side with ``ms_impl.ovis2_5``."""
