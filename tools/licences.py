"""Write docs/licences.md: `make licences`.

The tables are what the installed packages say of themselves, so everything that pyproject.toml
names has to be installed, as `make setup-locked` does. What is no package is said by hand, below.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"

CORE = "musicfm"
DEVELOPMENT = ("dev", "docs", "bench")  # extras that nothing but work on the code needs

NOT_IN_CI = {"lancedb": "Apache-2.0"}
"""Packages that CI does not install, and their licences."""

# Other ways to write licences that SPDX has a name for.
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "zlib/libpng": "Zlib",
}

TEXT = """\
# Licences

<!-- Written by tools/licences.py (`make licences`). Change that, not this. -->

This says what everything is under that is in the package, that comes with it, or that it can fetch.
It is a list and no legal advice.

## In the repository and in the package

| | licence | in the package |
|---|---|---|
| code, pages, documentation | MIT: `LICENSE` | yes, but for the documentation |
| `nano` and its heads, trained by us on songs of `musicfm render`, and on the free music below | \
MIT | yes |
| [wavesurfer.js](https://wavesurfer.xyz) 8.0.1, unchanged; pages of songs carry it too | \
BSD-3-Clause: `src/musicfm/analysis/assets/wavesurfer.LICENSE` | yes |
| [regl-scatterplot](https://github.com/flekschas/regl-scatterplot) 1.16.0 and what it needs, \
unchanged, in one file; maps of libraries carry it too | MIT, and ISC for two parts: \
`src/musicfm/library/assets/scatterplot.LICENSE` | yes |
| the demo song and its sections, and the script that renders it | CC0-1.0 | no |
| rendered-v1, rendered-v2: seeds of songs, and fingerprints of their labels | MIT | yes |

Hence the package's licence: `MIT AND BSD-3-Clause AND ISC`. Pages use the fonts of the reader's
system and load nothing.

## Not in the package

| | licence | |
|---|---|---|
| TimGM6mb, the sound font that `musicfm render` plays | GPL-2.0 | comes inside the Python package \
pretty_midi, which itself is MIT; labels and cards name it |
| the published weights, `msd` and `fma` | we know of no statement | \
[asked of their authors](https://github.com/minzwon/musicfm/issues/7), and not answered \
when this was written; the code beside them is MIT, but for one file under Apache-2.0. They are \
downloaded from [their repository](https://huggingface.co/minzwon/MusicFM), which has today's \
terms, and never passed on by us |
| music of nine of Debian's game packages, used by `nano` without labels | CC-BY-SA (5.4 hours), \
GPL (4.1), GPL or CC-BY (0.7), CC-BY (0.3): `runs/game_music.csv` lists each file | fetched by \
`runs/game_music.py`; never passed on by us |
| the other sound fonts of the songs that `nano` learned from: FluidR3 and MuseScore General; \
OPL-3 FM 128M | MIT; GPL-3.0-or-later | Debian's packages `fluid-soundfont-gm`, \
`musescore-general-soundfont`, `opl3-soundfont`; `--soundfonts` plays them |
| POP909, whose compositions 220 of those songs have, and their forms | MIT, both | \
[POP909](https://github.com/music-x-lab/POP909-Dataset), \
[forms](https://github.com/Dsqvival/hierarchical-structure-analysis); `--lead-sheets` reads them |
| published datasets | each its own | none is downloaded; see [datasets](datasets.md) |

Whether a licence of music reaches the weights of a model trained on it is disputed; so what
`nano` has learned from is listed, and what forbids some use, or states no licence, was left out.

Songs of `musicfm render` are played from a font under the GPL. Whether that licence reaches sound
made with a font is disputed. Each song's labels name font and licence, and `--soundfonts` takes any
other font. Lead sheets of OpenEWLD, which `--lead-sheets` reads too, were left out of what `nano`
learned from: some of those works are not in the public domain everywhere.

mutagen, which `musicfm library tag` writes with, is under the GPL. It is an extra of its own,
`musicfm[tags]`, which nothing else needs. This package calls it and contains nothing of it; who
passes on both together, in a container image for instance, does so under the GPL.

## Inside wheels

Some wheels carry or need libraries under licences that they do not declare, or copyleft ones. They
are not part of this package; who passes the wheels on, in a container image for instance, passes on
these too:

| wheel | carries | under |
|---|---|---|
| av | FFmpeg | LGPL-3.0-or-later |
| av | x264 and x265, which video needs and sound does not | \
GPL-2.0-or-later, or their makers' commercial licences \
([their discussion](https://github.com/PyAV-Org/PyAV/issues/2270)) |
| soundfile | libsndfile | LGPL-2.1-or-later |
| soxr | libsoxr | LGPL-2.1-or-later |
| torch, from PyPI on Linux | CUDA libraries of NVIDIA, in wheels of their own | NVIDIA's own, not \
open; the wheels of PyTorch's CPU index need none |

## What the package depends on

With the versions of `constraints.txt`, on Linux with CPython 3.11, as the packages declare it.
LanceDB, which CI does not install, was looked up by hand, with version 0.40.0; it also needs
deprecation, lance-namespace, lance-namespace-urllib3-client and overrides, all under Apache-2.0.
"BSD" is what those say that do not say which. `musicfm` stands for the package without extras.

### Named by us

| package | licence | needed by |
|---|---|---|
{direct}

### Needed by those

| package | licence | needed by |
|---|---|---|
{indirect}
"""


def licence_of(package: Distribution) -> str:
    """What a package declares: by SPDX, in its licence field, or as classifiers."""
    expressions = package.metadata.get_all("License-Expression")
    if expressions:
        return str(expressions[0])
    # The field may hold the whole text, of which the first line may be a name.
    text, *_ = package.metadata.get_all("License") or [""]
    first = text.strip().partition("\n")[0].strip()
    name = SPELLINGS.get(first, first)
    if name != "UNKNOWN" and re.fullmatch(r"[\w.+-]+( (AND|OR) [\w.+-]+)*", name):
        return name
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in package.metadata.get_all("Classifier") or []
        if classifier.startswith("License :: OSI Approved :: ")
    ]
    if not classifiers:
        raise SystemExit(f"{package.name} declares no licence; look, and say here how to read it")
    return " OR ".join(SPELLINGS.get(classifier, classifier) for classifier in classifiers)


def installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise SystemExit(f"{name} is not installed; run make setup-locked first") from None


def needed(requirements: Iterable[str], extra: str = "") -> Iterator[Requirement]:
    """Those that count in this environment, and for an extra."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def closure(requirements: Iterable[str]) -> set[str]:
    """All packages that these requirements bring, themselves included, by canonical name."""
    waiting = list(needed(requirements))
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                if name not in NOT_IN_CI:
                    waiting += needed(installed(name).requires or [], extra)
    return {name for name, _ in done}


def direct_requirements() -> dict[str, list[str]]:
    """What pyproject.toml names: for the package, and for each extra without the extras in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: [text for text in named if Requirement(text).name != CORE]
        for extra, named in project["optional-dependencies"].items()
    }
    return {CORE: project["dependencies"], **extras}


def rows(packages: Mapping[str, list[str]]) -> str:
    """A table's rows, of packages and what needs them."""
    lines = []
    for name in sorted(packages):
        if name in NOT_IN_CI:
            spelt, licence = name, NOT_IN_CI[name]
        else:
            package = installed(name)
            spelt, licence = package.name, licence_of(package)
        lines.append(f"| {spelt} | {licence} | {', '.join(packages[name])} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    requirements = direct_requirements()
    direct: dict[str, list[str]] = {}
    for extra, named in requirements.items():
        for requirement in {canonicalize_name(Requirement(text).name) for text in named}:
            direct.setdefault(requirement, []).append(extra)
    brought: dict[str, list[str]] = {}
    for extra, named in requirements.items():
        for name in closure(named) - direct.keys():
            brought.setdefault(name, []).append(extra)
    # What all have, and what users have anyway, need not be said of the other extras.
    indirect = {
        name: [CORE] if CORE in extras else [e for e in extras if e not in DEVELOPMENT] or extras
        for name, extras in brought.items()
    }
    return TEXT.format(direct=rows(direct), indirect=rows(indirect))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
