"""LoRA adapters in PEFT's format: what is adapted, the files, the layers in a MindSpore model.

``config``, ``targets``, ``files``, ``base`` and ``merging`` import no framework.
"""
