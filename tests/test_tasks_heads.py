from pathlib import Path

import pytest
import torch

from musicfm.errors import CheckpointError, ConfigError
from musicfm.tasks import heads
from musicfm.tasks.beat import BeatDecoding
from musicfm.tasks.heads import CONFIG, WEIGHTS, Head, HeadConfig, check_model
from musicfm.tasks.names import TASKS, TaskName

CONFIGS = {
    "beat": HeadConfig(
        task="beat",
        model="tiny",
        fingerprint="a" * 64,
        layers=(2,),
        dim=16,
        decoding={"decoder": "bar_pointer", "beat_threshold": 0.3},
    ),
    "tagging": HeadConfig(
        task="tagging",
        vocabulary=("drums", "piano"),
        model="tiny",
        fingerprint="a" * 64,
        layers=(0, 1, 2),
        dim=16,
        hidden=8,
    ),
}


def random_head(name: str) -> Head:
    torch.manual_seed(0)
    head = Head(CONFIGS[name]).eval()
    head.mean.normal_()
    head.std.uniform_(0.5, 2.0)
    return head


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_head_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    head = random_head(name)
    heads.save(head, tmp_path / "head")
    again = heads.load(tmp_path / "head")
    assert again.config == head.config
    assert again.decoding == head.decoding
    frames = torch.randn(2, len(head.config.layers), 5, 16)
    assert torch.equal(again(frames), head(frames))
    assert head(frames).shape == (2, 5, head.task.num_logits)
    assert {path.name for path in (tmp_path / "head").iterdir()} == {WEIGHTS, CONFIG}


@pytest.mark.parametrize("task", TASKS)
def test_every_decoding_that_may_be_chosen_can_be_saved(tmp_path: Path, task: TaskName) -> None:
    config = CONFIGS["tagging"].replace(task=task)
    for decoding in Head(config).task.decodings:
        heads.save(Head(config.replace(decoding=decoding.to_dict())), tmp_path / "head")
        assert heads.load(tmp_path / "head").decoding == decoding


def test_decodings_are_kept() -> None:
    decoding = random_head("beat").decoding
    assert decoding == BeatDecoding(decoder="bar_pointer", beat_threshold=0.3)
    with pytest.raises(ConfigError, match="treshold"):
        _ = Head(CONFIGS["beat"].replace(decoding={"beat_treshold": 0.3})).decoding


def test_frames_are_standardised_layer_by_layer() -> None:
    head = random_head("tagging")
    frames = torch.randn(1, 3, 4, 16)
    scaled = 5.0 * frames + 3.0
    logits = head(frames)
    head.mean.mul_(5.0).add_(3.0)
    head.std.mul_(5.0)
    torch.testing.assert_close(head(scaled), logits)


def test_another_model_is_refused() -> None:
    head = random_head("beat")
    check_model(head, "a" * 64, "tiny")
    with pytest.raises(CheckpointError, match=r"trained on the hidden states of 'tiny', and 'fma'"):
        check_model(head, "b" * 64, "fma")


def test_damaged_heads_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a head: there is no head\.safetensors"):
        heads.load(tmp_path)
    heads.save(random_head("beat"), tmp_path)
    config = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_text(config.replace('"tiny"', '"other"'))
    with pytest.raises(CheckpointError, match="not the one that was saved"):
        heads.load(tmp_path)
    (tmp_path / CONFIG).write_text(config)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"head\.safetensors is damaged"):
        heads.load(tmp_path)
