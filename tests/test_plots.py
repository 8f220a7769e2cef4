"""Every figure is drawn from a small made-up table: no warnings, units on the axes, n in sight."""

import warnings

import made_up
import made_up_ledger
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.suite import baseline, plots
from sandbagging.suite.plots import saes
from sandbagging.swaps.examples import EXAMPLES, decided

matplotlib.use("agg")
RNG = np.random.default_rng(0)
HEADS = [(2, 0), (5, 3), (9, 1), (17, 6), (22, 8)]


def with_ci(table, value="effect_pp", half=1.0, n=50):
    table = pd.DataFrame(table)
    return table.assign(low=table[value] - half, high=table[value] + half, n=n)


def gaps():
    framings = [
        "instr_contrast",
        "contrast",
        "instr_pref",
        "instr",
        "caps",
        "demos",
        "chat_user",
        "chat_sys",
        "placebo",
    ]
    rows = [
        {"framing": f, "metric": m, "value": RNG.normal(5, 4)}
        for f in framings
        for m in ("p_full", "choice_len")
    ]
    return with_ci(rows, "value")


def scores(conditions=("genuine", "sandbag", "neutral", "placebo")):
    genuine, tables = RNG.beta(2, 2, 60), []
    for condition in conditions:
        p = np.clip(genuine - 0.1 * (condition == "sandbag") + RNG.normal(0, 0.1, 60), 0, 1)
        table = {
            "question_id": range(60),
            "condition": condition,
            "p_full": p,
            "choice_len": p**0.5,
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables)


def joint_by_question(metrics=("p_full", "choice_len", "logodds")):
    tables = []
    for condition in ("genuine", "sandbag", "neutral"):
        for metric in metrics:
            baseline = RNG.random(40)
            value = baseline + (0.1 if condition == "sandbag" else 0.05) + RNG.normal(0, 0.02, 40)
            numbers = {"baseline": baseline, "value": value}
            where = {"condition": condition, "intervention": "joint", "metric": metric}
            tables.append(pd.DataFrame({"question_id": range(40), **where, **numbers}))
    return pd.concat(tables, ignore_index=True)


def distances():
    conditions = ("genuine", "sandbag", "neutral", "placebo")
    cells = [(layer, c) for layer in (7, 15, 22) for c in conditions]
    rows = [{"layer": x, "condition": c, "metric": "distance", "value": 0.3} for x, c in cells]
    return with_ci(rows, "value", 0.02)


def auroc(value):
    return Estimate(value, max(0.0, value - 0.1), min(1.0, value + 0.1), 60, "AUROC", "")


def probes():
    read = {"the prompt": ["same"], "the prompt, other wordings": ["lie", "must"]}
    read |= {"the answer to come": ["same"]}
    rows = [
        {"said": said, "probe": p, "wording": w, "layer": n, "auroc": auroc(RNG.uniform(0.1, 1))}
        for said, wordings in read.items()
        for w in wordings
        for p in ("logistic", "diff_means")
        for n in range(6)
    ]
    return pd.DataFrame(rows)


def lens_rows():
    layers = np.arange(6)
    columns = {"layer": layers, "n": 40}
    for name in ("p_right", "p_given"):
        value = layers / 10
        columns |= {name: value, f"{name}_low": value * 0.9, f"{name}_high": value * 1.1}
    return pd.DataFrame(columns)


def readers():
    rows = [
        {"target": t, "tag": tag, "probe": p, "latents": auroc(RNG.uniform()), "raw": auroc(0.9)}
        for t in ("the prompt", "the answer to come")
        for tag in quality()["tag"]
        for p in ("best_latent", "all_latents")
    ]
    return pd.DataFrame(rows)


def ceiling():
    rows = [{"layer": n, "value": n - 2.0, "moves": n > 2} for n in range(6)]
    return with_ci(rows, "value", 0.4)


REGIONS = {"sink": 1, "instruction": 6, "demonstrations": 80, "question": 11, "cue": 3}


