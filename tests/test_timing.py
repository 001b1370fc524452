import pytest
from hypothesis import given
from hypothesis import strategies as st

from allinsam.errors import InputError
from allinsam.timing import active_seconds, gaps_of, model_wait_seconds, seconds_per_object


def acts(*rows: tuple) -> list[dict]:
    """Rows (second, kind[, object_id[, payload]])."""
    keys = ("client_ms", "kind", "object_id", "payload")
    return [dict(zip(keys, (row[0] * 1000, *row[1:], None, None), strict=False)) for row in rows]


TWO_NUCLEI = acts(
    (0, "load"),
    (4, "box", "a"),
    (5, "mask_shown", "a", {"model_ms": 800}),
    (8, "accept", "a"),
    (11, "box", "b"),
    (12, "mask_shown", "b", {"model_ms": 800}),
    (15, "class", "b"),
    (20, "submit"),
)


def test_active_time_is_the_sum_of_the_gaps_without_the_models_time():
    assert active_seconds(TWO_NUCLEI) == pytest.approx(20 - 1.6)
    assert model_wait_seconds(TWO_NUCLEI) == pytest.approx(1.6)


def test_an_object_takes_from_the_act_before_it_to_its_own_last_act():
    seconds = seconds_per_object(TWO_NUCLEI)
    assert list(seconds) == ["a", "b"]
    assert seconds == pytest.approx({"a": 8 - 0.8, "b": 7 - 0.8})  # the 5 s before submit are nobody's


def test_a_gap_counts_up_to_the_cut_off():
    rows = acts((0, "load"), (10, "box", "a"), (310, "accept", "a"), (325, "box", "b"))
    assert active_seconds(rows) == 10 + 60 + 15
    assert active_seconds(rows, idle_cutoff_s=12) == 10 + 12 + 12
    assert active_seconds(rows, idle_cutoff_s=1000) == 325
    assert seconds_per_object(rows, idle_cutoff_s=12) == {"a": 22, "b": 12}


def test_the_models_wait_comes_off_before_the_cut_off_and_never_below_zero():
    slow = acts((0, "load"), (1, "box", "a"), (91, "mask_shown", "a", {"model_ms": 70_000}))
    assert active_seconds(slow) == 1 + 20
    # The next box was drawn while the first mask was on its way: those 2 s are work.
    busy = acts((0, "box", "a"), (2, "box", "b"), (3, "mask_shown", "a", {"model_ms": 3000}))
    assert active_seconds(busy) == 2


def test_a_mask_without_a_time_is_an_act_like_any_other():
    assert active_seconds(acts((0, "box", "a"), (2, "mask_shown", "a", {}), (3, "mask_shown", "a"))) == 3
    # Only mask_shown tells of the model.
    assert active_seconds(acts((0, "box", "a"), (2, "accept", "a", {"model_ms": 1000}))) == 2


def test_a_pause_does_not_count():
    rows = acts((0, "load"), (5, "pause"), (25, "resume"), (30, "box", "a"))
    assert active_seconds(rows) == 10
    assert seconds_per_object(rows) == {"a": 10}


def test_what_comes_in_during_a_pause_does_not_end_it():
    rows = acts(
        (0, "load"),
        (5, "pause"),
        (6, "mask_shown", "a"),
        (9, "blur"),
        (15, "focus"),
        (25, "resume"),
        (30, "box", "a"),
    )
    assert active_seconds(rows) == 10


def test_being_away_counts_up_to_one_cut_off_whatever_is_shown_meanwhile():
    short = acts((0, "load"), (5, "blur"), (25, "focus"), (27, "box", "a"))
    assert active_seconds(short) == 27
    rows = acts(
        (0, "load"),
        (5, "blur"),
        (55, "mask_shown", "a", {"model_ms": 1000}),
        (100, "blur"),
        (400, "focus"),
        (403, "box", "b"),
    )
    assert active_seconds(rows) == 5 + 60 + 3
    assert active_seconds(rows, idle_cutoff_s=1000) == 402


def test_an_act_after_blur_shows_that_the_person_is_back_even_without_focus():
    rows = acts((0, "load"), (5, "blur"), (105, "box", "a"), (155, "accept", "a"))
    assert active_seconds(rows) == 5 + 60 + 50


def test_a_new_load_starts_a_new_stretch_with_its_own_clock():
    rows = acts(
        (0, "load"),
        (5, "box", "a"),
        (9, "pause"),
        (900, "load"),
        (904, "box", "b"),
        (1, "load"),
        (3, "box", "c"),
    )
    assert active_seconds(rows) == 9 + 4 + 2
    assert seconds_per_object(rows) == {"a": 5, "b": 4, "c": 2}


def test_an_object_taken_up_again_gets_that_stretch_too():
    rows = acts(
        (0, "load"),
        (3, "box", "a"),
        (5, "box", "b"),
        (6, "comment"),
        (9, "mask_edit", "a"),
        (10, "delete", "b"),
    )
    assert seconds_per_object(rows) == {"a": 3 + 4, "b": 2 + 1}


