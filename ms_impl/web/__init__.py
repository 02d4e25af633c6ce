"""The page in a browser: it asks the engine of ``ms_impl.serve`` in this process."""
