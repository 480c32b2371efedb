"""GoldFinch in plain PyTorch, op by op, with the paper's cache: the model of torch_reference.py.

Written from the formulas, to be compared with: no compilation, no fused kernels, no expanded cache. A state keeps
per token its id and one compressed key. Every forward pass rebuilds the keys and values of all past tokens from
them, in every GOLD layer, as the paper's own code does. GOLD layers run on the last positions of a prompt only,
which changes nothing: logits need 2G positions of them, where G is the number of GOLD layers.

Matrices, inputs and results of products, and all that is rebuilt per token of the past have the model's dtype; the
residual stream, norms, mixes, decays and the recurrent state are float32. B, T, D, H and N are sequences, tokens,
width, heads and head size.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

WKV_BLOCK = 16  # tokens whose mutual decays are computed at once
MIX_ORDER = {"x060c2": ("r", "k", "v", "w", "v2"), "x060": ("w", "k", "v", "r", "g")}


@dataclasses.dataclass
class Config:
    """config.json; the defaults are the paper's, and head_size and the channel mixes have no other value."""

    n_layer: int
    n_embd: int
    tmix: str = "x060c2"
    tmix2: str = "gold"
    cmix: str = "x060"
    cmix2: str = "x060"
    vocab_size: int = 65536
    dim_att: int = 0
    dim_ffn: int = 0
    head_size: int = 64
    head_size_divisor: int = 8
    inv_other_layer_ratio: int = 3
    kv_cache_compression_ratio: int = 16
    ctx_len: int = 4096
    use_one_minus_w: int = 1
    use_v2: int = 1
    rope: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self.dim_att = self.dim_att or self.n_embd
        self.dim_ffn = self.dim_ffn or int(3.5 * self.n_embd) // 32 * 32

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
        ratio = self.inv_other_layer_ratio
        return int(self.n_layer * (ratio - 1) / ratio) if self.tmix2 == "gold" else self.n_layer

    @property
    def num_gold(self) -> int:
        return self.n_layer - self.num_recurrent

    @property
    def num_heads(self) -> int:
        return self.dim_att // self.head_size

    @property
    def compressed(self) -> int:
        return self.n_embd // self.kv_cache_compression_ratio


@dataclasses.dataclass
class State:
    """What is known of B sequences of one length. The lists have an entry a layer."""

    wkv: list[Tensor]  # [B, H, key, value] float32; recurrent layers only
    time_shift: list[Tensor]  # [B, D]: what the time mix saw last
    channel_shift: list[Tensor]  # [B, D]
    tokens: Tensor  # [B, room] ids
    keys: Tensor  # [B, room, D/R]: the compressed keys
    length: int = 0


def rms(x: Tensor) -> Tensor:
    x = x.float()
    return x / (x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5 + 1e-8)


def shifted(x: Tensor, last: Tensor) -> Tensor:
    """Each token's predecessor, which is `last` for the first one."""
    return torch.cat((last[:, None], x[:, :-1]), dim=1)


