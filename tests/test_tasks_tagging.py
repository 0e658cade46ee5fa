import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from musicfm.datasets.annotations import Annotations
from musicfm.errors import ConfigError
from musicfm.tasks.tagging import Tagging, TaggingDecoding

TASK = Tagging(("drums", "piano", "voice", "zither"))


def test_metrics_are_those_of_scikit_learn_over_tags_that_can_be_measured() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((40, 4)) < 0.3
    truth[:, 2], truth[:, 3] = True, False
    found = rng.random((40, 4)) + 0.3 * truth
    names = TASK.vocabulary
    pairs = [
        (
            Annotations(tags={name: 1.0 for name, yes in zip(names, row, strict=True) if yes}),
            Annotations(tags=dict(zip(names, scores, strict=True))),
        )
        for row, scores in zip(truth, found, strict=True)
    ]
    assert TASK.summarise([TASK.score(*pair) for pair in pairs]) == {
        "map": average_precision_score(truth[:, :2], found[:, :2], average="macro"),
        "roc_auc": roc_auc_score(truth[:, :2], found[:, :2], average="macro"),
        "prevalence": truth[:, :2].mean(),
        "tags": 2.0,
    }


def test_no_tags_at_all_is_an_annotation_and_none_is_not() -> None:
    assert TASK.is_labelled(Annotations(tags={}))
    assert not TASK.is_labelled(Annotations())
    values, known = TASK.targets(Annotations(tags={"piano": 1.0, "other": 1.0}), np.zeros(2))
    assert known.all()
    np.testing.assert_array_equal(values, [[0, 1, 0, 0]] * 2)
    summary = TASK.summarise([TASK.score(Annotations(tags={}), Annotations(tags={"piano": 0.4}))])
    assert np.isnan(summary["map"])
    assert summary["tags"] == 0.0
    assert "applies to some of the recordings and not to others" in TASK.remark(summary)


def test_chance_stands_beside_the_metrics() -> None:
    tagged = [Annotations(tags=tags) for tags in ({"piano": 1.0}, {}, {}, {})]
    summary = TASK.summarise([TASK.score(a, Annotations(tags={})) for a in tagged])
    assert "chance is 0.250, the mean prevalence of the 1 tags" in TASK.remark(summary)


def test_clips_are_averaged() -> None:
    logits = np.array([[0.0, 9.0, -9.0, 0.0], [0.0, -9.0, -9.0, 0.0]])
    tags = TASK.decode(logits, np.array([14.0, 30.0]), 40.0, TaggingDecoding()).tags
    assert tags is not None
    assert tags["drums"] == tags["piano"] == pytest.approx(0.5)
    assert tags["voice"] < 0.01


def test_a_vocabulary_has_each_tag_once() -> None:
    with pytest.raises(ConfigError, match="no recording for training has a tag that applies"):
        Tagging([])
    with pytest.raises(ConfigError, match="of 3 tags has one twice"):
        Tagging(["a", "b", "a"])


@pytest.mark.parametrize("decimals", [1, 9], ids=["ties", "no ties"])
def test_resampled_scores_are_those_of_the_repeated_recordings(decimals: int) -> None:
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(30):
        truth = (rng.random(4) < (0.3, 0.5, 0.06, 0.0)).astype(float)
        found = np.round(rng.random(4), decimals)
        row = {f"true {name}": value for name, value in zip(TASK.vocabulary, truth, strict=True)}
        row |= {f"found {name}": value for name, value in zip(TASK.vocabulary, found, strict=True)}
        scores.append(row)
    places = rng.integers(30, size=(20, 30))
    for metric in TASK.metrics:
        expected = [TASK.summarise([scores[i] for i in row])[metric] for row in places]
        np.testing.assert_allclose(TASK.bootstrap(scores, metric, places), expected)
    one = TASK.bootstrap(scores[:1], "map", np.zeros((2, 1), dtype=int))
    assert np.isnan(one).all()