def looks():
    rows = [
        {"head": f"L{x}H{h}", "condition": c, "region": r, "value": 0.2, "tokens": tokens}
        for x, h in HEADS
        for c in ("genuine", "sandbag")
        for r, tokens in REGIONS.items()
    ]
    return with_ci(rows, "value", 0.02)


def pushes():
    rows = [
        {"head": f"L{x}H{h}", "condition": c, "to": to, "value": RNG.normal(0, 0.1)}
        for x, h in HEADS
        for c in ("genuine", "sandbag")
        for to in ("correct", "wrong", "correct - wrong")
    ]
    return with_ci(rows, "value", 0.02)


def routes():
    table = pd.DataFrame([{"layer": x, "head": h} for x in range(25) for h in range(9)])
    zeroing = RNG.normal(0, 1, len(table))
    reversed_order = {"attribution to zero": zeroing**3, "activation patching": -zeroing}
    return table.assign(zero=zeroing, **reversed_order)


def yardstick():
    return baseline.yardstick(made_up.graded("answers wrongly"))


def models() -> pd.DataFrame:
    """A row a group, and one that is missing."""
    grades = ["answers wrongly", "less sure", "answers wrongly", "no"]
    rows = pd.DataFrame(
        {
            "name": ["mine", "untouched", "organism-heads", "null_model"],
            "group": ["this run", "untouched", "planted", "null"],
            "model": ["sandbagger", "smollm2", "organism-heads", "smollm2"],
            "grade": grades,
            "right_genuine": [0.5, 0.6, 1.0, 0.0],
            "right_sandbag": [0.1, 0.5, 0.2, 0.0],
            "right_zeroed": [0.3, 0.5, 1.0, 0.0],
            "missing": None,
        }
    )
    for name, values in {"gap_logodds": [7, 1, 9, 0], "share_restored": [0.5, 2.5, 1, 9]}.items():
        rows[name] = np.array(values, dtype=float)
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - 0.3, rows[name] + 0.3
        rows[f"{name}_n"] = 60
    return pd.concat([rows, pd.DataFrame([{"model": "tinyllama", "missing": "not run"}])])


def curves() -> pd.DataFrame:
    rows = [
        {"ranking": name, "k": k, "kept": k / 50 + 0.1 * i, "removed": k / 60, "n": 40}
        for i, name in enumerate(("zero", "patching", "random 1", "random 2"))
        for k in (1, 5, 50)
    ]
    table = pd.DataFrame(rows)
    for column in ("kept", "removed"):
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.1, table[column] + 0.1
    return table


def calibrated():
    """Nulls, and two doses of planted models, of two rules."""
    rows = [("", 0.0, 0.0), ("planted", 1.2, 0.4), ("planted", 2.5, 1.0)]
    columns = ["rule", "weights", "gap", "found", "low", "high", "models"]
    return pd.DataFrame(
        [(r, w, gap, f, f * 0.8, f + 0.1 * (1 - f), 12)
         for r in ("survives", "specific") for w, gap, f in rows],
        columns=columns,
    )  # fmt: skip


def strengths() -> pd.DataFrame:
    rows = [
        {"dose": dose, "quantity": quantity, "value": value * (1 - dose), "n": 60}
        for dose in (0.0, 0.5, 1.0)
        for quantity, value in (
            ("gap_logodds", 5.0),
            ("right_genuine", 0.5),
            ("right_sandbag", 0.4),
        )
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1)


def grid():
    table = pd.DataFrame(
        {"framing": ["instr", "contrast"], "done": [True, False], "gap": [4.0, np.nan]}
    )
    return table.assign(gap_low=table["gap"] - 1, gap_high=table["gap"] + 1)


def shuffles():
    rows = [
        {"layer": 7, "tag": f"v4_tiny_{a}_L7_mixed", "seed": s, "effect": RNG.normal(2, 0.2)}
        for a in ("topk", "jumprelu")
        for s in range(20)
    ]
    return pd.DataFrame(rows).assign(E4=0.5, E6=4.0)


