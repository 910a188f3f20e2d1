"""What samples count for: shares are an owner's, and a cap holds whatever anybody says of itself."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.rounds.weights import Heaviest, Samples, Weight, heaviest, level, shared_out, weigh

MOST = 2**29 - 1


def counted(invited: list[Samples], share: float) -> dict[str, int]:
    return {client: weight.counted for client, weight in weigh(invited, share, capped=True).items()}


def of(owner: str, *sizes: int) -> list[Samples]:
    return [Samples(f"{owner}{number}", size, owner) for number, size in enumerate(sizes)]


def test_a_client_with_more_than_its_share_is_refused_in_the_words_of_the_record() -> None:
    weights = weigh([*of("a", 100), *of("b", 100), *of("c", 201)], 0.5, capped=False)
    assert [weight.refusal for weight in weights.values()] == [
        None,
        None,
        "weight_share: 201 of the 401 samples invited is more than a share of 0.5",
    ]
    assert [weight.counted for weight in weights.values()] == [100, 100, 201]


def test_a_share_is_an_owners() -> None:
    """Three ids of one owner, of which none has more than half, have more together: all are refused."""
    weights = weigh([*of("10.0.0.7", 90, 90, 90), *of("a", 100), *of("b", 100)], 0.5, capped=False)
    why = "weight_share: the 3 clients of 10.0.0.7 have 270 of the 470 samples invited, more than a share of 0.5"
    assert [weight.refusal for weight in weights.values()] == [why, why, why, None, None]


@pytest.mark.parametrize("capped", [False, True])
def test_a_share_of_one_touches_nothing(capped: bool) -> None:
    invited = [*of("a", 1), *of("b", MOST, MOST)]
    weights = weigh(invited, 1.0, capped=capped)
    assert weights == {one.client_id: Weight(one.owner, one.data_size) for one in invited}
    assert weigh([], 1.0, capped=capped) == {}


def test_a_cap_lowers_who_has_more_to_its_share_of_what_is_counted() -> None:
    assert counted([*of("a", 100), *of("b", 300), *of("c", MOST)], 0.5) == {"a0": 100, "b0": 300, "c0": 400}
    assert counted([*of("a", 100), *of("b", 100), *of("c", MOST), *of("d", MOST)], 0.4) == {
        **{"a0": 100, "b0": 100},
        **{"c0": 400, "d0": 400},  # 0.4 of 1,000 each
    }


def test_within_an_owner_all_are_lowered_in_proportion() -> None:
    assert counted([*of("a", 100), *of("b", 300, 100)], 0.5) == {"a0": 100, "b0": 75, "b1": 25}


def test_where_there_are_too_few_owners_for_the_share_all_count_alike() -> None:
    assert counted([*of("a", 100), *of("b", MOST)], 0.3) == {"a0": 100, "b0": 100}
    assert counted(of("a", 100, 50), 0.3) == {"a0": 100, "a1": 50}, "one owner has all of it"


def test_an_owner_of_more_clients_than_samples_to_count_counts_with_the_largest() -> None:
    weights = weigh([*of("a", 3), *of("b", 5, 9, 5, 7)], 0.5, capped=True)
    assert {client: weight.counted for client, weight in weights.items()} == {
        **{"a0": 3, "b0": 1, "b1": 1},
        **{"b2": 0, "b3": 1},
    }
    why = "weight_share: the 4 clients of b count with 3 samples in all, one each for the largest"
    assert [weight.refusal for weight in weights.values()] == [None, None, None, why, None]


samples = st.lists(
    st.tuples(st.sampled_from("abcde"), st.one_of(st.integers(1, 20), st.integers(1, MOST))), min_size=1, max_size=12
)
shares = st.integers(1, 100).map(lambda percent: percent / 100)


@given(samples, shares)
def test_nobody_has_more_than_its_share_of_what_is_counted(said: list[tuple[str, int]], share: float) -> None:
    invited = [Samples(str(number), size, owner) for number, (owner, size) in enumerate(said)]
    weights = weigh(invited, share, capped=True)
    sums: dict[str, int] = {}
    for one in invited:
        weight = weights[one.client_id]
        assert 0 <= weight.counted <= one.data_size
        assert (weight.counted == 0) == (weight.refusal is not None)
        sums[one.owner] = sums.get(one.owner, 0) + weight.counted
    total, bound = sum(sums.values()), max(Fraction(str(share)), Fraction(1, len(sums)))
    assert all(size <= bound * total for size in sums.values())
    assert weigh(list(reversed(invited)), 1.0, capped=True) == weigh(invited, 1.0, capped=True)


@given(samples, shares)
def test_who_is_not_above_its_share_counts_with_all_and_the_others_with_as_much_as_can_be(
    said: list[tuple[str, int]], share: float
) -> None:
    sums: dict[str, int] = {}
    for owner, size in said:
        sums[owner] = sums.get(owner, 0) + size
    most, bound = level(sums.values(), share), max(Fraction(str(share)), Fraction(1, len(sums)))

    def total(at: int) -> int:
        return sum(min(size, at) for size in sums.values())

    assert max(min(size, most) for size in sums.values()) <= bound * total(most)
    if most < max(sums.values()):
        assert most + 1 > bound * total(most + 1), "one sample more would be too much"


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=9), st.data())
def test_what_is_shared_out_adds_up_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    most = data.draw(st.integers(1, max(1, sum(sizes) - 1)))
    if most >= sum(sizes):
        return
    shared = shared_out(sizes, most)
    assert sum(shared) == most
    exact = [Fraction(most * size, sum(sizes)) for size in sizes]
    for size, part, wanted in zip(sizes, shared, exact, strict=True):
        assert int(most >= len(sizes)) <= part <= size
        if all(part >= 1 for part in exact):
            assert abs(part - wanted) < 1


def test_the_heaviest_is_an_owner_with_nearly_all_of_it() -> None:
    a, b = ("a", Weight("client a", 5)), ("b", Weight("10.0.0.7", 50))
    c = ("c", Weight("10.0.0.7", 45))
    assert heaviest([a, b, c]) == Heaviest("10.0.0.7", ("b", "c"), 0.95)
    assert heaviest([a, b]) == Heaviest("10.0.0.7", ("b",), 50 / 55)
    assert heaviest([a, c]) is None, "0.9 is not more than 0.9"
    assert heaviest([b]) is None, "nobody else took part"
    assert heaviest([]) is None
