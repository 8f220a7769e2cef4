"""Every figure is drawn from a small made-up table: no warnings, units on the axes, n in sight."""

import warnings
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.suite import plots

matplotlib.use("agg")
RNG = np.random.default_rng(0)
HEADS = [(2, 0), (5, 3), (9, 1), (17, 6), (22, 8)]


def with_ci(table, value="effect_pp", half=1.0, n=50):
    table = pd.DataFrame(table)
    return table.assign(low=table[value] - half, high=table[value] + half, n=n)


def gaps():
    framings = ["instr_contrast", "contrast", "instr_pref", "instr", "caps", "demos", "chat_user", "chat_sys", "placebo"]
    rows = [{"framing": f, "metric": m, "value": RNG.normal(5, 4)} for f in framings for m in ("p_full", "choice_len")]
    return with_ci(rows, "value")


def scores():
    genuine = RNG.beta(2, 2, 60)
    both = {"genuine": genuine, "sandbag": np.clip(genuine - 0.1 + RNG.normal(0, 0.1, 60), 0, 1)}
    return pd.concat([pd.DataFrame({"question_id": range(60), "condition": c, "p_full": p}) for c, p in both.items()])


def by_condition(value="value", scale=1.0):
    metrics = ("p_full", "choice_len", "logodds")
    conditions = ("genuine", "sandbag", "neutral", "placebo")
    return with_ci([{"condition": c, "metric": m, value: scale * RNG.random()} for c in conditions for m in metrics], value, 0.05 * scale)


def shuffles():
    kinds = [(k, s) for k in ("balanced", "plain") for s in range(20)]
    rows = [
        {"SAE": f"L7 {a} mixed", "kind": k, "effect_pp": RNG.normal(2, 0.2), "E6": 4.0, "E4": 0.5}
        for a in ("topk", "jumprelu")
        for k, _ in kinds
    ]
    return pd.DataFrame(rows)


def by_depth():
    cells = [(v, layer, seed) for v in ("heads", "direction", "null") for layer in (0, 2, 4) for seed in range(3)]
    effects = {name: Estimate(RNG.normal(5, 2), 0.0, 9.0, 120, "pp") for name in ("e6", "e1", "e4", "noise")}
    return pd.DataFrame([{"variant": v, "layer": x, "seed": s, "verdict": "no sandbagging to explain", **effects} for v, x, s in cells])


def norms():
    return pd.DataFrame(
        [{"position": p, "layer": layer, "norm": (900 if p == 0 else 20) * (1 + layer / 10)} for p in range(60) for layer in (7, 15, 22)]
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
        f"{a}_L{layer}_{c}" for a in ("topk", "jumprelu") for layer in (7, 15, 22) for c in ("genuine_only", "sandbagging_only", "mixed")
    ]
    k = len(tags)
    columns = ("fvu", "fvu_last", "dead", "loss_recovered")
    return pd.DataFrame({"tag": tags, "l0": RNG.uniform(30, 90, k), **{c: RNG.random(k) for c in columns}})


def chosen():
    rows = [
        {"tag": t, "pair": p, "value": RNG.normal(2, 1)} for t in quality()["tag"] for p in ("genuine vs sandbag", "genuine vs placebo")
    ]
    return with_ci(rows, "value")


def separations():
    tags = ["topk_L7_mixed", "jumprelu_L7_mixed", "topk_L15_mixed", "jumprelu_L15_mixed", "diff_means_L15"]
    return pd.DataFrame(
        [
            {"tag": t, "pair": p, "d": d, "d_max": s * RNG.uniform(1, 5), "null_d_max": 0.5}
            for t in tags
            for p, s in (("genuine-sandbag", 1), ("genuine-placebo", -0.4))
            for d in ("d_z", "d_av")
        ]
    )


def pairs():
    cells = [(layer, c) for layer in (7, 15, 22) for c in ("genuine_only", "sandbagging_only", "mixed")]
    return pd.DataFrame([{"layer": layer, "condition": c, "topk": RNG.uniform(1, 4), "jumprelu": RNG.uniform(1, 4)} for layer, c in cells])


def swap_summary():
    rows = []
    for tag in ("topk_L15_mixed", "jumprelu_L15_mixed", "jumprelu_L15_genuine_only"):
        for name in plots.INTERVENTIONS:
            if name not in ("oracle", "noise", "diff_means"):
                rows.append({"tag": tag, "intervention": name, "verdict": "cannot be said at this n" if name == "E6" else None})
    rows += [{"tag": None, "intervention": name} for name in ("oracle", "noise", "diff_means")]
    table = with_ci([{**r, "effect_pp": RNG.normal(0, 5)} for r in rows])
    guards = {"nnz_genuine": 412, "nnz_sandbag": 398, "norm_delta": 3.14, "norm_change": 21.7, "fvu": 0.123}
    return table.assign(layer=15, position="last", error_term=True, metric="p_full", **guards)