def test_a_clock_that_jumps_back_takes_nothing_away():
    assert active_seconds(acts((10, "box", "a"), (4, "box", "b"), (6, "box", "c"))) == 2


def test_no_acts_no_time():
    assert active_seconds([]) == 0
    assert seconds_per_object([]) == {}
    assert active_seconds(acts((7, "load"))) == 0
    assert seconds_per_object(acts((7, "box", "a"))) == {"a": 0}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.sampled_from(
                ["load", "box", "accept", "mask_shown", "blur", "focus", "pause", "resume", "new_kind"]
            ),
            st.sampled_from(["a", "b", None]),
        ),
        max_size=30,
    ),
    st.integers(1, 100),
)
def test_objects_never_take_more_than_the_active_time_nor_that_more_than_the_clock(rows, cutoff):
    second, timed = 0, []
    for gap, kind, object_id in rows:
        second += gap
        timed.append((second, kind, object_id))
    total = active_seconds(acts(*timed), cutoff)
    assert sum(seconds_per_object(acts(*timed), cutoff).values()) <= total + 1e-9
    assert 0 <= total <= second
    assert total <= cutoff * max(0, len(rows) - 1)
    assert total <= active_seconds(acts(*timed), cutoff + 1) + 1e-9


def test_an_act_without_a_clock_and_a_cut_off_of_nothing_are_refused():
    with pytest.raises(InputError, match="'box' has client_ms None"):
        active_seconds([{"kind": "box", "client_ms": None}])
    with pytest.raises(InputError, match="cut-off"):
        active_seconds(TWO_NUCLEI, idle_cutoff_s=0)


def test_two_pages_have_two_clocks():
    acts = [
        {"kind": "load", "client": "a", "client_ms": 1_000.0, "payload": {}},
        {"kind": "box", "client": "a", "client_ms": 4_000.0, "payload": {}, "object_id": "1"},
        {"kind": "load", "client": "b", "client_ms": 900_000.0, "payload": {}},
        {"kind": "accept", "client": "a", "client_ms": 5_000.0, "payload": {}, "object_id": "1"},
        {"kind": "submit", "client": "a", "client_ms": 7_000.0, "payload": {}},
    ]
    # 3 s to the box, none across the clocks, 2 s to the submission.
    assert active_seconds(acts) == 5.0


def test_answers_of_the_server_are_no_acts_of_the_page():
    rows = acts(
        (0, "load"),
        (4, "box", "a"),
        (0.1, "mask_shown", "a", {"model_ms": 500}),
        (6, "box", "b"),
        (0.2, "mask_shown", "b", {"model_ms": 300}),
        (10, "accept", "b"),
    )
    for row in rows:
        row["client"] = "server" if row["kind"] == "mask_shown" else "page"
    assert active_seconds(rows) == pytest.approx(10 - 0.8)
    assert model_wait_seconds(rows) == pytest.approx(0.8)
    assert seconds_per_object(rows) == pytest.approx({"a": 4, "b": 2 - 0.5 + 4 - 0.3})


KINDS = ("load", "box", "mask_shown", "accept", "blur", "focus", "pause", "resume", "submit")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.sampled_from([None, "a", "b", "c"]),
            st.floats(0, 200),
            st.sampled_from(["page", "server"]),
        ),
        max_size=25,
    ),
    st.sampled_from([1.0, 15.0, 60.0, 120.0]),
)
def test_gaps_give_every_cut_off_what_the_acts_give(rows: list[tuple], cutoff_s: float) -> None:
    now, some = 0.0, []
    for kind, object_id, gap_s, client in rows:
        now += 1000 * gap_s
        payload = {"model_ms": 300.0} if kind == "mask_shown" else {}
        act = {"kind": kind, "object_id": object_id, "client_ms": now, "payload": payload, "client": client}
        some.append(act)
    gaps = gaps_of(some)
    assert gaps.active_s(cutoff_s) == pytest.approx(active_seconds(some, cutoff_s))
    per_object = dict(zip(gaps.object_ids, gaps.object_s(cutoff_s), strict=True))
    assert per_object == pytest.approx(seconds_per_object(some, cutoff_s))
    assert list(per_object) == list(seconds_per_object(some, cutoff_s))
    assert gaps.model_wait_s == pytest.approx(model_wait_seconds(some))
    assert gaps.active_s(cutoff_s, 3) == pytest.approx(active_seconds(some[:3], cutoff_s))


def test_a_cut_off_of_nothing_is_refused_by_gaps_too() -> None:
    gaps = gaps_of(TWO_NUCLEI)
    for refused in (lambda: gaps.active_s(0), lambda: gaps.object_s(-1.0)):
        with pytest.raises(InputError, match="is not usable"):
            refused()