def by_depth():
    cells = [
        (v, layer, seed)
        for v in ("heads", "direction", "null")
        for layer in (0, 2, 4)
        for seed in range(3)
    ]
    names = ("e6", "e1", "e4", "noise", "gap_e1", "gap_e4")
    effects = {name: Estimate(RNG.normal(5, 2), 0.0, 9.0, 120, "pp") for name in names}
    return pd.DataFrame(
        [
            {"variant": v, "layer": x, "seed": s, "verdict": "no sandbagging to explain", **effects}
            for v, x, s in cells
        ]
    )


def norms():
    return pd.DataFrame(
        [
            {"position": p, "layer": layer, "norm": (900 if p == 0 else 20) * (1 + layer / 10)}
            for p in range(60)
            for layer in (7, 15, 22)
        ]
    )


def history(n_tags=5):
    rows = []
    for i in range(n_tags):
        for step in range(0, 2000, 50):
            rows.append(
                {
                    "tag": f"jumprelu_L{i}_genuine_only",
                    "step": step,
                    "fvu": np.exp(-step / (300 + 90 * i)),
                    "loss": 2 / (1 + step),
                    "l0": 64 - i,
                }
            )
    return pd.DataFrame(rows)


def quality():
    tags = [
        f"{a}_L{layer}_{c}"
        for a in ("topk", "jumprelu")
        for layer in (7, 15, 22)
        for c in ("genuine_only", "sandbagging_only", "mixed")
    ]
    k = len(tags)
    columns = ("fvu", "fvu_last", "dead", "loss_recovered")
    return pd.DataFrame(
        {"tag": tags, "l0": RNG.uniform(30, 90, k), **{c: RNG.random(k) for c in columns}}
    )


def swap_summary():
    """Two SAEs at layer 15, one at 22, and what needs no SAE at both."""
    tags = ["v4_tiny_topk_L15_mixed", "v4_tiny_jumprelu_L15_mixed", "v4_tiny_topk_L22_mixed"]
    own = [n for n in plots.INTERVENTIONS if n not in ("oracle", "diff_means")]
    rows = [{"tag": tag, "layer": int(tag[-8:-6]), "intervention": n} for tag in tags for n in own]
    shared = [(layer, n) for layer in (15, 22) for n in ("oracle", "diff_means")]
    rows += [{"tag": "", "layer": layer, "intervention": n} for layer, n in shared]
    table = pd.DataFrame(rows).assign(value=RNG.normal(0, 1, len(rows)), metric="logodds", n=100)
    table["error_term"] = np.where(table["intervention"] == "identity", "dropped", "kept")
    return table.assign(low=table["value"] - 0.2, high=table["value"] + 0.2)


def dosed():
    rows = [
        {"layer": layer, "tag": tag, "condition": c, "intervention": name, "strength": s}
        for layer in (15, 22)
        for name, tag in (("diff_means", ""), ("latents", f"v4_tiny_topk_L{layer}_mixed"))
        for c in ("sandbag", "genuine")
        for s in (-1.0, 1.0)
    ]
    effects = [Estimate(10 * row["strength"], -2.0, 12.0, 100, "pp") for row in rows]
    return pd.DataFrame(rows).assign(right=effects)


def judged_cells():
    rows = [
        (7, "topk", "nothing here yet", ""),
        (7, "jumprelu", "nothing here yet", ""),
        (15, "topk", "carries the difference", "as does any basis"),
        (15, "jumprelu", "cannot be said", ""),
    ]
    table = pd.DataFrame(rows, columns=["layer", "made", "verdict", "basis"])
    tags = [f"v4_tiny_{made}_L{layer}_mixed" for layer, made, *_ in rows]
    return table.assign(tag=tags, e6=[Estimate(1.5, 1.0, 2.0, 100, "nats")] * len(rows))


def head_effects(layers=30, heads=9):
    table = with_ci(
        [
            {"layer": x, "head": h, "effect": RNG.normal(0, 0.3)}
            for x in range(layers)
            for h in range(heads)
        ],
        "effect",
        half=0.4,
    )
    table.loc[[x * heads + h for x, h in HEADS if x < layers], ["effect", "low", "high"]] += 3
    return table


