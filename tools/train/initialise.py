"""Starting weights, after the recipe of the RWKV-6 authors.

Decays spread from slow to fast over the channels, ramps for the token shift, and silent outputs, so that at the
start each layer passes its input on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import ChannelMix, FinchTimeMix, GoldFinch, GoldTimeMix


@torch.no_grad()
def initialise(model: GoldFinch) -> None:
    cfg = model.cfg
    nn.init.uniform_(model.emb.weight, -1e-4, 1e-4)  # ln0 scales it up; tiny rows move far in the first steps
    nn.init.orthogonal_(model.head.weight, gain=0.5)
    if cfg.tmix2 == "gold":
        nn.init.orthogonal_(model.w_kv_cache_a.weight)
        nn.init.orthogonal_(model.w_kv_cache_b.weight)
    for index, block in enumerate(model.blocks):
        depth = index / max(cfg.n_layer - 1, 1)  # 0 at the first layer, 1 at the last
        height = 1 - index / cfg.n_layer  # 1 at the first layer, near 0 above
        if isinstance(block.att, FinchTimeMix):
            _finch(block.att, depth, height)
        else:
            _gold(block.att, depth, height)
        _channel_mix(block.ffn, height)
        nn.init.constant_(block.att.ln_x.weight, ((1 + index) / cfg.n_layer) ** 0.7)


def _ramp(width: int) -> Tensor:
    return torch.arange(width) / width


def _finch(att: FinchTimeMix, depth: float, height: float) -> None:
    ramp = _ramp(att.cfg.n_embd)
    att.time_maa_x.copy_(1 - ramp**height)
    for name, maa in {
        "w": 1 - ramp**height,
        "k": 1 - ramp**height,
        "v": 1 - (ramp**height + 0.3 * depth),
        "v2": 1 - (ramp**height + 0.3 * depth),
        "r": 1 - ramp ** (0.5 * height),
        "g": 1 - ramp ** (0.5 * height),
    }.items():
        if name in att.order:
            getattr(att, f"time_maa_{name}").copy_(maa)
    # First factors are zero: the data-dependent parts start silent.
    nn.init.uniform_(att.time_maa_w2, -0.01, 0.01)
    nn.init.uniform_(att.time_decay_w2, -0.01, 0.01)
    if att.is_c2:
        nn.init.uniform_(att.time_value2_w2, -0.01, 0.01)
    channel = torch.arange(att.cfg.dim_att)
    spread = channel / (att.cfg.dim_att - 1)
    att.time_decay.copy_(-6 + 5 * spread ** (0.7 + 1.3 * depth))
    bonus = depth * (1 - spread) + ((channel + 1) % 3 - 1) * 0.1
    att.time_faaaa.copy_(bonus.view_as(att.time_faaaa))
    nn.init.orthogonal_(att.receptance.weight)
    nn.init.orthogonal_(att.key.weight, gain=0.1)
    nn.init.orthogonal_(att.value.weight)
    if not att.is_c2:
        nn.init.orthogonal_(att.gate.weight, gain=0.1)
    nn.init.zeros_(att.output.weight)


def _gold(att: GoldTimeMix, depth: float, height: float) -> None:
    ramp = _ramp(att.cfg.n_embd)
    for name in ("x", "q", "v_cache", "k"):
        getattr(att, f"time_maa_{name}").copy_(1 - ramp**height)
    att.time_maa_v.copy_(1 - (ramp**height + 0.3 * depth))
    for name in ("maa_q_w2", "maa_kv_w2", "key_w2", "value_w2"):
        nn.init.uniform_(getattr(att, f"time_{name}"), -0.01, 0.01)
    nn.init.orthogonal_(att.query.weight)
    nn.init.zeros_(att.output.weight)


def _channel_mix(ffn: ChannelMix, height: float) -> None:
    maa = 1 - _ramp(ffn.key.in_features) ** height
    ffn.time_maa_k.copy_(maa)
    ffn.time_maa_r.copy_(maa)
    nn.init.orthogonal_(ffn.key.weight)
    nn.init.zeros_(ffn.receptance.weight)
    nn.init.zeros_(ffn.value.weight)
