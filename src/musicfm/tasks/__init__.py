"""The tasks of music information retrieval that the paper evaluates, behind one interface.

:class:`musicfm.tasks.base.Task` is the interface, and each task is a module: beat (with downbeat),
chord, structure, key and tagging.
"""