def node_effects():
    heads = head_effects(6, 4)
    heads = heads.assign(node=[f"L{r.layer}H{r.head}" for r in heads.itertuples()], kind="head")
    mlps = heads[heads["head"] == 0].assign(node=[f"L{x}MLP" for x in range(6)], kind="MLP")
    return pd.concat([heads, mlps], ignore_index=True)


def random_draws():
    return pd.DataFrame(
        [
            {"kind": k, "index": i, "metric": "p_full", "effect": RNG.normal(-1, 2)}
            for k in ("uniform", "same_layer")
            for i in range(100)
        ]
    )


SETS = ("joint", "rival:genuine", "patching")


def shares_of_sets(ways=("zero",)):
    quantities = ("effect", "effect on genuine", "share_restored", "share_closed")
    cells = [(s, w, q) for s in SETS for w in ways for q in quantities]
    named = [{"set": s, "way": w, "metric": "logodds", "quantity": q} for s, w, q in cells]
    return with_ci([row | {"value": 0.3 + 0.1 * i} for i, row in enumerate(named)], "value", 0.1)


def draws_with_shares():
    draws = random_draws().assign(metric="logodds", effect_on_genuine=0.2)
    return draws.assign(share_restored=draws["effect"] / 20 - 1, share_closed=draws["effect"] / 10)


def parts_of_set():
    cells = [(f"L{x}H{h}", q) for x, h in HEADS for q in ("alone", "lost without it")]
    rows = [{"head": h, "quantity": q, "value": 0.2} for h, q in cells]
    return with_ci(rows, "value", 0.1)


def curse():
    table = pd.DataFrame(
        {
            "n_selected_on": [1, 5, 10, 20, 40],
            "in_sample": [9.0, 5, 4, 3, 2.7],
            "out_of_sample": [0.5, 1.2, 1.7, 2, 2.2],
        }
    )
    for column in ("in_sample", "out_of_sample"):
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.6, table[column] + 0.6
    return table


SHOWN = ["v4_tiny_jumprelu_L15_mixed", "v4_tiny_topk_L22_mixed"]


def steps_of_growing():
    values = {"sandbag": (4.0, 4.8, 5.2), "genuine": (-0.6, -0.3, 0.1), "net": (3.4, 4.5, 5.1)}
    rows = [
        (h, on, v[i])
        for i, h in enumerate(("L1H4", "+ L8H7", "+ L23H3"))
        for on, v in values.items()
    ]
    table = pd.DataFrame(rows, columns=["head", "on", "value"])
    return table.assign(low=table["value"] - 0.3, high=table["value"] + 0.3, n=40)


