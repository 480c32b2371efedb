"""What the shapes of a checkpoint tell about its model, and which tensors such a model has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pth_reader import CheckpointError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

HEAD_SIZE = 64
# What the server takes; widths are multiples of the size of a head, too.
BOUNDS = {
    "n_layer": (1, 1024),
    "vocab_size": (1, 1 << 20),
    "n_embd": (HEAD_SIZE, 65536),
    "dim_att": (HEAD_SIZE, 65536),
    "dim_ffn": (1, 1 << 20),
    "head_size": (HEAD_SIZE, HEAD_SIZE),
}


def infer_config(shapes: Shapes) -> dict[str, object]:
    """The fields of config.json that the shapes decide, in the order of the file."""
    vocab_size, n_embd = _matrix(shapes, "emb.weight")
    n_layer = _count_layers(shapes)
    gold = [i for i in range(n_layer) if f"blocks.{i}.att.query.weight" in shapes]
    num_recurrent = n_layer - len(gold)
    if num_recurrent == 0:
        raise CheckpointError("it has no recurrent layer")
    if gold != list(range(num_recurrent, n_layer)):
        raise CheckpointError(f"its GOLD layers are {gold}; expected them to be the last of {n_layer}")
    config: dict[str, object] = {
        "tmix": _recurrent_kind(shapes),
        "tmix2": "gold" if gold else "",
        "cmix": "x060",
        "cmix2": "x060",
        "n_layer": n_layer,
        "n_embd": n_embd,
        "vocab_size": vocab_size,
        "dim_att": _matrix(shapes, "blocks.0.att.receptance.weight")[0],
        "dim_ffn": _matrix(shapes, "blocks.0.ffn.key.weight")[0],
        "head_size": _matrix(shapes, "blocks.0.att.time_faaaa")[1],
    }
    _check_bounds(config)
    if gold:
        config["inv_other_layer_ratio"] = _ratio(n_layer, num_recurrent)
        compressed = _matrix(shapes, "w_kv_cache_a.weight")[0]
        if n_embd % compressed:
            raise CheckpointError(f"its compressed key has {compressed} channels, which do not divide {n_embd}")
        config["kv_cache_compression_ratio"] = n_embd // compressed
    else:
        # Both fields are without effect here; the values are those of the paper.
        config["inv_other_layer_ratio"] = 3
        config["kv_cache_compression_ratio"] = 16
    return config


def _check_bounds(config: Mapping[str, object]) -> None:
    for name, (least, most) in BOUNDS.items():
        if not least <= config[name] <= most:
            raise CheckpointError(f"its {name} is {config[name]}; it must be from {least} to {most}")
    for name in ("n_embd", "dim_att"):
        if config[name] % HEAD_SIZE:
            raise CheckpointError(f"its {name} is {config[name]}; it must be a multiple of {HEAD_SIZE}")
    width, att = config["n_embd"], config["dim_att"]
    if config["tmix2"] == "gold" and att != width:
        raise CheckpointError(f"its dim_att is {att}; with GOLD layers it must equal n_embd {width}")


def check_tensors(shapes: Shapes, config: Mapping[str, object]) -> list[str]:
    """Raises when a tensor of the model is missing or has another shape; returns the names it does not know."""
    expected = _expected_shapes(shapes, config)
    for name, shape in expected.items():
        if name not in shapes:
            raise CheckpointError(f"{name} is missing")
        if shapes[name] != shape:
            raise CheckpointError(f"{name} has shape {list(shapes[name])}; expected {list(shape)}")
    return [name for name in shapes if name not in expected]


def _matrix(shapes: Shapes, name: str) -> Shape:
    if name not in shapes:
        raise CheckpointError(f"{name} is missing: not a GoldFinch or Finch checkpoint")
    if len(shapes[name]) != 2:
        raise CheckpointError(f"{name} has shape {list(shapes[name])}; expected two dimensions")
    return shapes[name]


def _count_layers(shapes: Shapes) -> int:
    layers = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d{1,4})\.", name))}
    if layers != set(range(len(layers))) or not layers:
        raise CheckpointError(f"its layers are {sorted(layers)}; expected 0, 1, 2, ... without a gap")
    return len(layers)


def _recurrent_kind(shapes: Shapes) -> str:
    if "blocks.0.att.time_maa_v2" in shapes:
        return "x060c2"
    if "blocks.0.att.gate.weight" in shapes:
        return "x060"
    raise CheckpointError("its layer 0 has neither att.time_maa_v2 (Finch-C2) nor att.gate (Finch)")


def _ratio(n_layer: int, num_recurrent: int) -> int:
    """An inv_other_layer_ratio that puts the border where it is: the paper's 3 if it does, else the smallest."""
    for ratio in (3, *range(2, n_layer + 1)):
        if int(n_layer * (ratio - 1) / ratio) == num_recurrent:
            return ratio
    raise CheckpointError(f"no inv_other_layer_ratio gives {num_recurrent} recurrent layers of {n_layer}")


