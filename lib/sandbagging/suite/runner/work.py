"""How much there is to measure on a page, counted from its parameters.

The unit is one question through the whole model, and differs from page to page: only the ratio of
two counts of one page is used, between what is to come and a run whose seconds are known.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sandbagging.errors import UserError

Settings = Mapping[str, Any]

# A pass costs its questions and, whatever their number, about as much again as this many: the words
# before the first question, and the start of every layer.
PER_PASS = 7
CONDITIONS = 4
FRAMINGS = 12
QUESTIONS_FOR_FRAMINGS = 40
FIVE = 5  # the card's discovery set
RIVALS, SIDES = 4, 150  # sets that 08 judges beside the chosen one; passes of its side views
HEADS_TO_TRY = 5
OTHER_ROUTES = 3  # all nodes by their means, patched, and the best of them together
# Of a swap, beside its seeds: E6 and E4 with the error term kept and dropped, the delta forms, and
# what the SAE alone costs.
SWAPS = 7
DRAWN = 3  # noise, random and shuffled directions
LAST = 0.3  # of a prompt's tokens, what a swap at the last one runs again
PROBED = 650  # probes and the lens at one layer, beside one exchange of pairs for one SAE
UNTRAINED = 17  # what a step of three untrained SAEs costs beside one question's pass


class Shape(NamedTuple):
    """The sizes of a model that its time depends on."""

    n_layers: int
    n_heads: int
    d_model: int
    layers: tuple[int, ...]  # those of interest


def shape_of(model: str) -> Shape | None:
    """Return the shape of a model that has a name here, or None."""
    from sandbagging import models

    entry = models.entry(model)
    if entry is None:
        return None
    if entry.planted:
        from sandbagging.planted import base

        return Shape(base.N_LAYERS, base.N_HEADS, base.D_MODEL, tuple(entry.layers_of_interest))
    config = entry.config
    if config is None:
        return None
    n_layers = config["num_hidden_layers"]
    quarters = tuple(n_layers * i // 4 for i in (1, 2, 3))
    layers = entry.layers_of_interest or quarters
    return Shape(n_layers, config["num_attention_heads"], config["hidden_size"], tuple(layers))


def amount(artefact: str, settings: Settings) -> float | None:
    """Return the count of one page, or None for a model or a page that is not known here."""
    count = COUNTS.get(artefact)
    shape = shape_of(settings.get("model", ""))
    if count is None or (shape is None and artefact != "11_planted"):
        return None
    try:
        return float(count(settings, shape))
    except (KeyError, TypeError, ValueError, UserError):
        return None


def _pass(shape: Shape, questions: float) -> float:
    return shape.n_layers * shape.d_model**2 * (PER_PASS + questions)


def _above(shape: Shape, layers: Any) -> float:
    """Return the mean share of the model that lies above some layers."""
    layers = list(layers)
    return sum(1 - layer / shape.n_layers for layer in layers) / max(1, len(layers))


def _scores(s: Settings, shape: Shape) -> float:
    both = sum(CONDITIONS * _pass(shape, s[n]) for n in ("n_train", "n_test"))
    return both + 2 * FRAMINGS * _pass(shape, min(QUESTIONS_FOR_FRAMINGS, s["n_train"]))


def _activations(s: Settings, shape: Shape) -> float:
    return sum(CONDITIONS * _pass(shape, s[n]) for n in ("n_train", "n_test"))


def _tags(s: Settings, shape: Shape, globs: Any) -> list[str]:
    from sandbagging.saes.recipes import matching, short_name

    return matching(globs, short_name(s["model"]), s.get("layers") or shape.layers)


def _saes(s: Settings, shape: Shape) -> float:
    from sandbagging.saes.grid import RELATIVE_COST
    from sandbagging.saes.recipes import parse_tag

    cost = 0.0
    for tag in _tags(s, shape, s["tags"]):
        recipe = parse_tag(tag)
        cost += RELATIVE_COST[recipe.architecture] * recipe.expansion
    return s["steps"] * cost * shape.d_model**2


def _swapped(s: Settings, shape: Shape) -> list[str]:
    swapped = _tags(s, shape, s["swap_tags"])
    return [tag for tag in _tags(s, shape, s["tags"]) if tag in swapped]


def _separation(s: Settings, shape: Shape) -> float:
    of_saes = len(_tags(s, shape, s["tags"])) * (100 + s["n_flips"])
    return (s["n_test"] + s["n_train"]) * (of_saes + PROBED * shape.n_layers)


def _swap(s: Settings, shape: Shape) -> float:
    """Untrained SAEs, doses and answers are those of the SAEs of mixed prompts."""
    tags = _swapped(s, shape)
    mixed = [tag for tag in tags if tag.endswith("_mixed")] or tags
    runs = len(tags) * (SWAPS + s["e1_seeds"] + DRAWN * s["noise_seeds"])
    runs += len(mixed) * 4 * len(s["strengths"])  # two conditions, scored and answered
    trained = UNTRAINED * s["steps"] * len(mixed) * 4 * shape.d_model**2
    return LAST * runs * _pass(shape, s["n_test"]) + trained


def _heads(s: Settings, shape: Shape) -> float:
    layers = s["sweep_layers"] or range(shape.n_layers)
    tried = len(list(layers)) * shape.n_heads * _above(shape, layers)
    # zeroed on sandbag, genuine and other prompts
    routes = 1.0 + len({"genuine", *s.get("rivals_on", ())})
    if not s.get("side_views", True):
        return tried * routes * _pass(shape, s["sweep_questions"])
    routes += OTHER_ROUTES
    return tried * (routes * _pass(shape, s["sweep_questions"]) + _pass(shape, FIVE))


def _circuit(s: Settings, shape: Shape) -> float:
    """Members, rivals and draws in two conditions; with side views also places, paths, what stands
    in for the heads, and every subset.
    """
    n_heads = len(s["heads"].split()) if s.get("heads") else s.get("n_heads", HEADS_TO_TRY)
    sets = 2 * n_heads + 1 + RIVALS + 2 * s["draws"]
    on_test = 2 * sets + 2
    if not s.get("side_views", True):
        return on_test * _pass(shape, s["n_test"])
    subsets = 2 ** min(n_heads, 8) - 1
    on_train = subsets * _pass(shape, s["sweep_questions"])
    return (on_test + subsets + SIDES) * _pass(shape, s["n_test"]) + on_train


COUNTS: dict[str, Callable[[Settings, Shape], float]] = {
    "00_baseline": _scores,
    "01_activations": _activations,
    "02_saes": _saes,
    "03_separation": _separation,
    "04_swap": _swap,
    "07_heads": _heads,
    "08_circuit": _circuit,
    "11_planted": lambda s, shape: len(s["seeds"]),
}
# What the seconds of a page hang on: pages of one kind grow and shrink together from one machine to
# the next. Pages without an entry measure nothing.
KINDS = {
    "00_baseline": "forward", "01_activations": "forward", "02_saes": "training",
    "03_separation": "tables", "04_swap": "forward",
    "07_heads": "sweep", "08_circuit": "sweep", "11_planted": "training",
}  # fmt: skip
