from collections import Counter

from musicfm.render.dice import Dice


def test_draws_are_the_same_on_any_machine() -> None:
    dice = Dice("song", 7)
    assert [dice.integer(0, 999) for _ in range(6)] == [678, 800, 388, 596, 447, 835]
    assert dice.child("melody").uniform(-1, 1) == Dice("song", 7, "melody").uniform(-1, 1)


def test_purposes_do_not_disturb_one_another() -> None:
    first, second = Dice("song", 7), Dice("song", 7)
    for _ in range(100):
        first.unit()
    assert first.child("drums").unit() == second.child("drums").unit()
    assert first.child("drums").unit() != first.child("bass").unit()


def test_draws_stay_within_their_bounds_and_reach_them() -> None:
    dice = Dice("bounds")
    numbers = Counter(dice.integer(3, 5) for _ in range(300))
    assert set(numbers) == {3, 4, 5}
    assert all(-0.5 < dice.triangular(0.5) < 0.5 for _ in range(300))
    assert all(2.0 <= dice.uniform(2.0, 2.5) < 2.5 for _ in range(300))


def test_weights_are_kept() -> None:
    dice = Dice("weights")
    counts = Counter(
        dice.weighted({"often": 3.0, "never": 0.0, "seldom": 1.0}) for _ in range(4000)
    )
    assert counts["never"] == 0
    assert 0.71 < counts["often"] / 4000 < 0.79


def test_shuffling_keeps_everything() -> None:
    dice = Dice("shuffle")
    orders = {tuple(dice.shuffled(range(4))) for _ in range(400)}
    assert len(orders) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
