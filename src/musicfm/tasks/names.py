"""The tasks by name: ``musicfm.tasks.NAME`` has a :class:`musicfm.tasks.base.Task` called Name."""

from typing import Literal, TypeAlias, get_args

TaskName: TypeAlias = Literal["beat", "chord", "structure", "key", "tagging"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
"""All tasks, in the order of tables."""
