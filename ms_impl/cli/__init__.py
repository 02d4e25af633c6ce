"""Command lines and settings: what a user writes, read once, checked and frozen. No framework is imported here.

``arguments`` reads a command line and its YAML, ``schema`` checks it; ``training_plan`` is what a run does, and
``mindformers_config`` the one writer of what MindFormers is told.
"""
