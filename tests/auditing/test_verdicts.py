"""The ladder, rung by rung, and the arithmetic of harm."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from siftlens.auditing.verdicts import Evidence, harm_of, verdict_of

ALL = Evidence(
    p_association=0.01,
    p_removal=0.01,
    p_swap=0.01,
    dependence=0.3,
    p_harm=0.01,
    off_object=0.9,
    lift_elsewhere=None,
    has_control=True,
    explained=0.1,
)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "confirmed spurious"),
        ({"off_object": None, "lift_elsewhere": 0.5}, "confirmed spurious"),
        ({"off_object": 0.5}, "harmful reliance"),
        ({"off_object": None}, "harmful reliance"),
        ({"off_object": None, "lift_elsewhere": 0.9}, "harmful reliance"),
        ({"p_harm": 0.2}, "relied on"),
        ({"explained": 0.7}, "global"),
        ({"p_removal": 0.2}, "associated"),
        ({"p_swap": 0.2}, "associated"),
        ({"dependence": 0.03}, "associated"),
        ({"dependence": 0.03, "explained": 0.7}, "associated"),
        ({"has_control": False}, "global"),
        ({"p_association": 0.2}, "not associated"),
        ({"p_association": float("nan")}, "not associated"),
        ({"p_removal": float("nan")}, "associated"),
    ],
)
def test_each_rung_needs_its_evidence(change, verdict):
    assert verdict_of(replace(ALL, **change)) == verdict


def test_harm_counts_errors_with_and_without_the_cue():
    carries = np.repeat([True, False, True, False], [10, 30, 40, 20])
    labels = np.repeat([0, 0, 1, 1], [10, 30, 40, 20])
    answers = np.concatenate(
        [np.repeat([1, 0], [7, 3]), np.repeat([1, 0], [3, 27]), np.repeat([1, 0], [38, 2]), np.repeat([1, 0], [9, 11])]
    )
    harm = harm_of(carries, labels, answers, 1)
    assert (harm.false_present, harm.false_absent) == (0.7, 0.1)
    assert (harm.missed_present, harm.missed_absent) == (0.05, 0.55)
    false = stats.fisher_exact([[7, 3], [3, 27]], alternative="greater").pvalue
    missed = stats.fisher_exact([[11, 9], [2, 38]], alternative="greater").pvalue
    assert harm.p == pytest.approx(2 * min(false, missed))


def test_without_images_on_one_side_there_is_no_harm_to_claim():
    harm = harm_of(np.ones(8, bool), np.repeat([0, 1], 4), np.ones(8, np.int64), 1)
    assert harm.p == 1 and np.isnan(harm.false_absent)