def specificity_rows():
    cells = [(layer, f"{a}_L{layer}_mixed", gap) for layer in (7, 15, 22) for a in ("topk", "jumprelu") for gap in ("E6-E1", "E6-E4")]
    return with_ci(
        [{"layer": x, "tag": t, "intervention": g, "metric": "p_full", "effect_pp": RNG.normal()} for x, t, g in cells], half=0.5
    )


def head_effects(layers=30, heads=9):
    table = with_ci([{"layer": x, "head": h, "effect_pp": RNG.normal(0, 0.3)} for x in range(layers) for h in range(heads)], half=0.4)
    table.loc[[x * heads + h for x, h in HEADS if x < layers], ["effect_pp", "low", "high"]] += 3
    return table


def random_draws():
    return pd.DataFrame(
        [{"kind": k, "index": i, "metric": "p_full", "effect_pp": RNG.normal(-1, 2)} for k in ("uniform", "same_layer") for i in range(100)]
    )


def all_subsets():
    names = [f"L{x}H{h}" for x, h in HEADS]
    chosen = ["+".join(c) for size in range(6) for c in combinations(names, size)]
    return with_ci([{"heads": c, "metric": "p_full", "effect_pp": 1.5 * c.count("L") + RNG.normal(0, 0.5)} for c in chosen])


def curse():
    table = pd.DataFrame({"n_selected_on": [1, 5, 10, 20, 40], "in_sample": [9.0, 5, 4, 3, 2.7], "out_of_sample": [0.5, 1.2, 1.7, 2, 2.2]})
    for column in ("in_sample", "out_of_sample"):
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.6, table[column] + 0.6
    return table


def claims():
    rows = [
        ("Five heads restore the correct answer on sandbagging prompts", 13.71, 6.2, "same direction"),
        ("Sandbag-specific portion: sandbag minus neutral", 7.72, 5.1, "same direction"),
        ("E6 minus E1 at the middle layer", 0.15, -0.4, "not testable here"),
        ("Stored weights in bytes", None, 3.0, "no number published"),
    ]
    table = pd.DataFrame(rows, columns=["claim", "published", "measured", "verdict"])
    return table.assign(measured_low=table["measured"] - 2, measured_high=table["measured"] + 2, n=160)


JOINT = Estimate(6.2, 4.1, 8.4, 160, "pp", "")
FIGURES = {
    "gap_by_framing": lambda: plots.gap_by_framing(gaps()),
    "paired_scores": lambda: plots.paired_scores(scores()),
    "metric_by_condition": lambda: plots.metric_by_condition(by_condition()),
    "norm_by_position": lambda: plots.norm_by_position(norms()),
    "training_curves": lambda: plots.training_curves(history()),
    "training_curves_42": lambda: plots.training_curves(history(42)),
    "sae_quality": lambda: plots.sae_quality(quality()),
    "seen_and_held_out": lambda: plots.seen_and_held_out(quality().assign(fvu_train=0.01, fvu_same=0.05), 84, 168),
    "separation": lambda: plots.separation(separations(), n=80),
    "chosen_latents": lambda: plots.chosen_latents(chosen()),
    "topk_against_jumprelu": lambda: plots.topk_against_jumprelu(pairs()),
    "battery": lambda: plots.battery(swap_summary(), 15, position="last"),
    "shuffles": lambda: plots.shuffles(shuffles()),
    "verdicts_by_depth": lambda: plots.verdicts_by_depth(by_depth()),
    "specificity": lambda: plots.specificity(specificity_rows()),
    "head_map": lambda: plots.head_map(head_effects(), HEADS),
    "head_map_llama": lambda: plots.head_map(head_effects(16, 32)),
    "heads_ranked": lambda: plots.heads_ranked(head_effects(), chosen=HEADS),
    "effects_by_depth": lambda: plots.effects_by_depth(head_effects()),
    "draws": lambda: plots.draws(random_draws(), JOINT),
    "circuit_conditions": lambda: plots.circuit_conditions(by_condition("effect_pp", 10)),
    "subsets": lambda: plots.subsets(all_subsets()),
    "winners_curse": lambda: plots.winners_curse(curse()),
    "ledger": lambda: plots.ledger(claims()),
}
# A colour bar, or rows that are named on the axis.
WITHOUT_LEGEND = {"metric_by_condition", "circuit_conditions", "head_map", "head_map_llama", "battery"}


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = FIGURES[request.param]()
        fig.draw_without_rendering()  # layout warnings come only when it is drawn
    return request.param, fig


