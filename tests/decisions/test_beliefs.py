"""The statistics of `confirm`, against sums over a fine grid and against simulated measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoexp.decisions.beliefs import Effects, after_keep, believed, scaled_erfc
from autoexp.decisions.curves import foretold
from autoexp.decisions.learning import learned_effects, noise_variance
from autoexp.decisions.lookahead import Known, _after_best, _after_candidate, idea_price, kept_gain, worth
from autoexp.decisions.policy import BEST, CANDIDATE, DISCARD, KEEP, Policy, choose, hopeless

EFFECTS = Effects(0.15, 0.6, 1.2, 3.5)
GRID = np.linspace(-60.0, 60.0, 400_001)


def density(effects: Effects) -> np.ndarray:
    """Of the effects on the grid; the point in the middle has all that do nothing."""
    step = GRID[1] - GRID[0]
    better = np.where(GRID < 0, effects.better / effects.gain * np.exp(np.minimum(GRID / effects.gain, 0.0)), 0.0)
    worse = np.where(GRID > 0, effects.worse / effects.loss * np.exp(np.minimum(-GRID / effects.loss, 0.0)), 0.0)
    found: np.ndarray = (better + worse) * step
    found[len(GRID) // 2] += effects.same
    return found


def test_the_scaled_error_function_is_right_to_six_digits() -> None:
    for x in (-5.0, -1.0, -0.1, 0.0, 0.3, 1.0, 4.0, 8.0):
        assert scaled_erfc(x) == pytest.approx(math.exp(x * x) * math.erfc(x), rel=1e-6)
    assert scaled_erfc(50.0) == pytest.approx(1 / (50 * math.sqrt(math.pi)), rel=1e-3)
    assert np.isfinite(scaled_erfc(-1e6))


@pytest.mark.parametrize("error", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("difference", [-6.0, -1.5, 0.0, 0.7, 5.0])
def test_a_belief_is_what_a_sum_over_all_effects_says(difference: float, error: float) -> None:
    weights = density(EFFECTS) * np.exp(-0.5 * ((difference - GRID) / error) ** 2)
    weights /= weights.sum()
    mean = (weights * GRID).sum()
    found = believed(difference, error**2, EFFECTS)
    assert float(found.better) == pytest.approx(weights[GRID < -1e-9].sum(), abs=2e-4)
    assert float(found.worse) == pytest.approx(weights[GRID > 1e-9].sum(), abs=2e-4)
    assert float(found.mean) == pytest.approx(mean, abs=3e-3)
    assert float(found.variance) == pytest.approx((weights * (GRID - mean) ** 2).sum(), rel=2e-2, abs=1e-3)


def test_beyond_all_doubt_nothing_overflows_and_the_size_is_what_was_measured() -> None:
    with np.errstate(all="raise"):
        found = believed(np.array([-1.0, 1.0]), 1e-18, EFFECTS)
    assert found.better[0] > 0.9999 and found.worse[1] > 0.9999
    assert found.mean == pytest.approx([-1.0, 1.0], abs=1e-6)


def test_estimates_of_a_best_that_was_chosen_for_its_number_are_not_too_good() -> None:
    """Of many kept candidates: their numbers are too good by a clear part of the noise, their estimates are not."""
    rng = np.random.default_rng(1)
    count = 200_000
    kind = rng.random(count)
    true = np.where(kind < 0.15, -rng.exponential(1.2, count), np.where(kind < 0.4, 0.0, rng.exponential(3.5, count)))
    old = rng.normal(0.0, 0.5, count)  # the old best's true metric, known to be 0 give or take 0.5
    value = old + true + rng.normal(0.0, 1.0, count)
    kept = value < -1.5
    guess, variance = after_keep(0.0, 0.25, value[kept], 1.0, EFFECTS)
    off = (old + true)[kept] - guess
    assert (value - old - true)[kept].mean() < -0.4
    assert abs(off.mean()) < 0.02
    assert (off**2).mean() == pytest.approx(variance.mean(), rel=0.05)


def test_the_spread_of_effects_is_learned_from_trials() -> None:
    rng = np.random.default_rng(2)
    kind = rng.random(300)
    true = np.where(kind < 0.3, -rng.exponential(5.0, 300), np.where(kind < 0.5, 0.0, rng.exponential(10.0, 300)))
    measured = true + rng.normal(0.0, 1.0, 300)
    found = learned_effects(measured[None], np.ones((1, 300)), np.ones((1, 300)), np.array([1.0]))
    assert found.better[0] == pytest.approx(0.3, abs=0.08) and found.worse[0] == pytest.approx(0.5, abs=0.12)
    assert found.gain[0] == pytest.approx(5.0, rel=0.25) and found.loss[0] == pytest.approx(10.0, rel=0.25)
    unknown = learned_effects(np.zeros((1, 0)), np.ones((1, 0)), np.zeros((1, 0)), np.array([4.0]))
    assert (unknown.gain[0], unknown.loss[0]) == (2.0, 6.0), "in noises, before there is a trial"


def test_a_few_wrecks_do_not_hide_what_the_others_are_like() -> None:
    """A tenfold learning rate is worse by hundreds of noises, a brilliant first idea better by as many."""
    rng = np.random.default_rng(3)
    usual = np.concatenate([-rng.exponential(5.0, 60), rng.exponential(10.0, 140)]) + rng.normal(0.0, 1.0, 200)
    spoilt = np.concatenate([usual, np.full(20, 2000.0), [-3000.0]])
    one, other = (
        learned_effects(each[None], np.ones((1, len(each))), np.ones((1, len(each))), np.array([1.0]))
        for each in (usual, spoilt)
    )
    assert other.loss[0] < 2.0 * one.loss[0] and other.gain[0] < 2.0 * one.gain[0]
    near = np.array([-2.0])
    assert believed(near, np.ones(1), other).better == pytest.approx(believed(near, np.ones(1), one).better, abs=0.1)


def test_few_repeats_leave_room_for_more_noise() -> None:
    few, many = noise_variance(2.0, 2.0, 1.0), noise_variance(200.0, 200.0, 1.0)
    assert few == pytest.approx(2.0) and many == pytest.approx(1.01)
    assert noise_variance(0.0, 5.0, 1.0) > 0.0


def known(difference: float, count: float = 1.0, best: float = 0.25) -> Known:
    return Known(np.array([difference]), np.array([count]), np.array([best]), np.array([1.0]))


def test_another_look_is_worth_most_where_the_decision_hangs_on_it() -> None:
    gained = []
    for difference in (-12.0, -2.0, 8.0):
        found = worth(known(difference), EFFECTS, 0.5, 0.0, 0.0)
        gained.append(float(found.candidate[0] - found.stop[0]))
    assert gained[1] > 5 * max(abs(gained[0]), abs(gained[2]))
    assert all(each > -1e-2 for each in gained), "knowing more never hurts"


def test_what_a_look_is_worth_agrees_with_measurements_that_are_drawn() -> None:
    """Two further trainings of the candidate, and of the best, against 400,000 simulated ones."""
    rng = np.random.default_rng(3)
    state, cost = known(-1.5), 0.5 * EFFECTS.gain
    weights = density(EFFECTS) * np.exp(-0.5 * (-1.5 - GRID) ** 2 / 1.25)
    effect = rng.choice(GRID, 400_000, p=weights / weights.sum())
    # a fifth of what the effect does not explain is the best's: its true metric less the estimate
    best = 0.2 * (-1.5 - effect) + rng.normal(0.0, math.sqrt(0.2), len(effect))
    luck = rng.normal(0.0, math.sqrt(0.5), len(effect))
    candidate = (-1.5 + 2 * (best + effect + luck)) / 3, 1 / 3 + 0.25
    trust = 0.25 / (0.25 + 0.5)
    incumbent = -1.5 - trust * (best + luck), 1.0 + 0.25 * (1.0 - trust)
    belief = believed(-1.5, state.variance, EFFECTS)
    for (difference, variance), found in (
        (candidate, _after_candidate(state, belief, EFFECTS, cost, 2)),
        (incumbent, _after_best(state, belief, EFFECTS, cost, 2)),
    ):
        gained = kept_gain(believed(difference, variance, EFFECTS), cost).mean()
        assert float(found[0]) == pytest.approx(gained, rel=0.1)


def test_a_new_idea_is_worth_more_where_the_best_is_known_better() -> None:
    prices = [float(idea_price(np.array([v]), np.array([1.0]), EFFECTS, 0.6)[0]) for v in (4.0, 1.0, 0.1)]
    assert prices == sorted(prices) and prices[0] > 0.0


def test_the_policy_keeps_drops_and_looks() -> None:
    counts = np.array([3.0])
    answers = [int(choose(known(d), counts, EFFECTS, Policy())[0][0]) for d in (-9.0, -2.0, 6.0)]
    assert answers[0] == KEEP and answers[1] in (CANDIDATE, BEST) and answers[2] == DISCARD
    no_more = Policy(looks=0, best_looks=0)
    assert int(choose(known(-2.0), counts, EFFECTS, no_more)[0][0]) not in (CANDIDATE, BEST)


def test_curves_foretell_what_they_have_foretold_before() -> None:
    rng = np.random.default_rng(4)
    leads = rng.normal(0.0, 10.0, (1, 30))
    ends = 0.3 * leads * (1 + rng.normal(0.0, 0.3, 30)) + rng.normal(0.0, 1.0, 30)
    middle, variance = foretold(np.array([20.0]), leads, ends, np.ones((1, 30)), np.array([1.0]))
    assert middle[0] == pytest.approx(6.0, rel=0.2)
    assert 1.5 < math.sqrt(variance[0]) < 5.0
    few = foretold(np.array([20.0]), leads[:, :4], ends[:, :4], np.ones((1, 4)), np.array([1.0]))
    backwards = foretold(np.array([20.0]), leads, -ends, np.ones((1, 30)), np.array([1.0]))
    assert np.isinf(few[1][0]) and np.isinf(backwards[1][0])
    stop, better = hopeless(np.array([6.0, 0.0]), np.array([1.0, np.inf]), EFFECTS, Policy())
    assert stop.tolist() == [True, False] and better[0] < 0.01 and np.isnan(better[1])
