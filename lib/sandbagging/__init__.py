"""Sandbagging, shown step by step: collection, sparse autoencoders, controls, and the heads that
matter.

    import sandbagging as sb

    lm, asked = sb.load(), sb.questions("test", n=40)
    plain = sb.score(lm, asked)
    without = sb.score(lm, asked, heads="L1H4 L23H3")
    print(sb.effect(plain), sb.effect(plain, without))

Nothing is imported before it is used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module and the thing in it.
FACE = {
    "load": "sandbagging.models:load",
    "questions": "sandbagging.questions",
    "score": "sandbagging.api:score",
    "answers": "sandbagging.api:answers",
    "effect": "sandbagging.api:effect",
    "sweep": "sandbagging.api:sweep_heads",
    "swap": "sandbagging.api:swap",
    "load_sae": "sandbagging.api:load_sae",
    "plot": "sandbagging.suite.plots",
    "worded": "sandbagging.prompts:worded",
    "Question": "sandbagging.questions:Question",
    "Estimate": "sandbagging.statistics:Estimate",
    "UserError": "sandbagging.errors:UserError",
}
__all__ = list(FACE)


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module 'sandbagging' has no attribute {name!r}")
    module, _, thing = FACE[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, thing) if thing else found


def __dir__() -> list[str]:
    return sorted({*globals(), *FACE})
