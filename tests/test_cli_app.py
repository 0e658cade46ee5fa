"""What the commands share."""

import pytest

from musicfm.cli.app import need
from musicfm.errors import ConfigError


def test_missing_extras_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"matplotlib"}
    monkeypatch.setitem(need.__globals__, "find_spec", lambda name: name in there or None)
    with pytest.raises(ConfigError) as error:
        need("tasks", "train")
    assert str(error.value) == (
        "this needs lightning_fabric, mir_eval, sklearn, tensorboard; "
        "pip install 'musicfm[tasks,train]'"
    )
    need()
