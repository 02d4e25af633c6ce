"""The default of ``--register_path``: MindFormers copies a file from here and takes the class that a YAML names.

``auto_register: qwenvl_model.QwenVL`` means class QwenVL of qwenvl_model.py. The files only import, so that every
class keeps its identity. Template and tokenizer are never built by MindFormers; their files are for old YAMLs alone.
"""
