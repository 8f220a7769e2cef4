"""Heads chosen together, and what they bring back beyond what they cost."""

import numpy as np
import pytest
from games import gate_of, on_both

from sandbagging.errors import UserError
from sandbagging.heads import growing, rivals, selection, shares, specificity, sweep
from sandbagging.heads.head import Head
from sandbagging.heads.net import net, net_of

A, B, C, D = (Head(0, h) for h in range(4))


def worth(heads):
    """(genuine, sandbag): A restores, B ruins genuine answers, C lifts every answer alike."""
    return {A: (-0.5, 4.0), B: (-4.0, 1.0), C: (2.0, 2.0), D: (0.0, 0.3)}[next(iter(heads))]


def test_a_net_effect_takes_off_what_happens_to_genuine_prompts_in_either_direction():
    both = on_both(worth, [(h,) for h in (A, B, C, D)])
    found = net(both["sandbag"], both["genuine"]).effect("logodds").mean(1)
    assert found == pytest.approx([3.5, -3.0, 0.0, 0.3], abs=0.1)
    assert np.array_equal(
        net_of(both)["genuine"].effect("logodds"), both["genuine"].effect("logodds")
    )
    with pytest.raises(ValueError, match="same sets"):
        net(both["sandbag"], on_both(worth, [(A,)])["genuine"])


def test_a_set_restores_what_its_net_effect_says():
    """Two routes to one number: whole sweeps at once, as heads are chosen, and a set by itself."""
    both = on_both(worth, [(h,) for h in (A, B, C, D)])
    found = net(both["sandbag"], both["genuine"])
    for h in (A, B, C, D):
        assert shares.restored(both, (h,)) == pytest.approx(found.of((h,), "logodds"))


def test_a_gap_that_is_closed_by_ruin_is_not_restored():
    """B closes 5 nats of the gap, and right answers to sandbag prompts hardly come back."""
    both = on_both(worth, [(h,) for h in (A, B, C, D)])
    closed, restored = (f(both, (B,)).mean() for f in (shares.closed, shares.restored))
    assert closed == pytest.approx(5, abs=0.1) and restored == pytest.approx(-3, abs=0.1)
    assert specificity.specific(both, (B,)).says == specificity.LARGER_ELSEWHERE
    assert specificity.specific(both, (A,)).says == specificity.SPECIFIC


def test_ruin_does_not_survive_whatever_it_closes():
    others = [(Head(layer, h),) for layer in (1, 2, 3, 4) for h in range(9)]
    both = on_both(
        lambda heads: worth(heads) if set(heads) <= {A, B} else (0, 0), [(A,), (B,), *others]
    )
    said = {h: rivals.judge(both, (h,), [], {"uniform": others}, gate_of()) for h in (A, B)}
    assert said[A].grade == rivals.CHANCE and said[A].share.low > 0.1
    assert said[B].grade == rivals.FAILS and said[B].closed.low > 0.1
    assert "by what they do to genuine prompts" in said[B].reason


def test_heads_are_grown_as_by_hand(tiny_llama, tiny_questions):
    """Out of four heads, two: by every pair's scores, one set a run."""
    conditions, sets = ["sandbag", "genuine"], [(h,) for h in (A, B, C, D)]
    alone = sweep.sweep_conditions(tiny_llama, tiny_questions, conditions, "instr", sets)
    first = selection.top(net_of(alone)["sandbag"], 1)[0]
    pairs = [tuple(sorted((first, h))) for h in (A, B, C, D) if h != first]
    of_pairs = sweep.sweep_conditions(tiny_llama, tiny_questions, conditions, "instr", pairs)
    best = pairs[int(net_of(of_pairs)["sandbag"].effect("logodds").mean(1).argmax())]
    found = growing.grow(tiny_llama, tiny_questions, "sandbag", "instr", (A, B, C, D), 2)
    assert found.heads[0] == first and tuple(sorted(found.heads)) == best
    assert found.tried.groupby("step").size().to_dict() == {1: 4, 2: 3}
    other = found.other_than(found.heads)
    assert other[0] == first and set(other) != set(found.heads) and len(other) == 2


def test_no_other_set_is_one_sentence(tiny_llama, tiny_questions):
    grown = growing.grow(tiny_llama, tiny_questions, "genuine", "instr", (A, B), 2)
    with pytest.raises(UserError, match="no other set"):
        grown.other_than((B, A))


def test_early_heads_that_ruin_together_are_not_grown_together(monkeypatch):
    """B and C each bring back 1 and do no harm; together they ruin genuine answers."""

    def together(heads):
        if {B, C} <= set(heads):
            return (-4.0, 1.0)
        return (
            0.0,
            3.0 * (A in heads) + 1.0 * (B in heads) + 0.9 * (C in heads) + 0.2 * (D in heads),
        )

    def swept(model, asked, conditions, framing, sets, **_):
        return on_both(together, sets)

    monkeypatch.setattr(growing.sweep, "sweep_conditions", swept)
    singles = on_both(together, [(h,) for h in (A, B, C, D)])
    assert selection.candidates(singles, "sandbag", 3) == (A, B, C)
    asked = [type("Asked", (), {"id": str(i)}) for i in range(40)]
    found = growing.grow(None, asked, "sandbag", "instr", (A, B, C, D), 3)
    assert found.heads == (A, B, D)
