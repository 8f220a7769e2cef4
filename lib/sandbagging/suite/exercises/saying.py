"""What a check says: right, or not yet and which mistake is likely."""

from collections.abc import Sequence


def right(text: str) -> bool:
    """Say that an answer is right, and return True."""
    print(f"Right: {text}")
    return True


def not_yet(text: str) -> bool:
    """Say what an answer lacks, and return False."""
    print(f"Not yet: {text}")
    return False


def likely(mistakes: Sequence[tuple[float, str]], answer: float, tolerance: float) -> str | None:
    """Return the words for the first mistake whose result is the learner's answer."""
    return next((words for value, words in mistakes if abs(value - answer) <= tolerance), None)
