"""How well a model answers: records with right answers, metrics, and a run over them that can be cut off and resumed.

``questions`` reads records; ``vqa``, ``caption`` and ``grounding`` score; ``metrics`` is their table;
``likelihood`` weighs given answers; ``answer_log`` keeps answers on disk; ``results`` writes down what came out;
``evaluation`` puts it all together.
"""