def _expected_shapes(shapes: Shapes, config: Mapping[str, object]) -> dict[str, Shape]:
    width, layers = config["n_embd"], config["n_layer"]
    expected: dict[str, Shape] = {"emb.weight": (config["vocab_size"], width)}
    expected |= _norm("blocks.0.ln0", width) | _norm("ln_out", width)
    expected["head.weight"] = (config["vocab_size"], width)
    for i in range(layers):
        block = f"blocks.{i}."
        expected |= _norm(f"{block}ln1", width) | _norm(f"{block}ln2", width)
        is_gold = f"{block}att.query.weight" in shapes
        attention = _gold(shapes, block, config) if is_gold else _recurrent(shapes, block, config)
        expected |= {f"{block}att.{name}": shape for name, shape in attention.items()}
        expected |= {f"{block}ffn.{name}": shape for name, shape in _channel_mix(config).items()}
    if config["tmix2"] == "gold":
        compressed = width // config["kv_cache_compression_ratio"]
        expected["w_kv_cache_a.weight"] = (compressed, width)
        expected["w_kv_cache_b.weight"] = (width, width + compressed)
    return expected


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _low_rank(shapes: Shapes, prefix: str, inputs: int, outputs: int) -> dict[str, Shape]:
    """A pair of factors; its inner width is the file's own choice."""
    rank = _matrix(shapes, f"{prefix}_w1")[1]
    name = prefix.rpartition(".")[2]
    return {f"{name}_w1": (inputs, rank), f"{name}_w2": (rank, outputs)}


def _mix(shapes: Shapes, prefix: str, width: int, parts: int) -> dict[str, Shape]:
    """Like _low_rank, for several mixes that share their first factor."""
    rank = _matrix(shapes, f"{prefix}_w1")[1] // parts
    name = prefix.rpartition(".")[2]
    return {f"{name}_w1": (width, parts * rank), f"{name}_w2": (parts, rank, width)}


def _recurrent(shapes: Shapes, block: str, config: Mapping[str, object]) -> dict[str, Shape]:
    width, att, head = config["n_embd"], config["dim_att"], config["head_size"]
    is_c2 = config["tmix"] == "x060c2"
    prefix = f"{block}att."
    mixes = ("x", "r", "k", "v", "w", "v2") if is_c2 else ("x", "w", "k", "v", "r", "g")
    expected = {f"time_maa_{name}": (1, 1, width) for name in mixes}
    expected |= _mix(shapes, f"{prefix}time_maa", width, 5)
    expected["time_decay"] = (1, 1, att)
    expected |= _low_rank(shapes, f"{prefix}time_decay", width, att)
    if is_c2:
        expected |= _low_rank(shapes, f"{prefix}time_value2", width, att)
    expected["time_faaaa"] = (att // head, head)
    inputs = ("receptance", "key", "value") if is_c2 else ("receptance", "key", "value", "gate")
    expected |= {f"{name}.weight": (att, width) for name in inputs}
    expected["output.weight"] = (width, att)
    return expected | _norm("ln_x", att)


def _gold(shapes: Shapes, block: str, config: Mapping[str, object]) -> dict[str, Shape]:
    width = config["n_embd"]
    prefix = f"{block}att."
    expected = {f"time_maa_{name}": (1, 1, width) for name in ("x", "q", "v_cache", "k", "v")}
    expected |= _low_rank(shapes, f"{prefix}time_maa_q", width, width)
    expected |= _mix(shapes, f"{prefix}time_maa_kv", width, 2)
    expected |= _low_rank(shapes, f"{prefix}time_key", width, width)
    expected |= _low_rank(shapes, f"{prefix}time_value", width, width)
    expected |= {"query.weight": (width, width), "output.weight": (width, width)}
    for name in ("ln_q", "ln_k", "ln_v", "ln_x"):
        expected |= _norm(name, width)
    return expected


def _channel_mix(config: Mapping[str, object]) -> dict[str, Shape]:
    width, inner = config["n_embd"], config["dim_ffn"]
    return {
        "time_maa_k": (1, 1, width),
        "time_maa_r": (1, 1, width),
        "key.weight": (inner, width),
        "receptance.weight": (width, width),
        "value.weight": (width, inner),
    }
