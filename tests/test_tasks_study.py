"""Studies of cheap encoders on tones: what is done, what is not done twice, and what it says."""

import csv
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tones
from musicfm.datasets.annotations import Annotations, Spans
from musicfm.datasets.labelled import Labelled, LabelledTrack, read_labelled
from musicfm.datasets.splits import Splitting
from musicfm.datasets.tracks import Track
from musicfm.errors import ConfigError, DataError
from musicfm.model.config import preset
from musicfm.model.musicfm import MusicFM
from musicfm.tasks import pictures
from musicfm.tasks.corpus import Corpus, _of_splits, open_corpus, vocabulary_of
from musicfm.tasks.heads import HeadConfig, load
from musicfm.tasks.names import TASKS
from musicfm.tasks.probe import ProbeSettings
from musicfm.tasks.report import COLUMNS, PAPER, make_report, to_csv, to_json, to_markdown
from musicfm.tasks.rows import Row
from musicfm.tasks.study import Study, run_study
from musicfm.tasks.trials import RUN

ENCODER = '''
import numpy as np
import torch
from musicfm.embedding import WindowEncoder
from musicfm.embedding.windows import Windowing


class Bands(WindowEncoder):
    """Two layers: noise, and energy in 32 bands."""

    def __init__(self, context_seconds):
        windowing = Windowing.seconds(context_seconds or 8.0, 0.0, 24_000, 25.0)
        super().__init__(windowing, 24_000, 960, batch_size=1, layers=(0, 1))

    def batch(self, windows):
        return [self.frames(torch.from_numpy(w)) for w in windows]

    def frames(self, samples):
        blocks = torch.nn.functional.pad(samples, (0, -len(samples) % 960)).view(-1, 960)
        bands = torch.fft.rfft(blocks).abs()[:, :160].view(len(blocks), 32, 5).mean(dim=2)
        bands = (bands + 1e-3).log()
        noise = torch.randn(bands.shape, generator=torch.Generator().manual_seed(0))
        return torch.stack([noise, bands])

    def fingerprint(self):
        return "bands"


def nothing(context_seconds):
    return 3
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tones.write_tones(tmp_path_factory.mktemp("tones") / "music", 12)
    tracks = read_labelled([folder], Splitting(0.0, 0.0), num_workers=1).tracks
    tests = {"new": tracks[8:], "same": tracks[:2]}
    return Corpus("tones", tracks[:6], tracks[6:8], tests, vocabulary_of(tracks[:6]))


def study_in(folder: Path, **changes: Any) -> Study:
    settings = ProbeSettings(max_epochs=4, learning_rate=1e-2, batch_size=8)
    options: dict[str, Any] = {"num_seeds": 2, "probe": settings, "num_workers": 1, **changes}
    return Study(folder, options.pop("tasks", ("chord", "key")), **options)


def encoder_row(folder: Path) -> Row:
    path = folder / "bands.py"
    path.write_text(ENCODER)
    return Row(f"{path}:Bands")


@pytest.mark.statistics
def test_a_study_of_all_tasks(tmp_path: Path, corpus: Corpus) -> None:
    rows = [encoder_row(tmp_path), Row("mel"), Row("chroma"), Row("trivial"), Row("oracle")]
    study = study_in(tmp_path / "out", tasks=TASKS, seeds_per_layer=2)
    results = run_study(study, corpus, rows, tmp_path / "cache")
    found = {(result.row.name, result.task): result for result in results}
    assert len(found) == 5 + 5 + 2 + 5 + 5
    bands = found[rows[0].name, "chord"]
    assert bands.layers == (1,)  # the other one is noise
    assert {layers: len(scores) for layers, scores in bands.curve.items()} == {(0,): 2, (1,): 2}
    assert min(bands.curve[1,]) > max(bands.curve[0,])
    assert len(bands.runs) == 2
    assert bands.runs[0]["new"].summary["chord"] > 0.9
    assert found["oracle", "beat"].runs[0]["new"].summary["beat"] > 0.99
    assert found["trivial", "chord"].runs[0]["new"].summary["chord"] == pytest.approx(0.5, abs=0.1)
    # A head of the study is a head like any other, and knows where it belongs.
    head = load(next((tmp_path / "out").glob("*bands*/chord/layer_1/seed_1")))
    assert head.config.model == rows[0].name
    assert head.config.fingerprint == "bands"

    report = make_report(corpus, results, {"mel": "", rows[0].name: "nothing is known"})
    assert report.reference == rows[0].name
    text = to_markdown(report, paper=True)
    for word in (
        "## new (the headline)",
        "## same",
        "FM7 fine-tuned",
        "mAP by chance",
        "do not count",
        "†",
    ):
        assert word in text
    assert "other data" in text.lower()
    assert text.startswith(to_markdown(report, paper=False).rstrip())
    assert "FM7" not in to_markdown(report, paper=False)
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    chord = {
        line["row"]: line for line in lines if line["column"] == "chord" and line["test"] == "new"
    }
    assert chord["trivial"]["verdict"] == "ahead"
    assert chord["oracle"]["verdict"] in ("behind", "tie")
    assert chord[rows[0].name]["verdict"] == ""
    assert float(chord["mel"]["low"]) <= float(chord["mel"]["score"]) <= float(chord["mel"]["high"])
    assert not any(math.isnan(float(line["score"])) for line in lines if line["column"] == "key")
    json.dumps(to_json(report), allow_nan=False)
    pictures.draw(report, tmp_path / "out")
    for name in (pictures.PICTURE, pictures.LAYERS):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:this CPU has no instructions")
@pytest.mark.statistics
def test_rows_that_train_their_model(tmp_path: Path, corpus: Corpus) -> None:
    MusicFM(preset("tiny")).save_pretrained(tmp_path / "model")
    rows = [Row(f"{kind}:{tmp_path / 'model'}") for kind in ("finetuned", "scratch")]
    tuning = {"max_epochs": 1, "epoch_clips": 16, "precision": "bfloat16"}
    study = study_in(tmp_path / "out", tasks=("key",), tuning=tuning)
    first = run_study(study, corpus, rows, tmp_path / "cache")
    assert [(result.row, result.task, len(result.runs)) for result in first] == [
        (row, "key", 1) for row in rows
    ]
    for row in rows:
        there = json.loads((tmp_path / "out" / row.folder / "key" / "run.json").read_text())
        assert there["settings"]["precision"] == "bfloat16"
        assert there["settings"]["from_scratch"] == (row.kind == "scratch")
    assert run_study(study, corpus, rows, tmp_path / "cache") == first
    assert not (tmp_path / "cache").exists()
    # What such rows have nothing to do with goes on in the same folder.
    others = replace(study, tuning={})
    assert run_study(others, corpus, [Row("trivial")], tmp_path / "cache")
    with pytest.raises(ConfigError, match="another settings"):
        run_study(others, corpus, rows, tmp_path / "cache")


@pytest.mark.statistics
def test_what_is_done_is_not_done_again(tmp_path: Path, corpus: Corpus) -> None:
    rows, study = [encoder_row(tmp_path)], study_in(tmp_path / "out")
    first = run_study(study, corpus, rows, tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    lost = next((tmp_path / "out").rglob("chord/layer_1/seed_1/tests.json"))
    before = lost.read_bytes()
    lost.unlink()
    again = run_study(study, corpus, [*rows, Row("trivial")], tmp_path / "cache")
    assert lost.read_bytes() == before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost}
    assert again[:2] == first
    shutil.rmtree(tmp_path / "cache")
    (facts,) = (tmp_path / "out").rglob("features.json")
    facts.rename(facts.with_name("heard.json"))  # as older versions called it
    assert run_study(study, corpus, rows, tmp_path / "cache") == first
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="another probe"):
        run_study(
            study_in(tmp_path / "out", probe=ProbeSettings(max_epochs=1)), corpus, rows, tmp_path
        )


@pytest.mark.statistics
def test_layers_may_be_weighted_and_contexts_be_the_papers(tmp_path: Path, corpus: Corpus) -> None:
    study = study_in(
        tmp_path / "out", layers="mixed", context="paper", tasks=("chord", "structure"), num_seeds=1
    )
    results = run_study(study, corpus, [encoder_row(tmp_path)], tmp_path / "cache")
    assert [result.layers for result in results] == [(0, 1), (0, 1)]
    head = load(next((tmp_path / "out").rglob("chord/mixed/seed_0")))
    assert head.config.context == "paper"
    assert len(list((tmp_path / "cache").iterdir())) == 2  # 12 s and 24 s


def test_labels_that_are_missing_are_said_before_anything_is_computed(
    tmp_path: Path, corpus: Corpus
) -> None:
    bare = Corpus("bare", corpus.train, corpus.valid, {"test": ()})
    with pytest.raises(DataError, match="the test set 'test' has labels for chord"):
        run_study(study_in(tmp_path / "out"), bare, [Row("mel")], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_rows_that_cannot_be_are_refused_before_anything_is_computed(
    tmp_path: Path, corpus: Corpus
) -> None:
    study = study_in(tmp_path / "out", tasks=("beat",))
    with pytest.raises(ConfigError, match="chroma cannot be used for beat"):
        run_study(study, corpus, [Row("chroma")], tmp_path / "cache")
    (tmp_path / "needs.py").write_text("import no_such_package")
    with pytest.raises(ConfigError, match="no_such_package"):
        run_study(study, corpus, [Row("mel"), Row(f"{tmp_path}/needs.py:x")], tmp_path / "cache")
    with pytest.raises(ConfigError, match="would share the folder a_b"):
        run_study(study, corpus, [Row("a/b"), Row("a_b")], tmp_path / "cache")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / RUN).touch()
    with pytest.raises(ConfigError, match="tuned holds a fine-tuned model; choose another folder"):
        run_study(study_in(tmp_path / "tuned"), corpus, [Row("mel")], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_rows_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        Row("nowhere.py:Encoder").encoder()
    row = encoder_row(tmp_path)
    path = row.name.rpartition(":")[0]
    with pytest.raises(ConfigError, match="has no 'Other'"):
        Row(f"{path}:Other").encoder()
    with pytest.raises(ConfigError, match="nothing returns int, not a WindowEncoder"):
        Row(f"{path}:nothing").encoder()


def test_rows_know_what_they_are() -> None:
    assert Row("scratch:runs/a/model").model == "runs/a/model"
    assert Row("scratch:nano").kind == "scratch"
    assert Row("untrained:nano").kind == "probe"
    assert Row("mel").inputs("beat") == "stacked"
    assert Row("mel").inputs("tagging") == "statistics"
    assert Row("nano").inputs("tagging") == "frames"
    assert "/" not in Row("runs/a/model").folder
    one, other = (Row("untrained:nano").load() for _ in range(2))
    assert all(
        a.equal(b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_other_chords_and_keys_of_a_song_count_where_one_cannot_be_read() -> None:
    def read(kind: str, labels: tuple[str, ...]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        edges = np.arange(len(labels) + 1.0)
        spans = Spans(np.stack([edges[:-1], edges[1:]], axis=1), labels)
        track = Track("a.wav", 9.0, 1, 1, 1, 1, "0" * 64, split="train")
        item = LabelledTrack(track, Path("a.wav"), Annotations(**{kind: spans}))  # type: ignore[arg-type]
        corpus = _of_splits("x", Labelled((item,), ()))
        found = getattr(corpus.train[0].annotations, kind)
        return None if found is None else found.labels, corpus.problems

    labels, problems = read("chords", ("C:maj", "C:mja", "N", "X", "C:mja"))
    assert labels == ("C:maj", "X", "N", "X", "X")
    assert problems == (
        "2 of the 5 chords of a.wav do not count: 'C:mja' is not a chord in Harte's notation",
    )
    assert read("chords", ("C", "Am", "F", "Gm7")) == (
        None,
        ("the chords of a.wav are not used: 'Am' is not a chord in Harte's notation",),
    )
    labels, problems = read("keys", ("C:major", "H:minor", "A:minor"))
    assert labels == ("C:major", "X", "A:minor")
    assert "1 of the 3 keys of a.wav do not count: 'H:minor' is not a key" in problems[0]


def test_collections_are_opened_by_name(tmp_path: Path) -> None:
    folder = tones.write_tones(tmp_path / "music", 12)
    shutil.copy(folder / "tone_3.wav", folder / "copy.wav")
    jams = json.loads((folder / "tone_3.jams").read_bytes())
    jams["annotations"][1]["data"][0]["value"] = "Cm7"
    (folder / "tone_4.jams").write_text(json.dumps(jams))
    shutil.copy(folder / "tone_3.jams", folder / "copy.jams")
    corpus = open_corpus(str(folder), tmp_path, num_workers=1)
    assert "tone_4.wav are not used: 'Cm7' is not a chord" in " ".join(corpus.problems)
    assert [item.track.path for item in corpus.tracks if item.annotations.chords is None] == [
        "tone_4.wav"
    ]
    sizes = [len(corpus.train), len(corpus.valid), len(corpus.tests["test"])]
    assert sum(sizes) == 13  # equal bytes are one group, and so in one split
    assert corpus.with_labels(0.01).train[0] in corpus.train
    assert len(corpus.as_one_test().tests["all"]) == 13
    assert corpus.with_labels(0.01).vocabulary == corpus.vocabulary
    assert corpus.vocabulary == tuple(
        sorted({t for c in corpus.train for t in c.annotations.tags or ()})
    )
    # A dataset with splits of its own may leave some recordings out of them.
    test = corpus.tests["test"]
    rest = tuple(replace(item, track=replace(item.track, split=None)) for item in corpus.train)
    parted = _of_splits("gtzan", Labelled((*test, *rest), ()))
    assert parted.tracks == test
    assert parted.as_one_test().tests["all"] == (*test, *rest)
    with pytest.raises(ConfigError, match="there is no collection 'nowhere': give rendered-v1"):
        open_corpus("nowhere", tmp_path)
    with pytest.raises(ConfigError, match="is for rendered-v1"):
        open_corpus(str(folder), tmp_path, fraction=0.5)
    with pytest.raises(ConfigError, match="labels is impossible"):
        corpus.with_labels(0.0)


def test_the_papers_rows_have_its_columns() -> None:
    assert all(len(row) == len(COLUMNS) for row in PAPER.values())
    assert all(0.4 < value < 0.95 for row in PAPER.values() for value in row)


def test_heads_are_told_apart_by_what_they_see() -> None:
    plain = HeadConfig(task="key", model="mel", fingerprint="0", layers=(0,), dim=4)
    assert plain.inputs == "frames"
    assert plain.context == "model"