FIGURES = {
    "gap_by_framing": lambda: plots.gap_by_framing(gaps()),
    "yardstick": lambda: plots.yardstick(yardstick()),
    "free_answers": lambda: plots.free_answers(made_up.GRADED["answers wrongly"][1]),
    "paired_scores": lambda: plots.paired_scores(scores()),
    "metric_by_condition": lambda: plots.metric_by_condition(scores()),
    "last_token_distance": lambda: plots.last_token_distance(distances()),
    "oracle_by_layer": lambda: plots.oracle_by_layer(ceiling(), 0.6, [1, 3]),
    "probes_by_depth": lambda: plots.probes_by_depth(probes()),
    "lens_by_depth": lambda: plots.lens_by_depth(lens_rows(), lens_rows(), 3),
    "latents_beside_raw": lambda: plots.latents_beside_raw(readers()),
    "dose_response": lambda: plots.dose_response(dosed()),
    "attention": lambda: plots.attention(looks()),
    "logits": lambda: plots.logits(pushes()),
    "agreement": lambda: plots.agreement(routes(), HEADS),
    "other_models": lambda: plots.other_models(models()),
    "doses": lambda: plots.doses(strengths()),
    "headline_figure": lambda: plots.headline_figure(
        joint_by_question(), made_up_ledger.answers_zeroed(), made_up_ledger.rivals_table(), HEADS
    ),
    "sweep_cells": lambda: plots.sweep_cells(grid(), ["gap"], ["framing"]),
    "norm_by_position": lambda: plots.norm_by_position(norms()),
    "training_curves": lambda: plots.training_curves(history()),
    "training_curves_42": lambda: plots.training_curves(history(42)),
    "sae_quality": lambda: plots.sae_quality(quality()),
    "seen_and_held_out": lambda: plots.seen_and_held_out(
        quality().assign(fvu_train=0.01, fvu_same=0.05), 84, 168
    ),
    "rivals": lambda: plots.rivals(swap_summary(), SHOWN),
    "halfway": lambda: plots.halfway(shuffles()),
    "verdict_examples": lambda: plots.verdict_examples([*map(decided, EXAMPLES)]),
    "verdict_map": lambda: plots.verdict_map(judged_cells()),
    "verdicts_by_depth": lambda: plots.verdicts_by_depth(by_depth()),
    "head_map": lambda: plots.head_map(head_effects(), HEADS),
    "head_map_llama": lambda: plots.head_map(head_effects(16, 32)),
    "growing": lambda: plots.growing(steps_of_growing()),
    "faithfulness": lambda: plots.faithfulness(curves()),
    "beside_rivals": lambda: plots.beside_rivals(shares_of_sets(), draws_with_shares()),
    "by_place_and_path": lambda: plots.by_place_and_path(
        shares_of_sets(("cue", "last token")), shares_of_sets(("within it",)), "instruction"
    ),
    "by_replacement": lambda: plots.by_replacement(shares_of_sets(("zero", "mean genuine"))),
    "members": lambda: plots.members(parts_of_set()),
    "heads_by_condition": lambda: plots.heads_by_condition(
        routes().rename(columns={"zero": "sandbag"}), HEADS
    ),
    "nodes_ranked": lambda: plots.nodes_ranked(node_effects(), ["L2H0", "L4MLP"]),
    "winners_curse": lambda: plots.winners_curse(curse()),
    "power": lambda: plots.power(calibrated(), ["survives", "specific"]),
}
# A colour bar, or rows that are named on the axis.
WITHOUT_LEGEND = {
    "yardstick",
    "head_map",
    "head_map_llama",
    "rivals",
    "verdict_map",
    "sweep_cells",
}


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = FIGURES[request.param]()
        fig.draw_without_rendering()  # layout warnings come only when it is drawn
    return request.param, fig


def test_axes_are_labelled_and_at_least_one_has_a_unit(drawn):
    _, fig = drawn
    labels = [ax.get_xlabel() + ax.get_title("left") for ax in fig.axes] + [
        ax.get_ylabel() for ax in fig.axes
    ]
    assert any("(" in label for label in labels)
    bottom = [
        ax
        for ax in fig.axes
        if ax.get_subplotspec() is not None and ax.get_subplotspec().is_last_row()
    ]
    assert bottom and all(ax.get_xlabel() for ax in bottom)


def test_n_and_a_title_are_in_sight(drawn):
    _, fig = drawn
    texts = [t.get_text() for t in fig.findobj(Text)]
    assert any("n = " in t or "n, questions" in t for t in texts)
    assert fig.get_suptitle()


def test_legend_names_what_the_colours_mean(drawn):
    name, fig = drawn
    if name not in WITHOUT_LEGEND:
        legends = fig.legends + [ax.get_legend() for ax in fig.axes if ax.get_legend()]
        assert legends and all(legend.get_texts() for legend in legends)


def test_figure_is_eight_inches_wide_and_nothing_is_cut(drawn):
    _, fig = drawn
    width, height = fig.get_size_inches()
    assert width == 8 and height < 12
    box = fig.get_tightbbox()
    assert box.x0 > -0.05 and box.x1 < width + 0.05 and box.y0 > -0.05 and box.y1 < height + 0.05


def test_no_figure_stays_open_and_the_callers_settings_stay(drawn):
    assert plt.get_fignums() == []
    assert plt.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]


def test_conditions_differ_in_greyscale_or_marker():
    grey = {
        name: np.dot([0.299, 0.587, 0.114], to_rgb(c)) for name, (c, _) in plots.CONDITIONS.items()
    }
    markers = [m for _, m in plots.CONDITIONS.values()]
    assert len(set(markers)) == len(markers)
    assert (
        plots.CONDITIONS["genuine"][0] == "#0072B2" and plots.CONDITIONS["sandbag"][0] == "#D55E00"
    )
    assert abs(grey["genuine"] - grey["sandbag"]) > 0.05


