"""The tasks of music information retrieval that the paper evaluates, in one grammar.

:class:`musicfm.tasks.base.Task` is the grammar; a module each has its words: beat (with downbeat),
chord, structure, key and tagging.
"""
