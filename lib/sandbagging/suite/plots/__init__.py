"""Results in, figure out: tables as they lie in a run folder, and a Figure of them."""

from sandbagging.suite.plots import data
from sandbagging.suite.plots.activations import (
    last_token_distance,
    norm_by_position,
    oracle_by_layer,
)
from sandbagging.suite.plots.baseline import (
    free_answers,
    gap_by_framing,
    metric_by_condition,
    paired_scores,
    yardstick,
)
from sandbagging.suite.plots.calibration import power
from sandbagging.suite.plots.circuit import (
    attention,
    beside_rivals,
    by_place_and_path,
    by_replacement,
    logits,
    members,
    shares_by_way,
)
from sandbagging.suite.plots.headline import headline_figure
from sandbagging.suite.plots.heads import (
    agreement,
    growing,
    head_map,
    heads_by_condition,
    nodes_ranked,
    winners_curse,
)
from sandbagging.suite.plots.latents import latents_beside_raw, lens_by_depth, probes_by_depth
from sandbagging.suite.plots.look import CONDITIONS, INTERVENTIONS, METRICS
from sandbagging.suite.plots.models import doses, other_models
from sandbagging.suite.plots.nodes import faithfulness
from sandbagging.suite.plots.saes import sae_quality, seen_and_held_out, training_curves
from sandbagging.suite.plots.swaps import dose_response, halfway, rivals
from sandbagging.suite.plots.sweeps import sweep_cells
from sandbagging.suite.plots.verdicts import verdict_examples, verdict_map, verdicts_by_depth

__all__ = [
    "CONDITIONS",
    "INTERVENTIONS",
    "METRICS",
    "agreement",
    "attention",
    "beside_rivals",
    "by_place_and_path",
    "by_replacement",
    "data",
    "dose_response",
    "doses",
    "growing",
    "faithfulness",
    "free_answers",
    "gap_by_framing",
    "halfway",
    "head_map",
    "headline_figure",
    "heads_by_condition",
    "last_token_distance",
    "latents_beside_raw",
    "lens_by_depth",
    "logits",
    "members",
    "metric_by_condition",
    "nodes_ranked",
    "norm_by_position",
    "oracle_by_layer",
    "other_models",
    "paired_scores",
    "power",
    "probes_by_depth",
    "rivals",
    "sae_quality",
    "seen_and_held_out",
    "shares_by_way",
    "sweep_cells",
    "training_curves",
    "verdict_examples",
    "verdict_map",
    "verdicts_by_depth",
    "winners_curse",
    "yardstick",
]
