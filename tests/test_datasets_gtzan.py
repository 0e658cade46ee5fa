from collections import Counter

from musicfm.datasets.gtzan import filtered_split


def test_the_split_has_the_sizes_that_are_published() -> None:
    splits = filtered_split()
    assert Counter(splits.values()) == {"train": 443, "valid": 197, "test": 290}
    assert len({name.split(".")[0] for name in splits}) == 10


def test_some_excerpts_are_where_the_lists_have_them() -> None:
    splits = filtered_split()
    assert splits["blues.00029"] == splits["rock.00099"] == "train"
    assert splits["blues.00000"] == splits["disco.00095"] == "valid"
    assert splits["blues.00012"] == splits["pop.00082"] == "test"
    assert not {"classical.00042", "country.00008", "hiphop.00039"} & set(splits)
