"""The models of the card at their true size, with random weights: what fits, what it takes, and
that the two routes agree.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "llama-3.2-1b": ("L0H6 L0H3 L1H26 L4H3 L8H14", 1_235_814_400, 32, [8192, 2048]),
    "pythia-160m": ("L0H6 L0H3 L1H11 L4H3 L8H1", 162_322_944, 12, [3072, 768]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_true_size_runs_in_memory_and_both_routes_agree(name):
    heads, parameters, swept, sae = CASES[name]
    script = Path(__file__).parent / "card_shape.py"
    finished = subprocess.run(
        [sys.executable, str(script), name, heads], capture_output=True, text=True, check=True
    )
    found = json.loads(finished.stdout.splitlines()[-1])
    print(found)
    assert (
        found["parameters"] == parameters and found["heads_swept"] == swept and found["sae"] == sae
    )
    assert found["peak_gb"] < 20  # what a small GPU or a laptop has
    # Bit for bit, at equal batch shape.
    assert found["finite"] and found["moved"] and found["hook_is_weights"]
    assert found["swept_difference"] < 1e-4  # another order of the same sums
    assert 0 < found["l0"] <= 64
