"""Everything that MindFormers needs of us: registered classes and work-arounds, each with what it mends.

``run`` hands the settings that ``ms_impl.cli`` has read and checked to MindFormers' Trainer. ``trainer``, ``dataset``,
``train_step``, ``model``, ``optimizer`` and ``callbacks`` are the classes that YAMLs name; ``patches`` is what no class
could mend; each family has a module of its name, and ``register`` holds the files for ``--register_path``.
"""