def test_axes_are_labelled_and_at_least_one_has_a_unit(drawn):
    _, fig = drawn
    labels = [ax.get_xlabel() + ax.get_title("left") for ax in fig.axes] + [ax.get_ylabel() for ax in fig.axes]
    assert any("(" in label for label in labels)
    bottom = [ax for ax in fig.axes if ax.get_subplotspec() is not None and ax.get_subplotspec().is_last_row()]
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
    grey = {name: np.dot([0.299, 0.587, 0.114], to_rgb(c)) for name, (c, _) in plots.CONDITIONS.items()}
    markers = [m for _, m in plots.CONDITIONS.values()]
    assert len(set(markers)) == len(markers)
    assert plots.CONDITIONS["genuine"][0] == "#0072B2" and plots.CONDITIONS["sandbag"][0] == "#D55E00"
    assert abs(grey["genuine"] - grey["sandbag"]) > 0.05


def test_points_and_intervals_stand_at_the_tables_numbers():
    table = pd.DataFrame({"framing": ["instr"], "metric": ["p_full"], "value": [5.0], "low": [3.0], "high": [9.0], "n": [12]})
    ax = plots.gap_by_framing(table).axes[0]
    line, _, (bar,) = ax.containers[0]
    assert line.get_xdata()[0] == 5
    assert bar.get_segments()[0][:, 0].tolist() == [3, 9]


def test_head_map_is_centred_and_puts_each_head_at_its_place():
    table = pd.DataFrame([(0, 0, -1.0), (0, 1, 0.5), (1, 0, 4.0), (1, 1, 0.0)], columns=["layer", "head", "effect_pp"])
    fig = plots.head_map(table, [(1, 0)])
    image, box = fig.axes[0].images[0], fig.axes[0].patches[0]
    assert image.get_clim() == (-4, 4)
    assert image.get_array()[0, 1] == 4.0  # row = head 0, column = layer 1
    assert box.get_xy() == (0.5, -0.5)


def test_draws_print_z_and_rank_p():
    table = pd.DataFrame({"kind": "uniform", "metric": "p_full", "effect_pp": [1.0, 2.0, 3.0]})
    legend = plots.draws(table, 5.0).axes[0].get_legend()
    assert any("z = 3.0, rank p = 0.250" in t.get_text() for t in legend.get_texts())


def test_battery_shows_guards_verdict_and_shared_rivals():
    fig = plots.battery(swap_summary(), 15)
    texts = " ".join(t.get_text() for t in fig.findobj(Text))
    assert "nnz m_G 412, m_S 398; FVU 0.123" in texts and "‖change‖ 21.7" in texts
    assert "Verdict — for all panels: cannot be said at this n." in " ".join(texts.split())
    assert [len(ax.containers) for ax in fig.axes] == [13, 13, 13]


def test_battery_names_the_panel_where_verdicts_differ():
    table = swap_summary()
    one = table["tag"].astype(str).str.contains("jumprelu_L15_mixed")
    table.loc[one & table["verdict"].notna(), "verdict"] = "specific"
    texts = " ".join(" ".join(t.get_text() for t in plots.battery(table, 15).findobj(Text)).split())
    assert "jumprelu_L15_mixed: specific." in texts and "cannot be said at this n." in texts and "for all panels" not in texts


def test_subsets_take_the_empty_set_from_a_csv_file():
    table = all_subsets()
    table.loc[0, "heads"] = np.nan
    assert len(plots.subsets(table).axes) == 2


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: plots.gap_by_framing(gaps().drop(columns="n")), "lacks the column n"),
        (lambda: plots.gap_by_framing(gaps().head(0)), "empty"),
        (lambda: plots.head_map(pd.concat([head_effects(), head_effects()])), "select one condition"),
        (lambda: plots.battery(swap_summary(), 7), "there are 15"),
        (lambda: plots.draws(random_draws(), 1.0, "logodds"), "empty"),
    ],
)
def test_a_wrong_table_is_one_sentence(call, part):
    with pytest.raises(UserError, match=part):
        call()
    assert plt.get_fignums() == []


def test_every_kind_of_shuffle_is_named_in_the_legend_whichever_row_has_it():
    table = shuffles()
    later = table[(table["kind"] == "balanced") | (table["SAE"] != table["SAE"].iloc[0])]
    fig = plots.shuffles(later)
    assert {text.get_text() for text in fig.legends[0].get_texts()} == {"E4", "E6", "E1, balanced shuffles", "E1, plain shuffles"}