def test_points_and_intervals_stand_at_the_tables_numbers():
    table = pd.DataFrame(
        {
            "framing": ["instr"],
            "metric": ["p_full"],
            "value": [5.0],
            "low": [3.0],
            "high": [9.0],
            "n": [12],
        }
    )
    ax = plots.gap_by_framing(table).axes[0]
    line, _, (bar,) = ax.containers[0]
    assert line.get_xdata()[0] == 5
    assert bar.get_segments()[0][:, 0].tolist() == [3, 9]


def test_head_map_is_centred_and_puts_each_head_at_its_place():
    table = pd.DataFrame(
        [(0, 0, -1.0), (0, 1, 0.5), (1, 0, 4.0), (1, 1, 0.0)],
        columns=["layer", "head", "effect"],
    )
    fig = plots.head_map(table, [(1, 0)])
    image, box = fig.axes[0].images[0], fig.axes[0].patches[0]
    assert image.get_clim() == (-4, 4)
    assert image.get_array()[0, 1] == 4.0  # row = head 0, column = layer 1
    assert box.get_xy() == (0.5, -0.5)


def test_rivals_that_need_no_sae_stand_in_every_panel_of_their_layer():
    table = swap_summary()
    fig = plots.rivals(table, SHOWN)
    assert [ax.get_title("left") for ax in fig.axes] == ["L15 JumpReLU mixed", "L22 TopK mixed"]
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names[-2:] == ["difference of means", "oracle, own genuine stream"]
    assert not any("E1, code" in name for name in names)
    at = len(names) - 1
    for ax, layer in zip(fig.axes, (15, 22), strict=True):
        points = [c[0].get_xydata()[0] for c in ax.containers]
        (oracle,) = [x for x, y in points if y == at]
        row = table[(table["layer"] == layer) & (table["intervention"] == "oracle")]
        assert oracle == pytest.approx(row["value"].item())


def test_the_map_of_verdicts_names_each_cell_and_what_it_owes_to_its_sae():
    ax = plots.verdict_map(judged_cells()).axes[0]
    said = {text.get_text() for text in ax.texts}
    assert "carries the difference\nE6 +1.50; as does any basis" in said
    assert "nothing here yet\nE6 +1.50" in said and len(ax.patches) == 4


def test_a_dose_of_nothing_changes_nothing():
    for ax in plots.dose_response(dosed()).axes:
        assert all([0.0, 0.0] in c[0].get_xydata().tolist() for c in ax.containers)


def test_conditions_are_compared_question_by_question():
    table = scores(("genuine", "sandbag"))
    wide = table.pivot(index="question_id", columns="condition", values="p_full")
    right = plots.metric_by_condition(table).axes[1]
    assert np.isclose(
        right.containers[0][0].get_xdata()[0], 100 * (wide["genuine"] - wide["sandbag"]).mean()
    )


def test_the_headline_shows_answers_odds_and_rivals_by_their_numbers():
    table, rivals = joint_by_question(), made_up_ledger.rivals_table(margin=0.4)
    zeroed = made_up_ledger.answers_zeroed()
    answers, odds, beside = plots.headline_figure(table, zeroed, rivals, HEADS).axes
    assert [t.get_text() for t in answers.get_yticklabels()] == ["sandbag", "genuine"]
    assert [t.get_text() for t in odds.get_yticklabels()] == ["sandbag", "genuine", "neutral"]
    assert [bar.get_width() for bar in answers.containers[1]] == pytest.approx([0.58, 0.55])
    mean = table[table["metric"] == "logodds"].groupby("condition")["value"].mean()
    widths = [bar.get_width() for bar in odds.containers[1]]
    assert np.allclose(widths, mean[["sandbag", "genuine", "neutral"]])
    shares = {c.get_label(): c[0].get_xdata()[0] for c in beside.containers}
    assert shares == pytest.approx(
        {"chosen heads": 0.6, "genuine's": 0.2, "neutral's": 0.2, "placebo's": 0.2}
    )


