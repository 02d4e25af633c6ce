"""LoRA adapters in PEFT's format: what is adapted, the files, the layers in a MindSpore model.

All but ``adapter`` import no framework.
"""
