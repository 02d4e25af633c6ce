"""The folder for ``--register_path``: MindFormers copies a file from here and takes the class that ``auto_register`` names.

The files only import, so that every class keeps its identity.
"""
