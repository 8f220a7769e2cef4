"""Sparse autoencoders: recipes by tag, training side by side, folders, held-out quality.

The usual walk, from raw activations to an SAE that reads raw activations:

    recipe = parse_tag("v4_smollm2_topk_L15_mixed").recipe(d_in=576)
    tokens, scale = training_data(activations[select_tokens(table, "mixed")])
    trained, history = train(recipe, tokens)
    sae = fold_scaling(trained, scale)
    save(sae, folder, describe(recipe, model_name=..., dataset=...))
    sae = load(folder, d_in=576)

`train_tags` does it for many tags at once. Initialisation and file format are sae-lens's, and so
are the losses of TopK, gated and rectangle-kernel JumpReLU; the Gaussian-kernel loss, the
gradients, the loop, the unit-norm decoder and the guards are ours.
"""

from sandbagging.saes.estimates import fvu_ci
from sandbagging.saes.evaluation import errors_by_question, quality
from sandbagging.saes.folders import load, weight_notes
from sandbagging.saes.grid import Source, Trained, input_scales, train_tags, train_to_files
from sandbagging.saes.initial import untrained
from sandbagging.saes.recipes import (
    ARCHITECTURES,
    CONDITIONS,
    Recipe,
    TagFields,
    card_tags,
    matching,
    parse_tag,
    recipes,
    short_name,
    short_tag,
    tag,
)
from sandbagging.saes.saving import describe, fold_scaling, save
from sandbagging.saes.stack import Stack
from sandbagging.saes.tags import chosen, load_tags
from sandbagging.saes.tokens import (
    along_mean_difference,
    cue_rows,
    input_scale,
    last_tokens,
    question_rows,
    select_tokens,
    training_data,
)
from sandbagging.saes.training import new_sae, new_stack, total_steps, train, train_together

__all__ = [
    "ARCHITECTURES",
    "CONDITIONS",
    "Recipe",
    "Source",
    "Stack",
    "TagFields",
    "Trained",
    "along_mean_difference",
    "card_tags",
    "chosen",
    "cue_rows",
    "describe",
    "fold_scaling",
    "errors_by_question",
    "fvu_ci",
    "input_scale",
    "input_scales",
    "last_tokens",
    "load",
    "load_tags",
    "matching",
    "new_sae",
    "new_stack",
    "parse_tag",
    "quality",
    "question_rows",
    "recipes",
    "save",
    "select_tokens",
    "short_name",
    "short_tag",
    "tag",
    "total_steps",
    "train",
    "train_tags",
    "train_to_files",
    "train_together",
    "training_data",
    "untrained",
    "weight_notes",
]
