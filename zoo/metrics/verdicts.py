"""What a classifier says of a test set. B samples of a batch · N of all · O classes"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.metrics.intervals import share
from zoo.metrics.precise import double, single

FEW = 5  # answers among which `top5` looks


class Verdicts:
    """A classifier's answers, batch by batch."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []  # (B, 3) int64: label, likeliest class, whether the label is among the first FEW
        self.loss, self.outputs = 0.0, 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (B, O), of any precision, and classes (B,) int64.

        Raises:
            ValueError: a class that the model does not have.
        """
        logits, self.outputs = single(logits), logits.shape[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.outputs:
            raise ValueError(
                f"labels span {int(labels.min())} to {int(labels.max())}, this model has {self.outputs} classes; give "
                "data of its classes"
            )
        first = logits.topk(min(FEW, self.outputs)).indices  # (B, FEW)
        among = (first == labels[:, None]).any(1)  # (B,)
        self.parts.append(torch.stack([labels, logits.argmax(1), among.long()], 1).cpu())  # (B, 3)
        self.loss += double(F.cross_entropy(logits, labels, reduction="none")).sum().item()

    @property
    def pairs(self) -> Tensor:
        """The label and the answer of each sample, (N, 2) int64."""
        return torch.cat(self.parts)[:, :2]

    def figures(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """What was counted: shares in [0, 1], each with its 95 % interval (Wilson), and the number of samples.

        `accuracy`; `top5`, where there are more than five classes; `macro_accuracy`, the mean over the classes that
        occur; `loss`, the cross-entropy in nats; `per_class`, of each class that occurs `accuracy` and `count`.

        Args:
            names: of the classes; without them they are "class_0", ….

        Raises:
            ValueError: no samples.
        """
        labels, answers, among = torch.cat(self.parts).unbind(1) if self.parts else 3 * [torch.empty(0)]  # (N,) each
        if not (count := len(labels)):
            raise ValueError("no samples to classify; give some")
        correct = labels == answers  # (N,)
        figures = share("accuracy", int(correct.sum()), count)
        if self.outputs > FEW:
            figures |= share("top5", int(among.sum()), count)
        sizes = labels.bincount(minlength=self.outputs).tolist()
        right = labels[correct].bincount(minlength=self.outputs).tolist()
        called = unique(names or [f"class_{c}" for c in range(self.outputs)])
        per_class = {
            called[c]: share("accuracy", right[c], size) | {"count": size} for c, size in enumerate(sizes) if size
        }
        macro = sum(right[c] / size for c, size in enumerate(sizes) if size) / len(per_class)
        figures["macro_accuracy"] = macro
        return figures | {"loss": self.loss / count, "per_class": per_class, "images": count}


def unique(names: Sequence[str]) -> list[str]:
    """Names by which classes are told apart: one that two of them have is followed by the number of each."""
    times = Counter(names)
    return [f"{name} ({c})" if times[name] > 1 else name for c, name in enumerate(names)]


@torch.no_grad()
def classification(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str] = ()
) -> dict[str, Any]:
    """A classifier's figures over a test set, see `Verdicts.figures`."""
    verdicts, model = Verdicts(), model.eval()
    for x, y in batches:
        verdicts.update(model(x), y)
    return verdicts.figures(names)
