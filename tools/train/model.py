"""The GoldFinch family in PyTorch, whole sequences at a time, for training and as a check.

Computes what the server computes, with the tensor names of the published checkpoints: recurrent layers
(`x060c2`, Finch-C2, or `x060`, Finch) below, GOLD attention layers above, which share one compressed key
per token. Matrix products may run in bfloat16 under autocast; norms, decays, the recurrence and the
residual stream stay float32, as in the server.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wkv import wkv_chunked

MIX_RANK = 32  # inner width of the data-dependent mixes
DECAY_RANK = 64  # inner width of decay and value2
LN_EPS = 1e-5


@dataclasses.dataclass
class Config:
    """The fields of config.json."""

    tmix: str = "x060c2"
    tmix2: str = "gold"
    cmix: str = "x060"
    cmix2: str = "x060"
    n_layer: int = 6
    n_embd: int = 256
    vocab_size: int = 4096
    dim_att: int = 256
    dim_ffn: int = 0
    head_size: int = 64
    head_size_divisor: int = 8
    inv_other_layer_ratio: int = 3
    kv_cache_compression_ratio: int = 16
    ctx_len: int = 512
    use_one_minus_w: int = 1
    use_v2: int = 1
    rope: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.dim_ffn == 0:
            self.dim_ffn = int(3.5 * self.n_embd) // 32 * 32

    @staticmethod
    def load(path: Path) -> Config:
        """As the server reads it: other names are ignored, and what rope does not say is 1."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Config)}
        config = Config(**{name: value for name, value in fields.items() if name in known})
        if config.rope:
            config.rope = {"rescale": 1.0, "rebase": 1.0} | config.rope
        return config

    @property
    def num_recurrent(self) -> int:
        if self.tmix2 != "gold":
            return self.n_layer
        ratio = self.inv_other_layer_ratio
        return int(self.n_layer * (ratio - 1) / ratio)

    @property
    def gold_rank(self) -> int:
        return max(self.n_embd // 16, 64)


def previous(x: Tensor) -> Tensor:
    """The same quantity one token earlier; zero before the first."""
    return F.pad(x, (0, 0, 1, -1))


def rms(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5 + 1e-8)


def vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, 1, width))


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=LN_EPS)


class FinchTimeMix(nn.Module):
    """The recurrent time mix: Finch-C2 (`x060c2`) or Finch (`x060`)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.is_c2 = cfg.tmix == "x060c2"
        self.order = ("r", "k", "v", "w", "v2") if self.is_c2 else ("w", "k", "v", "r", "g")
        width, att = cfg.n_embd, cfg.dim_att
        self.time_maa_x = vector(width)
        for name in self.order:
            setattr(self, f"time_maa_{name}", vector(width))
        self.time_maa_w1 = matrix(width, 5 * MIX_RANK)
        self.time_maa_w2 = matrix(5, MIX_RANK, width)
        self.time_decay = vector(att)
        self.time_decay_w1 = matrix(width, DECAY_RANK)
        self.time_decay_w2 = matrix(DECAY_RANK, att)
        if self.is_c2:
            self.time_value2_w1 = matrix(width, DECAY_RANK)
            self.time_value2_w2 = matrix(DECAY_RANK, att)
        self.time_faaaa = matrix(att // cfg.head_size, cfg.head_size)
        self.receptance = linear(width, att)
        self.key = linear(width, att)
        self.value = linear(width, att)
        if not self.is_c2:
            self.gate = linear(width, att)
        self.output = linear(att, width)
        self.ln_x = layer_norm(att)

    def mixed_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """One data-dependent lerp between x and its predecessor for each name of `order`."""
        delta = previous(x) - x
        z = torch.tanh((x + delta * self.time_maa_x) @ self.time_maa_w1)
        z = z.unflatten(-1, (5, MIX_RANK))
        return {
            name: x + delta * (getattr(self, f"time_maa_{name}") + z[..., i, :] @ self.time_maa_w2[i])
            for i, name in enumerate(self.order)
        }

    def forward(self, x: Tensor) -> Tensor:
        cfg = self.cfg
        mixed = self.mixed_inputs(x)

        def heads(y: Tensor) -> Tensor:
            return y.float().unflatten(-1, (-1, cfg.head_size))

        log_w = -torch.exp(self.time_decay + (torch.tanh(mixed["w"] @ self.time_decay_w1) @ self.time_decay_w2).float())
        r = heads(self.receptance(mixed["r"]))
        k = heads(self.key(mixed["k"]))
        v = heads(self.value(mixed["v"]))
        log_w = heads(log_w)
        if self.is_c2 and cfg.use_one_minus_w:
            k = k * -torch.expm1(log_w)
        with torch.autocast(x.device.type, enabled=False):
            y = wkv_chunked(r, k, v, log_w)
        if not (self.is_c2 and cfg.use_v2):
            y = y + (r * self.time_faaaa * k).sum(-1, keepdim=True) * v
        if not self.is_c2:
            return self.output(self.head_norm(y) * F.silu(self.gate(mixed["g"])))
        y = y.flatten(2)
        if cfg.use_v2:
            x_v2 = mixed["v2"]
            y = y + self.value(x_v2) + torch.tanh(x_v2 @ self.time_value2_w1) @ self.time_value2_w2
        return self.output(self.ln_x(y.float()))

    def head_norm(self, y: Tensor) -> Tensor:
        """A norm per head with one scale over all of A, as Finch has it."""
        y = F.layer_norm(y, y.shape[-1:], eps=LN_EPS * self.cfg.head_size_divisor**2).flatten(2)
        return y * self.ln_x.weight + self.ln_x.bias


class GoldTimeMix(nn.Module):
    """Attention whose keys and values are rebuilt from token ids and the shared compressed key."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        width = cfg.n_embd
        for name in ("x", "q", "v_cache", "k", "v"):
            setattr(self, f"time_maa_{name}", vector(width))
        self.time_maa_q_w1 = matrix(width, MIX_RANK)
        self.time_maa_q_w2 = matrix(MIX_RANK, width)
        self.time_maa_kv_w1 = matrix(width, 2 * MIX_RANK)
        self.time_maa_kv_w2 = matrix(2, MIX_RANK, width)
        for name in ("key", "value"):
            setattr(self, f"time_{name}_w1", matrix(width, cfg.gold_rank))
            setattr(self, f"time_{name}_w2", matrix(cfg.gold_rank, width))
        self.query = linear(width, width)
        self.output = linear(width, width)
        self.ln_q, self.ln_k, self.ln_v, self.ln_x = (layer_norm(width) for _ in range(4))

    def forward(self, x: Tensor, token: Tensor, shared_key: Tensor) -> Tensor:
        """`token` is n_t, the normalised embedding; `shared_key` is κ_t, the decompressed key."""
        delta = previous(x) - x
        z = torch.tanh((x + delta * self.time_maa_x) @ self.time_maa_q_w1) @ self.time_maa_q_w2
        q = self.ln_q(self.query(x + delta * (self.time_maa_q + z)).float())

        token_delta = previous(token) - token
        z = torch.tanh((token + token_delta * self.time_maa_v_cache) @ self.time_maa_kv_w1)
        z_k, z_v = z.chunk(2, dim=-1)
        key_delta = previous(shared_key) - shared_key
        k = shared_key + key_delta * (self.time_maa_k + z_k @ self.time_maa_kv_w2[0])
        k = self.ln_k(k + torch.tanh(k @ self.time_key_w1) @ self.time_key_w2)
        v = token + token_delta * (self.time_maa_v + z_v @ self.time_maa_kv_w2[1])
        v = self.ln_v(v + torch.tanh(v @ self.time_value_w1) @ self.time_value_w2)

        q, k, v = (y.unflatten(-1, (-1, self.cfg.head_size)).transpose(1, 2) for y in (q, k, v))
        if self.cfg.rope:
            q, k = rotate(q, self.cfg), rotate(k, self.cfg)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(self.ln_x(y.transpose(1, 2).flatten(2).float()))


