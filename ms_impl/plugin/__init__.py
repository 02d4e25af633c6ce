"""Everything that MindFormers needs of us: registered classes and work-arounds, each with what it mends.

``run`` hands the settings that ``ms_impl.cli`` has read and checked to MindFormers' Trainer. ``trainer``, ``optimizer``
and others are classes that YAMLs name; ``family_classes`` makes those of every family from its record, ``dataset`` the
steps of a run from its data. ``run_state`` is what the parts of a run under way share; ``patches`` is what no class
could mend; ``register`` holds the files for ``--register_path``.
"""
