"""Starting workers, waiting for them, starting them again. No framework is imported here.

No process outlives a run, however it ends. Two features of Linux see to it. Every process of a run is *bound*: the
kernel kills it when the one that started the run (its *keeper*) ends (``bound``). And the keeper adopts whatever its
processes leave behind, so that it can end that, too (``children``).
"""
