import json
from pathlib import Path

import pytest

from musicfm.errors import ConfigError
from musicfm.model.config import KMeansConfig, preset
from musicfm.pretraining.recipe import RECIPES, OptimizerConfig, Recipe, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(RECIPES[name].to_dict()))
    assert load_recipe(str(path)) == load_recipe(name) == RECIPES[name]


@pytest.mark.parametrize("number", range(1, 10))
def test_every_row_of_the_table_has_a_recipe(number: int) -> None:
    assert RECIPES[f"fm{number}"].model == preset(f"fm{number}")


def test_values_can_be_set_one_by_one() -> None:
    recipe = load_recipe(
        "nano",
        ["steps=7", "optimizer.learning_rate=1e-4", "precision=bfloat16", "model.mel.mean=3"],
    )
    assert recipe.steps == 7
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.optimizer.betas == (0.9, 0.98)
    assert recipe.precision == "bfloat16"
    assert recipe.model.mel.mean == 3.0
    assert recipe.model.encoder == RECIPES["nano"].model.encoder


def test_another_kind_replaces_its_section() -> None:
    recipe = load_recipe("nano", ['model.quantizer={"kind": "kmeans", "codebook_size": 64}'])
    assert recipe.model.quantizer == KMeansConfig(codebook_size=64)


def test_a_file_needs_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "nano"\nsteps = 5\n[optimizer]\nclip_norm = 1.0\n')
    nano = RECIPES["nano"]
    expected = nano.replace(steps=5, optimizer=nano.optimizer.replace(clip_norm=1.0))
    assert load_recipe(str(path)) == expected
    assert load_recipe(str(path), ["steps=6"]).steps == 6


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("nanno", [], "no recipe 'nanno'; did you mean 'nano'"),
        ("absent.toml", [], r"cannot read the recipe absent.toml: No such file"),
        ("nano", ["stepz=3"], "no key 'stepz'; did you mean 'steps'"),
        ("nano", ["optimizer.learning_rat=3"], "did you mean 'learning_rate'"),
        ("nano", ["steps"], "'steps' sets nothing; give key=value"),
        ("nano", ["steps=many"], "'steps' is 'many'"),
        ("nano", ["steps=0"], "'steps' is 0"),
        ("nano", ["optimizer.betas=[0.9,1.0]"], "'1' in optimizer.betas is 1.0"),
        ("nano", ["batch_size=10"], "batch_size 10 is not a multiple of micro_batch_size 3"),
        ("nano", ["masking.block_seconds=0.05"], "choose a whole number"),
        ("tiny", ["masking.block_seconds=8"], "blocks of 8 s .* hide nothing of 4 s"),
        ("nano", ["masking.probability=0"], "a probability of 0 hide nothing"),
    ],
)
def test_what_is_wrong_is_one_sentence(source: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(source, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "steps = = 3", "a.toml is not TOML"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", "[1]", "a.json holds no recipe"),
    ],
)
def test_a_file_that_is_no_recipe(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tmp_path / name))


def test_the_learning_rate_rises_and_falls() -> None:
    linear = OptimizerConfig(warmup_steps=10)
    assert [linear.factor(step, 110) for step in (0, 4, 9, 10, 60, 110)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    )
    cosine = linear.replace(schedule="cosine")
    assert [cosine.factor(step, 110) for step in (9, 10, 60, 110)] == pytest.approx(
        [1.0, 1.0, 0.5, 0.0], abs=1e-12
    )
    assert OptimizerConfig(warmup_steps=0).factor(0, 10) == 1.0


def test_a_batch_is_shared_evenly_or_refused() -> None:
    recipe = Recipe(batch_size=12, micro_batch_size=3)
    assert [recipe.accumulation(n) for n in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(ConfigError, match=r"cannot be shared by 3 processes .* multiple of 9"):
        recipe.accumulation(3)
