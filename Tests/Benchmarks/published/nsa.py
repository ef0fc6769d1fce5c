"""Native sparse attention as the naive functions of fla-org/native-sparse-attention and the PyTorch
reference of XunhaoLai/native-sparse-attention-triton compute it: scores of all compressed keys,
then one position after the other with its blocks gathered."""

import torch

CMP, STRIDE, BLOCK, TOP, INIT, LOCAL, WINDOW = 32, 16, 64, 16, 1, 2, 512  # the paper's


def compressed(x):
    """Means of windows, [Hkv, Nc, D]."""
    return x.unfold(1, CMP, STRIDE).mean(-1)


def overlaps(blocks, keys):
    """[blocks, keys]: how many strides a window shares with a block."""
    begin, block = torch.arange(keys) * STRIDE, torch.arange(blocks)[:, None] * BLOCK
    shared = torch.minimum(begin + CMP, block + BLOCK) - torch.maximum(begin, block)
    return shared.clamp(min=0).float() / STRIDE


def attend(q, k, v, scale):
    """q [Hkv, G, D] on keys [Hkv, n, D]."""
    return (q @ k.transpose(1, 2) * scale).softmax(-1) @ v


def naive(given, params):
    if params or set(given) != {"q", "k", "v"} or given["q"].shape[0] != 1:
        return None
    q, k, v = (given[name][0] for name in "qkv")
    (heads, n, depth), shared = q.shape, k.shape[0]
    q, scale = q.view(shared, heads // shared, n, depth), depth**-0.5
    k_cmp, v_cmp = compressed(k), compressed(v)
    t = torch.arange(n)[:, None]
    hidden = torch.arange(k_cmp.shape[1]) * STRIDE + CMP - 1 > t
    scores = (q @ k_cmp[:, None].transpose(2, 3) * scale).masked_fill(hidden, -torch.inf)
    p = scores.softmax(-1).nan_to_num()  # the first positions see no window
    o = p @ v_cmp[:, None]
    blocks = -(-n // BLOCK)
    value = p.sum(1) @ overlaps(blocks, k_cmp.shape[1]).T
    j, own = torch.arange(blocks), t // BLOCK
    value = value.masked_fill((j < INIT) | (j > own - LOCAL), torch.inf).masked_fill(j > own, -1)
    chosen = value.topk(min(TOP, blocks)).indices.sort(-1).values
    inside = torch.arange(BLOCK)
    for i in range(n):
        for h in range(shared):
            tokens = (chosen[h, i][:, None] * BLOCK + inside).flatten()
            tokens = tokens[tokens <= i]
            o[h, :, i] += attend(q[None, h, :, i], k[None, h, tokens], v[None, h, tokens], scale)[0]
        near = slice(max(0, i - WINDOW + 1), i + 1)
        o[:, :, i] += attend(q[:, :, i], k[:, near], v[:, near], scale)
    return o.reshape(1, heads, n, -1)


FORMS = {"naive": naive}
