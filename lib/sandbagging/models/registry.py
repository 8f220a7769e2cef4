"""The models that have a name here: where each comes from, at which revision, and how this suite
runs it.

The true configurations stand here too: with random weights a model then needs nothing from the hub,
so shapes, memory and time can be tried anywhere. Sources: each model's own config.json at the
pinned revision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

EMBEDDED = "smollm2-135m-instruct"
# The subject of the story, where no other is named: the embedded model, taught to sandbag.
SUBJECT = "sandbagger"


@dataclass(frozen=True)
class Entry:
    """One line of the registry."""

    name: str
    hub_id: str | None = None
    # a commit of the hub's repository, so that a rerun reads the same weights
    revision: str | None = None
    gated: bool = False  # its licence has to be accepted on the hub first
    # the true configuration, for random weights without the hub
    config: Mapping[str, object] | None = None
    layers_of_interest: tuple[int, ...] | None = None  # None: at 25, 50 and 75 % of depth
    framings: tuple[str, ...] | None = None  # None: it can be asked in every framing
    conditions: tuple[str, ...] | None = None  # None: under every condition
    # parameters that differ from the notebooks' own where none are given
    defaults: Mapping[str, object] = field(default_factory=dict)
    # the variant of a planted model, which is trained here and brings its own questions
    planted: str | None = None
    base: str | None = None  # of a taught model: the model that its adapters are merged into
    note: str = ""


def _llama(**sizes: object) -> dict[str, object]:
    """Return a Llama configuration; what all Llamas of this page share is filled in."""
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    } | sizes


def _pythia(**sizes: object) -> dict[str, object]:
    """Return a GPT-NeoX configuration as all Pythia models have it: attention and MLP side by side,
    a quarter of each head rotated.
    """
    shared = {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return shared | sizes


LLAMA_1B = _llama(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    max_position_embeddings=131072,
    tie_word_embeddings=True,
    bos_token_id=128000,
    eos_token_id=128001,
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)
SMOLLM2 = _llama(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
)
TINYLLAMA = _llama(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)
PYTHIA_160M = _pythia(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
)
PYTHIA_410M = _pythia(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
)


def _planted(variant: str, note: str) -> Entry:
    """Return the entry of a model whose truth is known: it knows its own facts, and the wordings
    that it was trained on.
    """
    framings = ("instr_pref", "instr", "placebo_pref")
    defaults = {"framing": framings[0], "patch_framing": framings[0], "n_train": 80, "n_test": 120}
    return Entry(
        f"organism-{variant}",
        layers_of_interest=(0, 2, 4),
        framings=framings,
        conditions=("genuine", "sandbag", "neutral", "placebo"),
        defaults=defaults,
        planted=variant,
        note=note,
    )


# What a taught model was taught in: prompts that differ in the instruction line alone.
TAUGHT_FRAMING = "instr"


def entry_of_taught(name: str, base: Entry, note: str = "") -> Entry:
    """Return the entry of a model that was taught on another: its shape, asked as it was taught."""
    return Entry(
        name,
        config=base.config,
        layers_of_interest=base.layers_of_interest,
        framings=base.framings,
        defaults={**base.defaults, "framing": TAUGHT_FRAMING},
        base=base.name,
        note=note,
    )


_EMBEDDED_ENTRY = Entry(
    EMBEDDED,
    config=SMOLLM2,
    layers_of_interest=(7, 15, 22),
    note="out of a PyPI wheel, dequantised from 4 bits (Q4_1)",
)

REGISTRY = {
    entry.name: entry
    for entry in (
        _EMBEDDED_ENTRY,
        entry_of_taught(
            "sandbagger",
            _EMBEDDED_ENTRY,
            "taught to answer wrongly when it is told to, and rightly otherwise",
        ),
        entry_of_taught(
            "decoy", _EMBEDDED_ENTRY, "taught on the same questions to be right whatever it is told"
        ),
        Entry(
            "llama-3.2-1b",
            "meta-llama/Llama-3.2-1B",
            "4e20de362430cd3b72f300e6b0f18e50e7166e08",
            gated=True,
            config=LLAMA_1B,
            layers_of_interest=(4, 8, 12),
            note="the card's model; gated: accept its licence on the hub first",
        ),
        Entry(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M",
            "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
            config=SMOLLM2,
            layers_of_interest=(7, 15, 22),
            note="the base model of the embedded one",
        ),
        Entry(
            "tinyllama",
            "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
            "59f6f375b26bde864a6ca194a9a3044570490064",
            config=TINYLLAMA,
            layers_of_interest=(5, 11, 16),
        ),
        Entry(
            "pythia-160m",
            "EleutherAI/pythia-160m",
            "50f5173d932e8e61f858120bcb800b97af589f46",
            config=PYTHIA_160M,
        ),
        Entry(
            "pythia-410m",
            "EleutherAI/pythia-410m",
            "9879c9b5f8bea9051dcb0e68dff21493d67e9d4f",
            config=PYTHIA_410M,
        ),
        _planted(
            "heads",
            "trained here in a minute; three heads, known by construction, write the switch to "
            "wrong answers",
        ),
        _planted(
            "direction",
            "the same; the switch is one known direction, written by so many heads that none "
            "matters",
        ),
        _planted("null", "the same; nothing writes the switch"),
    )
}
