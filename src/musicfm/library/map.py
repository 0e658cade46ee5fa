"""A library as a map: one HTML page, where tracks that sound alike are near each other.

Unlike those of other pages (:mod:`musicfm.analysis.html`), its scripts may make code of strings
("unsafe-eval"): the library that draws the points builds its drawing functions in that way.

Places are those of t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008).
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

import musicfm
from musicfm.analysis import html as pages
from musicfm.analysis.html import asset, scripts_of
from musicfm.errors import printable
from musicfm.library.database import Track
from musicfm.library.keys import write_key
from musicfm.library.library import Library
from musicfm.library.matrices import Matrix
from musicfm.remote import is_url

NEIGHBOURS = 8
"""The number of neighbours that are shown of a track."""
CLUSTERS = 7
"""The largest number of clusters: as many as there are colours that are easy to distinguish."""

_TAGS = 8
"""The largest number of tags of a track in the page."""
_LEAST_TAG = 0.1
_PERPLEXITY = 30.0
_BLOCK = 2_048
_ASSETS = "library/assets"


def map_page(library: Library, folder: Path | None = None) -> str:
    """The page.

    Args:
        library: whose tracks are shown; those whose files are gone are not.
        folder: that the page will be in, from which it finds the recordings; None for one that
            :mod:`musicfm.serving` gives out, which has them under ``/v1/tracks``.

    Raises:
        ConfigError: there are no tracks.
        DataError: there is no library, or nothing to compare yet.
    """
    tracks = library.present()
    vectors = library.vectors()[[track.vector for track in tracks]]
    addresses = [_address(track, folder) for track in tracks]
    data = _data(tracks, addresses, clusters(vectors))
    name = printable(library.path.absolute().name)
    data |= {"title": name, "model": library.settings.model, "version": musicfm.__version__}
    body = Template(asset(f"{_ASSETS}/map.html")).substitute(
        title=html.escape(name), licence=html.escape(asset(f"{_ASSETS}/scatterplot.LICENSE"))
    )
    return pages.render(
        f"Map of {name}",
        body,
        f"{_ASSETS}/map.css",
        _scripts(),
        policy(),
        {
            "data": data,
            "places": places(vectors).astype("<f4").tobytes(),
            "neighbours": neighbours(vectors, NEIGHBOURS).astype("<u4").tobytes(),
        },
    )


def policy() -> str:
    """The content security policy of a map."""
    media = "media-src 'self' file: http: https:"
    return pages.policy(_scripts(), media, sources="'unsafe-eval'")


def _scripts() -> list[str]:
    return scripts_of(f"{_ASSETS}/scatterplot.min.js", f"{_ASSETS}/map.js")


def places(vectors: Matrix) -> npt.NDArray[np.float64]:
    """(tracks, 2) places between -1 and 1, so that similar vectors are near each other.

    Args:
        vectors: (tracks, dim), of length 1. The same vectors always get the same places.
    """
    from sklearn.manifold import TSNE

    count = len(vectors)
    if count < 4:
        return np.stack([np.linspace(-0.5, 0.5, count), np.zeros(count)], axis=1)
    # Exact duplicates would divide by 0.
    jitter = np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
    found = TSNE(
        perplexity=min(_PERPLEXITY, (count - 1) / 3),
        init="pca",
        random_state=0,
    ).fit_transform(vectors + 1e-6 * jitter)
    found = np.asarray(found, np.float64)
    found -= (found.max(axis=0) + found.min(axis=0)) / 2
    return 0.95 * found / np.maximum(np.abs(found).max(axis=0), 1e-9)


def neighbours(vectors: Matrix, limit: int) -> npt.NDArray[np.int64]:
    """(tracks, limit) of each track the most similar others, the nearest first; fewer columns if
    there are fewer tracks.
    """
    limit = min(limit, len(vectors) - 1)
    found = []
    for start in range(0, len(vectors), _BLOCK):
        products = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(products))
        products[rows, start + rows] = -np.inf
        best = np.argpartition(-products, max(0, limit - 1), axis=1)[:, :limit]
        order = np.argsort(-np.take_along_axis(products, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def clusters(vectors: Matrix) -> npt.NDArray[np.int64]:
    """(tracks,) numbers from 0: groups of tracks that sound alike."""
    from sklearn.cluster import KMeans

    count = min(CLUSTERS, len(vectors) // 4)
    if count < 2:
        return np.zeros(len(vectors), np.int64)
    found = KMeans(count, n_init=3, random_state=0).fit_predict(vectors)
    return np.asarray(found, np.int64)


def cluster_names(tracks: Sequence[Track], numbers: npt.NDArray[np.int64]) -> list[str]:
    """What each group has more of than the library as a whole, by tags."""
    vocabulary = sorted({tag for track in tracks for tag in track.tags})
    table = np.array([[track.tags.get(tag, 0.0) for tag in vocabulary] for track in tracks])
    names = []
    for number in range(int(numbers.max()) + 1):
        name = str(number + 1)
        if vocabulary:
            lift = table[numbers == number].mean(axis=0) - table.mean(axis=0)
            best = [vocabulary[i] for i in np.argsort(-lift)[:2] if lift[i] > 0]
            name = ": ".join([name, ", ".join(best)]) if best else name
        names.append(name)
    return names


def _data(
    tracks: Sequence[Track], addresses: Sequence[str], numbers: npt.NDArray[np.int64]
) -> dict[str, Any]:
    keys = sorted({track.key for track in tracks if track.key}, key=_fifths)
    artist_names, artists = np.unique(
        [printable(track.artist) for track in tracks], return_inverse=True
    )
    album_names, albums = np.unique(
        [printable(track.album) for track in tracks], return_inverse=True
    )
    found = [
        [(tag, sure) for tag, sure in list(track.tags.items())[:_TAGS] if sure >= _LEAST_TAG]
        for track in tracks
    ]
    vocabulary = sorted({tag for tags in found for tag, _ in tags})
    number = {tag: index for index, tag in enumerate(vocabulary)}
    return {
        "titles": [printable(track.title) for track in tracks],
        "artists": artists.tolist(),
        "artistNames": artist_names.tolist(),
        "albums": albums.tolist(),
        "albumNames": album_names.tolist(),
        "files": addresses,
        "durations": [round(track.duration, 1) for track in tracks],
        "tempi": [None if track.tempo is None else round(track.tempo, 1) for track in tracks],
        "keys": [keys.index(track.key) if track.key else -1 for track in tracks],
        "keyNames": keys,
        "fifths": [_fifths(key)[0] for key in keys],
        "tags": [[[number[tag], round(100 * sure)] for tag, sure in tags] for tags in found],
        "tagNames": vocabulary,
        "clusters": numbers.tolist(),
        "clusterNames": cluster_names(tracks, numbers),
    }


def _fifths(key: str) -> tuple[int, str]:
    """A key's number on the wheel, then its mode."""
    place = write_key(key, "openkey")
    return int(place[:-1]), place[-1]


def _address(track: Track, folder: Path | None) -> str:
    """Where a page finds a recording."""
    if folder is None:
        return f"v1/tracks/{track.id}/audio"
    if is_url(track.path):
        return track.path
    try:
        path = Path(os.path.relpath(track.path, os.path.realpath(folder)))
    except ValueError:  # on another drive
        return Path(track.path).as_uri()
    return quote(os.fsencode(path.as_posix()))
