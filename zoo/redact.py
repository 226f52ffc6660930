"""What may not be written down or published: tokens, passwords, places of this machine."""

import os
import re
from pathlib import Path
from typing import Any

HIDDEN = "***"
SECRET = re.compile(
    r"token|secret|password|passwd|api_?key|access_?key|signature|credential|(?<![a-z])sig(?![a-z])", re.I
)


def redact(text: str) -> str:
    """A text without Hub tokens, passwords in addresses, secrets in their queries, and values of secret variables."""
    for name, value in os.environ.items():
        if name.upper().endswith(("TOKEN", "KEY", "SECRET", "PASSWORD")) and len(value) >= 8:
            text = text.replace(value, HIDDEN)
    text = re.sub(r"\bhf_[A-Za-z0-9]{8,}", HIDDEN, text)
    text = re.sub(r"(\w://)[^/\s'\"@]+@", rf"\1{HIDDEN}@", text)
    return re.sub(r"([?&;]([\w.%-]+)=)[^&\s'\"#;]+", lambda m: m[1] + HIDDEN if SECRET.search(m[2]) else m[0], text)


def redacted(value: Any) -> Any:
    """A value out of JSON or YAML, every text in it redacted."""
    if isinstance(value, dict):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redacted, value)) if type(value) in (list, tuple) else value
    return redact(value) if isinstance(value, str) else value


def public(place: Any) -> str | None:
    """The name of data or weights that everybody can read; None of any other, which tells of this machine alone.

    Args:
        place: as ImageData's source or a module's weights: "torchvision:MNIST:ROOT" is told without its root.
    """
    if not isinstance(place, str):
        return None
    if place.startswith("torchvision:"):
        return ":".join(place.split(":")[:2])
    if place.startswith(("samples/", "hf://")):
        return redact(place)
    of_the_hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", place) and not Path(place).exists()
    return place if of_the_hub else None