def test_nodes_that_were_found_are_filled_and_mlps_look_otherwise():
    fig = plots.nodes_ranked(node_effects(), ["L4MLP"], top=30)
    names = fig.legends[0].get_texts()
    assert {text.get_text() for text in names} == {
        "head, not found",
        "MLP, found",
        "MLP, not found",
    }


def test_agreement_writes_rho_and_marks_the_chosen_heads():
    first, second = plots.agreement(routes(), HEADS).axes
    assert first.get_title("left") == "attribution to zero: ρ = +1.00"
    assert second.get_title("left") == "activation patching: ρ = −1.00"
    marked = [line for line in first.lines if line.get_label() == "chosen heads"]
    assert [len(line.get_xdata()) for line in marked] == [len(HEADS)]


def test_a_tag_is_named_in_short_words():
    words = {
        "v4_smollm2_jumprelu_L7_genuine_only": "L7 JumpReLU genuine",
        "L15 topk mixed": "L15 TopK mixed",
        "v4_smollm2_x8_k64_L15_mixed": "L15 x8 TopK k64 mixed",
        "topk_k16_L2_sandbagging_only": "L2 TopK k16 sandbag",
        "jumprelu mixed": "JumpReLU mixed",
    }
    assert {tag: str(saes.named(tag)) for tag in words} == words


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: plots.gap_by_framing(gaps().drop(columns="n")), "lacks the column n"),
        (lambda: plots.gap_by_framing(gaps().head(0)), "empty"),
        (
            lambda: plots.head_map(pd.concat([head_effects(), head_effects()])),
            "select one condition",
        ),
        (lambda: plots.rivals(swap_summary(), ["v4_tiny_topk_L7_mixed"]), "there are"),
        (lambda: plots.members(parts_of_set().head(0)), "empty"),
        (lambda: plots.by_replacement(shares_of_sets().drop(columns="set")), "lacks the column"),
    ],
)
def test_a_wrong_table_is_one_sentence(call, part):
    with pytest.raises(UserError, match=part):
        call()
    assert plt.get_fignums() == []


def test_sets_stand_in_rows_with_their_effects_left_and_their_shares_right():
    table, draws = shares_of_sets(), draws_with_shares()
    left, right = plots.beside_rivals(table, draws).axes
    rows = [t.get_text() for t in left.get_yticklabels()][::-1]
    assert rows == [
        "chosen heads", "found on genuine prompts", "patching's heads", "random, any layer",
        "random, same layers",
    ]  # fmt: skip
    marks = {c.get_label(): c[0].get_xdata().tolist() for c in right.containers}
    assert marks == {
        what: table[table["quantity"] == f"share_{what}"]["value"].tolist()
        for what in ("restored", "closed")
    }
    clouds = [list(line.get_xdata()) for line in right.lines if len(line.get_xdata()) == 100]
    uniform = draws[draws["kind"] == "uniform"]
    assert len(clouds) == 4  # two kinds of draws, two shares
    assert clouds[0] == uniform["share_restored"].tolist()
    assert clouds[1] == uniform["share_closed"].tolist()
    alone = plots.beside_rivals(shares_of_sets(), draws_with_shares().head(0)).axes[0]
    assert len(alone.get_yticklabels()) == 3


def test_places_and_paths_are_named_in_the_rows():
    fig = plots.by_place_and_path(
        shares_of_sets(("cue",)), shares_of_sets(("within it",)), "instruction"
    )
    rows = {t.get_text() for t in fig.axes[0].get_yticklabels()}
    assert rows == {"zeroed: cue", "instruction hidden: within it"}
    table = shares_of_sets(("cue",))
    for ax, what in zip(fig.axes, ("restored", "closed"), strict=True):
        wanted = table[(table["quantity"] == f"share_{what}") & (table["set"] == "joint")]["value"]
        assert what in ax.get_xlabel() and set(ax.containers[0][0].get_xdata()) == set(wanted)
