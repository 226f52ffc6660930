"""How far a share of counted samples, or a mean over samples, may be from the true one."""

NORMAL = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, of `correct` among `count` (Wilson 1927): within [0, 1], and never empty.

    `(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n)` with p = correct / count, n = count.

    Raises:
        ValueError: a share of nothing, or of more than there are.
    """
    if not 0 <= correct <= count or not count:
        raise ValueError(f"{correct} of {count}: a share is of at least one, and at most all")
    p, z = correct / count, NORMAL
    middle, spread = p + z * z / (2 * count), z * (p * (1 - p) / count + (z / (2 * count)) ** 2) ** 0.5
    low, high = ((middle + sign * spread) / (1 + z * z / count) for sign in (-1, 1))
    return (low if correct else 0.0), (high if correct < count else 1.0)  # these two are exact, and not rounded past


def mean_interval(total: float, squares: float, count: int) -> list[float]:
    """The 95 % interval of a mean over samples, of their sum and the sum of their squares: `m ± z s / √n`.

    Raises:
        ValueError: fewer than two samples, which have no deviation.
    """
    if count < 2:
        raise ValueError(f"{count} samples: a deviation is of at least two")
    middle = total / count
    spread = NORMAL * (max(squares / count - middle * middle, 0.0) / (count - 1)) ** 0.5
    return [middle - spread, middle + spread]


def widened(low: float, high: float) -> tuple[float, float]:
    """Where the figure of another seed is expected: the range of several seeds, and its width again on each side.

    Of normally distributed figures another one lies there 97 times in 100 if the range is that of five seeds, 87 times
    if it is that of three.
    """
    return low - (high - low), high + (high - low)


def share(name: str, correct: int, count: int) -> dict[str, float | list[float]]:
    """A share as figures: `name` in [0, 1], and `name_interval`, its 95 % interval [low, high]."""
    return {name: correct / count, f"{name}_interval": list(wilson(correct, count))}
