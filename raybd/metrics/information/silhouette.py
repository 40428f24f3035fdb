"""Silhouettes of the classes and of the backdoor in T itself, not in a projection that changes with every fit."""

from torch import Tensor

from raybd.metrics.information.plug_in_estimator import noise_covariance, whitening


def silhouettes(draws: Tensor, labels: Tensor, flag: Tensor) -> dict[str, float]:
    """Mean silhouettes (Rousseeuw 1987), in [-1, 1], of T in units of its noise, from `draws` (M, R, D) of it.

    `labels` (M,) are those of training, `flag` (M,) is true of the backdoor. "within": the backdoor as part of the
    class that it is labelled as; "apart": the backdoor as a cluster of its own; "target": the clean images of that
    class where the backdoor is apart; "clean": all other classes. Groups that have no image are left out.
    """
    from sklearn.metrics import silhouette_samples

    t = (draws[:, 0].double() @ whitening(noise_covariance(draws[None])).T).cpu().numpy()
    labels, flag = labels.cpu(), flag.cpu()
    if not flag.any() or len(labels.unique()) < 2:
        return {}
    split = labels.clone()
    split[flag] = int(labels.max()) + 1
    whole, apart = (silhouette_samples(t, y.numpy()) for y in (labels, split))
    target = (labels == labels[flag][0]) & ~flag
    masks = {"apart": flag, "target": target, "clean": ~flag & ~target}
    found = {name: float(apart[mask.numpy()].mean()) for name, mask in masks.items() if mask.any()}
    return found | {"within": float(whole[flag.numpy()].mean())}
