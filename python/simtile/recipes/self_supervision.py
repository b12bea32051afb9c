"""Recipes on two views of small digits: SwAV, a term of clip-rocket, Hydra, ArcMargin, a fixed head."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from simtile.functional import distillation_loss, gated_info_nce, info_nce, nt_xent, sup_con
from simtile.layers import ReweightingHead
from simtile.losses import HydraLoss, SwAVLoss
from simtile.recipes import Outcome
from simtile.recipes.small_digits import CLASSES, WIDTH, Encoder, SmallDigits, distorted
from simtile.recipes.tasks import Fitted, PairLoss, fit
from simtile.self_supervised import barlow_twins, multi_crop_info_nce, swalip

OTHER_VIEW, KNN = "other view", "5-NN"


def swav(*, steps: int, batch: int, prototypes: int, learning_rate: float, seed: int) -> Outcome:
    """How pure the clusters of held-out digits are at SwAV's prototypes, against assignments without balance."""
    task = SmallDigits()

    def trained(balanced: bool) -> tuple[float, dict[str, float]]:
        torch.manual_seed(seed)
        loss = _SwAV(prototypes, balanced)
        found = fit(task, loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
        return _purity(task, _projections(task, found), loss.swav.prototypes), found.after

    measured, swapped = trained(True)
    baseline, collapsed = trained(False)
    return Outcome(measured, baseline, {f"{KNN}, balanced": swapped[KNN], f"{KNN}, without balance": collapsed[KNN]})


class _SwAV(nn.Module):
    """SwAV, or the same swapped prediction of assignments that are a plain softmax."""

    def __init__(self, prototypes: int, balanced: bool) -> None:
        super().__init__()
        self.swav, self.balanced = SwAVLoss(WIDTH, prototypes), balanced

    def forward(self, a: Tensor, b: Tensor, _: Tensor) -> Tensor:
        if self.balanced:
            loss: Tensor = self.swav([a, b])
            return loss
        c, sharp = self.swav.prototypes, self.swav.options["epsilon"]
        how = {"temperature": self.swav.temperature, "teacher_temperature": sharp}
        parts = [distillation_loss(x, c, y, c, symmetric=False, **how) for x, y in ((a, b), (b, a))]
        return (parts[0] + parts[1]) / 2


def _purity(task: SmallDigits, projections: Tensor, prototypes: Tensor) -> float:
    """Share of held-out digits that are the most frequent one of those at their nearest prototype."""
    with torch.no_grad():
        nearest = (projections @ normalize(prototypes, dim=1).T).argmax(1)
    counts = torch.zeros(len(prototypes), CLASSES)
    counts.index_put_((nearest, task.held_out_labels), torch.ones(len(nearest)), accumulate=True)
    return float(counts.amax(1).sum() / len(nearest))


def clip_rocket(*, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """clip-rocket's loss of held-out digits after training with it, against the same from stored matrices."""
    task = SmallDigits()
    found = fit(
        task, lambda a, b, _: _rocket(a, b), steps=steps, batch=batch, learning_rate=learning_rate, seed=seed
    )  # fmt: skip
    model = found.objective.eval()
    assert isinstance(model, Encoder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        a, b = (model.projection(model.features(distorted(task.held_out_images, generator))) for _ in range(2))
    stored = multi_crop_info_nce(a, b, [a], [b], plan="dense") + 0.2 * _stored_swalip(a, b) + _stored_barlow(a, b)
    terms = {"InfoNCE": info_nce(a, b, symmetric=True), "SwALIP": swalip([a, b], [b, a]), "Barlow": barlow_twins(a, b)}
    table = {f"{name} of held-out digits": float(value) for name, value in terms.items()}
    for key in (KNN, OTHER_VIEW):
        table |= {key: found.after[key], f"{key}, untrained": found.before[key]}
    return Outcome(float(_rocket(a, b)), float(stored), table)


def _rocket(a: Tensor, b: Tensor) -> Tensor:
    """Crops, and the terms of SwALIP and BarLIP; each view is the other one's modality, and its own crop."""
    crops = multi_crop_info_nce(a, b, [a], [b], plan="auto" if a.requires_grad else "recompute")
    return crops + 0.2 * swalip([a, b], [b, a]) + barlow_twins(a, b)


def _stored_swalip(a: Tensor, b: Tensor) -> Tensor:
    """SwALIP from stored similarities and plans, exponentials and all."""

    def term(student: Tensor, teacher: Tensor) -> Tensor:
        q = (teacher / 0.05).exp()
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        return -(q * torch.log_softmax(student / 0.1, 1)).sum(1).mean()

    a, b = normalize(a, dim=1), normalize(b, dim=1)
    pairs = [(x @ y.T, v @ w.T) for x, v in ((a, b), (b, a)) for y, w in ((b, a), (a, b))]
    return torch.stack([(term(s, t) + term(s.T, t.T)) / 2 for s, t in pairs]).mean()


def _stored_barlow(a: Tensor, b: Tensor) -> Tensor:
    """Barlow Twins from stored correlations."""
    a, b = (nn.functional.batch_norm(part, None, None, training=True) for part in (a, b))
    c = a.T @ b / len(a)
    off = c - torch.diag(c.diagonal())
    return (1 - c.diagonal()).square().sum() + 5e-3 * off.square().sum()


def hydra(*, steps: int, batch: int, learning_rate: float, seed: int) -> Outcome:
    """The loss of pairs of any two digits, each in a subspace of its own, against all in the whole space."""
    torch.manual_seed(seed)
    gated = HydraLoss(CLASSES, WIDTH, label_width=WIDTH, hidden=2 * WIDTH)

    def whole(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        partners = labels[torch.randperm(len(labels))]
        return gated_info_nce(a, b, torch.ones_like(a), labels, partners, labels)

    task = SmallDigits()
    losses: dict[str, PairLoss] = {"gated": gated, "whole space": whole}
    runs = {
        name: fit(task, loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
        for name, loss in losses.items()
    }
    late = {name: statistics.fmean(found.losses[-20:]) for name, found in runs.items()}
    table = {f"{KNN}, {name}": found.after[KNN] for name, found in runs.items()}
    return Outcome(late["gated"], late["whole space"], {**table, f"{KNN}, untrained": runs["gated"].before[KNN]})


def arc_margin(*, steps: int, batch: int, margin: float, learning_rate: float, seed: int) -> Outcome:
    """How far apart held-out classes are after ArcMargin over learnt class vectors, against no margin."""
    task = SmallDigits()

    def trained(margin: float) -> Fitted:
        torch.manual_seed(seed)
        return fit(task, _ArcMargin(margin), steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)

    with_margin, without = trained(margin), trained(0.0)
    table = {f"{KNN}, with a margin": with_margin.after[KNN], f"{KNN}, without": without.after[KNN]}
    return Outcome(_separation(task, with_margin), _separation(task, without), table)


def fixed_head(*, steps: int, batch: int, kappa: float, learning_rate: float, seed: int) -> Outcome:
    """5-NN after NT-Xent behind a fixed reweighting of coordinates, against NT-Xent without it."""
    task, head = SmallDigits(), ReweightingHead(WIDTH, kappa)

    def trained(loss: PairLoss) -> dict[str, float]:
        return fit(task, loss, steps=steps, batch=batch, learning_rate=learning_rate, seed=seed).after

    headed, plain = trained(lambda a, b, _: nt_xent(head(a), head(b))), trained(lambda a, b, _: nt_xent(a, b))
    table = {f"{OTHER_VIEW}, with the head": headed[OTHER_VIEW], f"{OTHER_VIEW}, without": plain[OTHER_VIEW]}
    return Outcome(headed[KNN], plain[KNN], table)


class _ArcMargin(nn.Module):
    """MCIP's loss over classes: each has one learnt vector, to which its digits must be nearer by a margin."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.vectors = nn.Parameter(torch.randn(CLASSES, WIDTH))

    def forward(self, a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
        return sup_con(
            torch.cat([a, b]), labels.repeat(2), keys=self.vectors, key_labels=torch.arange(CLASSES),
            margin=self.margin, temperature=1 / 30,
        )  # fmt: skip


def _separation(task: SmallDigits, found: Fitted) -> float:
    """Mean cosine of held-out projections of one class minus that of different classes."""
    z, labels = normalize(_projections(task, found), dim=1), task.held_out_labels
    same = labels[:, None] == labels
    other = ~same
    same.fill_diagonal_(False)
    cosines = z @ z.T
    return float(cosines[same].mean() - cosines[other].mean())


def _projections(task: SmallDigits, found: Fitted) -> Tensor:
    """(n, WIDTH) of the held-out images."""
    model = found.objective.eval()
    assert isinstance(model, Encoder)
    with torch.no_grad():
        projected: Tensor = model.projection(model.features(task.held_out_images))
    return projected