def wkv(r: Tensor, k: Tensor, v: Tensor, log_w: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = r_t S_{t-1}; S_t = diag(w_t) S_{t-1} + k_t v_tᵀ. Inputs and y [B, H, T, N], state [B, H, key, value].

    In blocks of tokens: within one, a token reads an earlier one through the decays between the two. No exponent
    is positive.
    """
    tokens = r.shape[2]
    if tokens == 1:
        y = r @ state
        return y, log_w.exp().transpose(2, 3) * state + k.transpose(2, 3) @ v
    pad = -tokens % WKV_BLOCK
    r, k, v, log_w = (F.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, WKV_BLOCK)) for x in (r, k, v, log_w))
    through = log_w.cumsum(dim=3)
    before = through - log_w
    earlier = torch.ones(WKV_BLOCK, WKV_BLOCK, device=r.device, dtype=torch.bool).tril(-1)
    between = before[..., :, None, :] - through[..., None, :, :]  # [B, H, blocks, reader, read, N]
    decay = between.masked_fill(~earlier[..., None], -torch.inf).exp_()
    inside = torch.einsum("bhctn,bhctsn,bhcsn->bhcts", r, decay, k) @ v
    reads, total = r * before.exp(), through[..., -1:, :]
    added = (k * (total - through).exp()).transpose(3, 4) @ v
    kept = total.exp().transpose(3, 4)
    blocks = []
    for block in range(r.shape[2]):
        blocks.append(inside[:, :, block] + reads[:, :, block] @ state)
        state = kept[:, :, block] * state + added[:, :, block]
    return torch.cat(blocks, dim=2)[:, :, :tokens], state


def rotate(x: Tensor, cfg: Config, first: int) -> Tensor:
    """RoPE of [B, T, A] at positions from `first` on: adjacent pairs of a head, angles in float64."""
    exponents = -torch.arange(0, cfg.head_size, 2, device=x.device, dtype=torch.float64) / cfg.head_size
    speed = (cfg.rope["base"] * cfg.rope["rebase"]) ** exponents / cfg.rope["rescale"]
    positions = torch.arange(first, first + x.shape[1], device=x.device, dtype=torch.float64)
    angle = positions[:, None, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.unflatten(-1, (cfg.num_heads, -1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(2)


class GoldFinch:
    """The forward pass over named tensors; they are the published checkpoints'."""

    def __init__(self, cfg: Config, tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> None:
        self.cfg, self.dtype, self.device = cfg, dtype, device
        self.tensors = {name: self._placed(name, tensor) for name, tensor in tensors.items()}

    @staticmethod
    def load(folder: Path, dtype: torch.dtype, device: torch.device) -> GoldFinch:
        from safetensors.torch import load_file

        cfg = Config.load(folder / "config.json")
        return GoldFinch(cfg, load_file(folder / "model.safetensors"), dtype, device)

    @staticmethod
    def random(cfg: Config, dtype: torch.dtype, device: torch.device) -> GoldFinch:
        """Weights of ordinary size. Their values do not matter for speed, but infinities would."""
        torch.manual_seed(1)
        tensors = {}
        for name, shape in tensor_shapes(cfg):
            if len(shape) == 1:
                tensors[name] = torch.full(shape, float(name.endswith("weight")), device=device)
            else:
                inputs = shape[1] if name.endswith(".weight") else shape[-2]
                tensors[name] = torch.randn(shape, device=device, dtype=dtype) * max(inputs, 4) ** -0.5
        return GoldFinch(cfg, tensors, dtype, device)

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.shape[:2] == (1, 1):
            tensor = tensor.flatten()
        wide = tensor.dim() == 1 or name.endswith("time_faaaa")
        return tensor.to(self.device, torch.float32 if wide else self.dtype)

    def state(self, batch: int, room: int) -> State:
        cfg = self.cfg

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(batch, *shape, device=self.device, dtype=dtype)

        heads = (cfg.num_heads, cfg.head_size, cfg.head_size)
        return State(
            wkv=[zeros(*heads) for _ in range(cfg.num_recurrent)],
            time_shift=[zeros(cfg.n_embd) for _ in range(cfg.n_layer)],
            channel_shift=[zeros(cfg.n_embd) for _ in range(cfg.n_layer)],
            tokens=zeros(room, dtype=torch.int64),
            keys=zeros(room, cfg.compressed, dtype=self.dtype),
        )

    def prefill(self, tokens: Tensor, state: State, outputs: int = 1, segment: int = 2048) -> Tensor:
        """Logits [B, outputs, V] of the last of `tokens` [B, T], fed in segments. The short one comes first: the
        last one holds every position on which GOLD layers run."""
        assert segment >= outputs + 2 * self.cfg.num_gold
        count = tokens.shape[1]
        begin, end = 0, count % segment or min(segment, count)
        while end < count:
            self.forward(tokens[:, begin:end], state, outputs=0)
            begin, end = end, end + segment
        return self.forward(tokens[:, begin:end], state, outputs)

    def forward(self, tokens: Tensor, state: State, outputs: int = 1) -> Tensor:
        """Logits of the last `outputs` of `tokens`. After outputs = 0 the next call must want GOLD on fewer
        positions than it feeds, for GOLD layers' shifts are then not those of the last token."""
        cfg, count = self.cfg, tokens.shape[1]
        x = embedded = self.embed(tokens)
        for layer in range(cfg.num_recurrent):
            x = x + self.recurrent_mix(layer, self._norm(f"blocks.{layer}.ln1", x), state)
            x = x + self.channel_mix(layer, self._norm(f"blocks.{layer}.ln2", x), state)
        if cfg.num_gold:
            past = slice(state.length, state.length + count)
            state.tokens[:, past] = tokens
            state.keys[:, past] = self._linear("w_kv_cache_a", x)
        state.length += count
        if outputs == 0:
            return embedded.new_empty(len(tokens), 0, cfg.vocab_size)
        if cfg.num_gold:
            x = self.gold_layers(x, state, min(count, outputs + 2 * cfg.num_gold - 1))
        return self._linear("head", self._norm("ln_out", x[:, -outputs:]))

    def embed(self, tokens: Tensor) -> Tensor:
        return self._norm("blocks.0.ln0", F.embedding(tokens, self.tensors["emb.weight"]))

    def gold_layers(self, x: Tensor, state: State, rows: int) -> Tensor:
        """The GOLD layers on the last `rows` tokens, over everything in the cache."""
        first = self.cfg.num_recurrent
        if rows < x.shape[1]:
            state.time_shift[first] = self._norm(f"blocks.{first}.ln1", x[:, -rows - 1])
        x = x[:, -rows:]
        embedded = self.embed(state.tokens[:, : state.length]).to(self.dtype)
        both = torch.cat((embedded, state.keys[:, : state.length]), dim=-1)
        key = rms(self._linear("w_kv_cache_b", both)).to(self.dtype)
        token = rms(embedded).to(self.dtype)
        for layer in range(first, self.cfg.n_layer):
            x = x + self.gold_mix(layer, self._norm(f"blocks.{layer}.ln1", x), token, key, state)
            x = x + self.channel_mix(layer, self._norm(f"blocks.{layer}.ln2", x), state)
        return x

    def recurrent_mix(self, layer: int, x: Tensor, state: State) -> Tensor:
        """The time mix of Finch-C2 (x060c2) or of Finch (x060)."""
        cfg, at = self.cfg, f"blocks.{layer}.att."
        is_c2 = cfg.tmix == "x060c2"
        delta = shifted(x, state.time_shift[layer]) - x
        state.time_shift[layer] = x[:, -1]
        mixed = self._mixes(at, x, delta)
        r = self._heads(self._linear(at + "receptance", mixed["r"]))
        k = self._heads(self._linear(at + "key", mixed["k"]))
        v = self._heads(self._linear(at + "value", mixed["v"]))
        log_w = -torch.exp(self.tensors[at + "time_decay"] + self._low_rank(at + "time_decay", mixed["w"]))
        log_w = self._heads(log_w)
        if is_c2 and cfg.use_one_minus_w:
            k = k * -torch.expm1(log_w)
        y, state.wkv[layer] = wkv(r, k, v, log_w, state.wkv[layer])
        if not (is_c2 and cfg.use_v2):
            bonus = self.tensors[at + "time_faaaa"].reshape(cfg.num_heads, 1, cfg.head_size)
            y = y + (r * bonus * k).sum(-1, keepdim=True) * v
        if not is_c2:
            y = F.layer_norm(y, y.shape[-1:], eps=1e-5 * cfg.head_size_divisor**2).transpose(1, 2).flatten(2)
            y = y * self.tensors[at + "ln_x.weight"] + self.tensors[at + "ln_x.bias"]
            return self._linear(at + "output", y * F.silu(self._linear(at + "gate", mixed["g"])))
        y = y.transpose(1, 2).flatten(2)
        if cfg.use_v2:
            y = y + self._linear(at + "value", mixed["v2"])
            y = y + self._low_rank(at + "time_value2", mixed["v2"])
        return self._linear(at + "output", self._norm(at + "ln_x", y))

    def gold_mix(self, layer: int, x: Tensor, token: Tensor, key: Tensor, state: State) -> Tensor:
        """Attention of `x` over all tokens of the cache. `token` is their normed embeddings, `key` their
        decompressed keys; both are the same in every GOLD layer."""
        at = f"blocks.{layer}.att."
        delta = shifted(x, state.time_shift[layer]) - x
        state.time_shift[layer] = x[:, -1]
        mix = self._low_rank(at + "time_maa_q", x + delta * self.tensors[at + "time_maa_x"])
        q = self._norm(at + "ln_q", self._linear(at + "query", x + delta * (self.tensors[at + "time_maa_q"] + mix)))
        k, v = self.keys_values(at, token, key)
        length, rows = key.shape[1], x.shape[1]
        if self.cfg.rope:
            q, k = rotate(q, self.cfg, length - rows), rotate(k, self.cfg, 0)
        q, k, v = (self._heads(y.to(self.dtype), self.dtype) for y in (q, k, v))
        mask = None
        if rows > 1:  # a token sees those before it and itself
            mask = torch.ones(rows, length, device=x.device, dtype=torch.bool).tril(length - rows)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self._linear(at + "output", self._norm(at + "ln_x", y.transpose(1, 2).flatten(2)))

    def keys_values(self, at: str, token: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """A GOLD layer's keys and values of all tokens of the cache: what an expanded cache would hold."""
        mix_both, mix_k, mix_v = (self.tensors[f"{at}time_maa_{x}"].to(self.dtype) for x in ("v_cache", "k", "v"))
        w1, w2 = self.tensors[at + "time_maa_kv_w1"], self.tensors[at + "time_maa_kv_w2"]
        nothing = token.new_zeros(token.shape[0], token.shape[2])
        delta = shifted(token, nothing) - token
        z_k, z_v = torch.tanh((token + delta * mix_both) @ w1).chunk(2, dim=-1)
        v = token + delta * (mix_v + z_v @ w2[1])
        v = self._norm(at + "ln_v", v + self._low_rank(at + "time_value", v)).to(self.dtype)
        delta = shifted(key, nothing) - key
        k = key + delta * (mix_k + z_k @ w2[0])
        k = self._norm(at + "ln_k", k + self._low_rank(at + "time_key", k))
        return k, v

    def channel_mix(self, layer: int, x: Tensor, state: State) -> Tensor:
        at = f"blocks.{layer}.ffn."
        delta = shifted(x, state.channel_shift[layer]) - x
        state.channel_shift[layer] = x[:, -1]
        k = F.relu(self._linear(at + "key", x + delta * self.tensors[at + "time_maa_k"])).square()
        gate = self._linear(at + "receptance", x + delta * self.tensors[at + "time_maa_r"])
        return torch.sigmoid(gate) * self._linear(at + "value", k)

    def _mixes(self, at: str, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
        """One data-dependent lerp between a token and its predecessor for each input of the time mix."""
        names = MIX_ORDER[self.cfg.tmix]
        z = torch.tanh(self._product(x + delta * self.tensors[at + "time_maa_x"], self.tensors[at + "time_maa_w1"]))
        parts = z.chunk(len(names), dim=-1)
        w2 = self.tensors[at + "time_maa_w2"]
        return {
            name: x + delta * (self.tensors[f"{at}time_maa_{name}"] + self._product(part, w2[i]))
            for i, (name, part) in enumerate(zip(names, parts, strict=True))
        }

    def _low_rank(self, name: str, x: Tensor) -> Tensor:
        return self._product(torch.tanh(self._product(x, self.tensors[name + "_w1"])), self.tensors[name + "_w2"])

    def _product(self, x: Tensor, weights: Tensor) -> Tensor:
        """In the dtype of the weights, given back in that of `x`."""
        return (x.to(self.dtype) @ weights).to(x.dtype)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self._product(x, self.tensors[name + ".weight"].T)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.tensors[name + ".weight"]
        return F.layer_norm(x.float(), weight.shape, weight, self.tensors[name + ".bias"], 1e-5)

    def _heads(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[B, T, A] to [B, H, T, N]."""
        return x.to(dtype).unflatten(-1, (-1, self.cfg.head_size)).transpose(1, 2)


def tensor_shapes(cfg: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of a model, with the inner widths of the published checkpoints."""
    width, att, ffn = cfg.n_embd, cfg.dim_att, cfg.dim_ffn
    yield "emb.weight", (cfg.vocab_size, width)
    yield "head.weight", (cfg.vocab_size, width)
    yield from _norm_shapes("blocks.0.ln0", width)
    yield from _norm_shapes("ln_out", width)
    if cfg.num_gold:
        yield "w_kv_cache_a.weight", (cfg.compressed, width)
        yield "w_kv_cache_b.weight", (width, width + cfg.compressed)
    for layer in range(cfg.n_layer):
        at = f"blocks.{layer}."
        yield from _norm_shapes(at + "ln1", width)
        yield from _norm_shapes(at + "ln2", width)
        time_mix = _recurrent_shapes(cfg) if layer < cfg.num_recurrent else _gold_shapes(cfg)
        yield from ((f"{at}att.{name}", shape) for name, shape in time_mix)
        yield from ((f"{at}ffn.time_maa_{name}", (1, 1, width)) for name in "kr")
        yield f"{at}ffn.key.weight", (ffn, width)
        yield f"{at}ffn.receptance.weight", (width, width)
        yield f"{at}ffn.value.weight", (width, ffn)


def _norm_shapes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (width,)
    yield name + ".bias", (width,)


def _recurrent_shapes(cfg: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, att = cfg.n_embd, cfg.dim_att
    yield from ((f"time_maa_{name}", (1, 1, width)) for name in ("x", *MIX_ORDER[cfg.tmix]))
    yield "time_maa_w1", (width, 5 * 32)
    yield "time_maa_w2", (5, 32, width)
    yield "time_decay", (1, 1, att)
    for name in ("time_decay", "time_value2") if cfg.tmix == "x060c2" else ("time_decay",):
        yield name + "_w1", (width, 64)
        yield name + "_w2", (64, att)
    yield "time_faaaa", (cfg.num_heads, cfg.head_size)
    for name in ("receptance", "key", "value") + (() if cfg.tmix == "x060c2" else ("gate",)):
        yield name + ".weight", (att, width)
    yield "output.weight", (width, att)
    yield from _norm_shapes("ln_x", att)


def _gold_shapes(cfg: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, rank = cfg.n_embd, max(cfg.n_embd // 16, 64)
    yield from ((f"time_maa_{name}", (1, 1, width)) for name in ("x", "q", "v_cache", "k", "v"))
    yield "time_maa_q_w1", (width, 32)
    yield "time_maa_q_w2", (32, width)
    yield "time_maa_kv_w1", (width, 2 * 32)
    yield "time_maa_kv_w2", (2, 32, width)
    for name in ("key", "value"):
        yield f"time_{name}_w1", (width, rank)
        yield f"time_{name}_w2", (rank, width)
    yield "query.weight", (width, width)
    yield "output.weight", (width, width)
    for name in ("ln_q", "ln_k", "ln_v", "ln_x"):
        yield from _norm_shapes(name, width)
