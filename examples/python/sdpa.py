"""scaled_dot_product_attention as PyTorch defines it, written with Attune and without PyTorch.

PYTHONPATH=build/python python3 examples/python/sdpa.py
"""

import numpy as np

import attune


def scaled_dot_product_attention(
    ctx, query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False
):
    """query [B,Hq,L,E], key [B,H,S,E], value [B,H,S,Ev] -> [B,Hq,L,Ev].

    A boolean mask says who takes part, any other is added to the scores; it broadcasts to
    [B,Hq,L,S]. is_causal counts from the top left: query i sees keys 0 to i. With enable_gqa,
    Hq is a multiple of H. A row that sees no key is 0.
    """
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal and attn_mask exclude each other")
    if not enable_gqa and query.shape[1] != key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads, {key.shape[1]} key heads: set enable_gqa")
    mask = bias = None
    if attn_mask is not None:
        broadcast = attn_mask.reshape((1,) * (4 - attn_mask.ndim) + attn_mask.shape)
        mask, bias = (broadcast, None) if attn_mask.dtype == bool else (None, broadcast)
    return ctx.run(
        "softmax",
        q=query,
        k=key,
        v=value,
        mask=mask,
        bias=bias,
        causal=is_causal,
        q_offset=0,  # Attune's default aligns the last query with the last key instead
        scale=0.0 if scale is None else scale,  # 0 is 1/sqrt(E)
    )["o"]


def main():
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.standard_normal(s, dtype=np.float32)
        for s in [(2, 8, 5, 16), (2, 2, 7, 16), (2, 2, 7, 24)]
    )
    with attune.Context(tune="off") as ctx:
        causal = scaled_dot_product_attention(ctx, q, k, v, is_causal=True, enable_gqa=True)
        print("output", causal.shape)
        print("query 0 sees key 0 only:", np.allclose(causal[:, :4, 0], v[:, :1, 0], atol=1e-6))
        mask = np.tril(np.ones((5, 7), dtype=bool))
        same = scaled_dot_product_attention(ctx, q, k, v, attn_mask=mask, enable_gqa=True)
        print("a triangular mask says the same:", np.allclose(causal, same, atol=1e-6))


if __name__ == "__main__":
    main()