def rotate(x: Tensor, cfg: Config) -> Tensor:
    """RoPE on adjacent pairs of [B, H, T, N]; angles in float64, for their error grows with the position."""
    pairs = torch.arange(0, cfg.head_size, 2, dtype=torch.float64) / cfg.head_size
    speed = (cfg.rope["base"] * cfg.rope["rebase"]) ** -pairs / cfg.rope["rescale"]
    angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class ChannelMix(nn.Module):
    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.time_maa_k = vector(cfg.n_embd)
        self.time_maa_r = vector(cfg.n_embd)
        self.key = linear(cfg.n_embd, cfg.dim_ffn)
        self.receptance = linear(cfg.n_embd, cfg.n_embd)
        self.value = linear(cfg.dim_ffn, cfg.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        delta = previous(x) - x
        k = F.relu(self.key(x + delta * self.time_maa_k)) ** 2
        return torch.sigmoid(self.receptance(x + delta * self.time_maa_r)) * self.value(k)


class Block(nn.Module):
    def __init__(self, cfg: Config, index: int) -> None:
        super().__init__()
        self.ln1 = layer_norm(cfg.n_embd)
        self.ln2 = layer_norm(cfg.n_embd)
        if index == 0:
            self.ln0 = layer_norm(cfg.n_embd)
        self.att = FinchTimeMix(cfg) if index < cfg.num_recurrent else GoldTimeMix(cfg)
        self.ffn = ChannelMix(cfg)

    def forward(self, x: Tensor, *shared: Tensor) -> Tensor:
        x = x + self.att(self.ln1(x), *shared)
        return x + self.ffn(self.ln2(x))


class GoldFinch(nn.Module):
    """Token ids [B, T] in, logits [B, T, V] out."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.emb = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.blocks = nn.ModuleList(Block(cfg, i) for i in range(cfg.n_layer))
        self.ln_out = layer_norm(cfg.n_embd)
        self.head = linear(cfg.n_embd, cfg.vocab_size)
        if cfg.tmix2 == "gold":
            compressed = cfg.n_embd // cfg.kv_cache_compression_ratio
            self.w_kv_cache_a = linear(cfg.n_embd, compressed)
            self.w_kv_cache_b = linear(cfg.n_embd + compressed, cfg.n_embd)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.blocks[0].ln0(self.emb(tokens))
        x = embedded
        recurrent = self.cfg.num_recurrent
        for block in self.blocks[:recurrent]:
            x = block(x)
        if self.cfg.tmix2 == "gold":
            cache = self.w_kv_cache_a(x).float()
            shared_key = rms(self.w_kv_cache_b(torch.cat((embedded, cache), dim=-1)).float())
            token = rms(embedded)
            for block in self.blocks[recurrent:]:
                x = block(x, token, shared_key)
        return self.head(self.ln_out(x))
