"""The WKV recurrence of Finch, in a parallel form that trains on a CPU.

    y_t = S_{t-1} r_t          S_t = S_{t-1} diag(w_t) + v_t k_t^T          (S: [value, key], S_0 = 0)

The usual parallel form divides by cumulative decays and overflows as soon as a channel forgets quickly. Here
every exponential has an exponent that is never positive, so nothing overflows: a chunk is split in halves
again and again, and the second half reads the first one through the decays up to, and from, the border
between them. What remains is float32 rounding of the log decay summed over one chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wkv_sequential(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor) -> Tensor:
    """The definition, one token at a time: the judge of wkv_chunked. All inputs and the result [B, T, H, N]."""
    batch, tokens, heads, size = r.shape
    state = r.new_zeros(batch, heads, size, size)
    outputs = []
    for t in range(tokens):
        outputs.append(torch.einsum("bhvk,bhk->bhv", state, r[:, t]))
        state = state * log_w[:, t].exp()[:, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
    return torch.stack(outputs, dim=1)


def wkv_chunked(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, chunk: int = 32) -> Tensor:
    """wkv_sequential for many tokens at once. `chunk` is a power of two; log_w = log(decay) is never positive.

    A token count that is no multiple of `chunk` is padded with k = 0 and no decay, which changes nothing.
    """
    tokens = r.shape[1]
    pad = -tokens % chunk
    if pad:
        r, k, v, log_w = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (r, k, v, log_w))
    # [B, T, H, N] -> [B, H, chunks, chunk, N]
    r, k, v, log_w = (x.transpose(1, 2).unflatten(2, (-1, chunk)) for x in (r, k, v, log_w))
    through = log_w.cumsum(dim=3)  # log decay from the chunk's start through token t
    before = through - log_w  # ... up to, not including, token t
    y = _within_chunks(r, k, v, through, before) + _across_chunks(r, k, v, through, before)
    return y.flatten(2, 3).transpose(1, 2)[:, :tokens]


def _within_chunks(r: Tensor, k: Tensor, v: Tensor, through: Tensor, before: Tensor) -> Tensor:
    """What a token reads from earlier tokens of its own chunk: blocks of 2, 4, ... chunk tokens, in halves."""
    scores = r.new_zeros(*r.shape[:4], r.shape[3])
    chunk = r.shape[3]
    half = chunk // 2
    while half >= 1:
        blocks = (chunk // (2 * half), 2, half)
        r_late = r.unflatten(3, blocks)[..., 1, :, :]
        before_late = before.unflatten(3, blocks)[..., 1, :, :]
        k_early = k.unflatten(3, blocks)[..., 0, :, :]
        through_early = through.unflatten(3, blocks)[..., 0, :, :]
        border = through_early[..., -1:, :]
        read = r_late * (before_late - border).exp()
        written = k_early * (border - through_early).exp()
        block_scores = read @ written.transpose(-1, -2)  # [..., blocks, late, early]
        for b in range(blocks[0]):
            start = 2 * half * b
            scores[..., start + half : start + 2 * half, start : start + half] = block_scores[..., b, :, :]
        half //= 2
    return scores @ v


def _across_chunks(r: Tensor, k: Tensor, v: Tensor, through: Tensor, before: Tensor) -> Tensor:
    """What a token reads from the state left by all earlier chunks."""
    total = through[..., -1:, :]
    written = (k * (total - through).exp()).transpose(-1, -2) @ v  # [B, H, chunks, key, value]
    decay = total.exp().transpose(-1, -2)
    states = [torch.zeros_like(written[:, :, 0])]
    for c in range(written.shape[2] - 1):
        states.append(states[-1] * decay[:, :, c] + written[:, :, c])
    return (r * before.exp()) @ torch.stack(states, dim=2)
