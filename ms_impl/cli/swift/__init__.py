"""The command line of ms-swift (v3.9) for those who know it: the same argument names, translated to this project's.

``arguments`` reads them, ``training`` turns them into a YAML, ``runs`` names the directories that ms-swift's users
look for, ``datasets`` takes samples and splits, and ``commands`` runs sft, infer and export.
"""
