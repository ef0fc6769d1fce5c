"""Local linear attention as the reference of Yifei-Zuo/FlashLLA computes it: weights of all pairs,
the matrix of every query, a direct solve; and as its kernels do, by conjugate gradients."""

import torch

ITERATIONS, TOLERANCE = 32, 1e-12  # the authors': fixed, and of squared norms


def weights(given, params):
    """exp(scale q.k - its row's maximum) [B, H, Nq, Nk], and their sums."""
    q, k = given["q"], given["k"]
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    if params.get("causal", True):
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1 + k.shape[2] - q.shape[2])
        scores.masked_fill_(hidden, -torch.inf)
    w = torch.exp(scores - scores.amax(3, keepdim=True))
    return w, w.sum(3, keepdim=True)


def plain(given, params):
    """Is it the form of the authors: a number as ridge, one kv head per query head?"""
    known = {"causal", "ridge_lambda", "solver"}
    return set(params) <= known and given["q"].shape == given["k"].shape and "ridge" not in given


def answer(w, omega, mean, rho, q, k, v):
    """The prediction from the solution rho, of the system in the keys' distances from the query."""
    d = omega - (mean * rho).sum(3, keepdim=True)
    slope = rho @ k.transpose(2, 3) - (q * rho).sum(3, keepdim=True)
    return (w * (1 - slope) / d) @ v


def direct(given, params):
    """D x D numbers per query, all at once."""
    if not plain(given, params):
        return None
    q, k, v = (given[name] for name in "qkv")
    if q.shape[:3].numel() * q.shape[3] ** 2 > 2**28:
        return None  # the matrices would take more than a gigabyte
    w, omega = weights(given, params)
    total = w @ k
    mean = total - omega * q
    pairs = (k.unsqueeze(4) * k.unsqueeze(3)).flatten(3)
    sigma = (w @ pairs).unflatten(3, (q.shape[3], q.shape[3]))
    cross = total.unsqueeze(4) * q.unsqueeze(3)
    sigma = sigma - cross - cross.transpose(3, 4)
    sigma = sigma + omega.unsqueeze(4) * (q.unsqueeze(4) * q.unsqueeze(3))
    ridge = params.get("ridge_lambda", 10.0) * omega.unsqueeze(4)
    sigma = sigma + ridge * torch.eye(q.shape[3])
    rho = torch.cholesky_solve(mean.unsqueeze(4), torch.linalg.cholesky(sigma)).squeeze(4)
    return answer(w, omega, mean, rho, q, k, v)


def iterated(given, params):
    """Matrix products with the weights of all pairs instead of the matrices."""
    if not plain(given, params):
        return None
    q, k, v = (given[name] for name in "qkv")
    w, omega = weights(given, params)
    total, ridge = w @ k, params.get("ridge_lambda", 10.0) * omega
    mean = total - omega * q
    dot = lambda a, b: (a * b).sum(3, keepdim=True)

    def times(p):
        along_q = dot(q, p)
        out = (w * (p @ k.transpose(2, 3))) @ k - along_q * total - dot(total, p) * q
        return out + omega * along_q * q + ridge * p

    x, r, p = torch.zeros_like(mean), mean, mean
    squared = first = dot(r, r)
    active = first != 0
    for _ in range(ITERATIONS):
        through = times(p)
        step = torch.where(active, squared / (dot(p, through) + 1e-10), 0)
        x, r = x + step * p, r - step * through
        before, squared = squared, dot(r, r)
        active = active & (squared > first.clamp(min=TOLERANCE) * TOLERANCE)
        if not active.any():
            break
        p = r + torch.where(active, squared / before, 0) * p
    return answer(w, omega, mean, x, q, k, v)


FORMS = {"all matrices": direct, "products of all pairs": iterated}
