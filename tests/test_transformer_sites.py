"""The parts of transformers: names, each parameter entry in exactly one, fused weights, heads and MLP units."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.edits import Edit, FromCheckpoint, Mask, Variant, edit_site, joined
from netopsy.engine.evaluate import evaluate
from netopsy.engine.execution import Engine
from netopsy.models.fcn import fcn
from netopsy.models.transformer import transformer
from netopsy.models.vit import vit
from netopsy.network.addresses import named_state
from netopsy.network.sites import Site, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.transformer_sites import transformer_blocks
from netopsy.network.units import UnitLayer, attention_heads, find_units, mlp_units
from tests import zoo

ENGINES: tuple[Engine, Engine] = ("exported", "eager")
N, LENGTH, WORDS, WIDTH = 6, 5, 20, 8
COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": WORDS,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
DISENTANGLED: dict[str, Any] = {
    "max_position_embeddings": 8,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
}


class Timm(nn.Module):
    """A vision transformer with the names and the fused weight of timm's."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 2
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(out.transpose(1, 2).flatten(2))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.act(self.fc1(x)))

    class LayerScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attn, self.ls1 = nn.LayerNorm(WIDTH), Timm.Attention(), Timm.LayerScale()
            self.norm2, self.mlp = nn.LayerNorm(WIDTH), Timm.Mlp()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.ls1(self.attn(self.norm1(x)))
            return x + self.mlp(self.norm2(x))

    class PatchEmbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2d(1, WIDTH, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(x).flatten(2).transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1, WIDTH)),
            nn.Parameter(torch.zeros(1, 5, WIDTH)),
        )
        self.patch_embed = Timm.PatchEmbed()
        self.blocks = nn.Sequential(Timm.Block(), Timm.Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Torch(nn.Module):
    """Around `nn.TransformerEncoder`, whose attention reads fused weights without calling a module."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)
        self.emb, self.positions = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, zoo.CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.encoder(self.emb(input_ids) + self.positions).mean(1))


class Pooled(nn.Module):
    """A classifier on an encoder without a head."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(WIDTH, zoo.CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.classifier(self.encoder(input_ids=input_ids).last_hidden_state.mean(1))


def t5(**options: Any) -> nn.Module:
    config = hf.T5Config(d_model=WIDTH, d_ff=12, d_kv=4, num_heads=2, num_layers=2, vocab_size=WORDS, **options)
    return Pooled(hf.T5EncoderModel(config))


def gpt2() -> nn.Module:
    options = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_inner": 12, "n_positions": 8}
    ends = {"bos_token_id": None, "eos_token_id": None}
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=WORDS, **options, **ends))


BUILD: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**COMMON, max_position_embeddings=8)),
    "bert-mlm": lambda: hf.BertForMaskedLM(hf.BertConfig(**COMMON, max_position_embeddings=8)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**COMMON, max_position_embeddings=12)),
    "gpt2": gpt2,
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**COMMON, num_key_value_heads=1)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**COMMON, num_key_value_heads=1)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**COMMON, max_position_embeddings=8)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**COMMON, num_key_value_heads=1, head_dim=4)),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**COMMON, num_key_value_heads=1, num_local_experts=2)
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8,
            patch_size=4, num_channels=1, num_labels=zoo.CLASSES,
        )
    ),
    "t5": t5,
    "t5-gated": lambda: t5(feed_forward_proj="gated-gelu"),
    "t5-both": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=WIDTH, d_ff=12, d_kv=4, num_heads=2, num_layers=1, vocab_size=WORDS)
    ),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(
            dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=12, vocab_size=WORDS, max_position_embeddings=8
        )
    ),
    "albert": lambda: hf.AlbertForSequenceClassification(
        hf.AlbertConfig(**COMMON, embedding_size=4, max_position_embeddings=8)
    ),
    "deberta": lambda: hf.DebertaForSequenceClassification(hf.DebertaConfig(**COMMON, **DISENTANGLED)),
    "deberta-v2": lambda: hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(**COMMON, **DISENTANGLED, share_att_key=False)
    ),
    "convbert": lambda: Pooled(
        hf.ConvBertModel(
            hf.ConvBertConfig(**COMMON | {"num_attention_heads": 4}, embedding_size=WIDTH, max_position_embeddings=8)
        )
    ),
    "funnel": lambda: Pooled(
        hf.FunnelModel(
            hf.FunnelConfig(
                vocab_size=WORDS, block_sizes=[1, 1], num_decoder_layers=1, d_model=WIDTH, n_head=2, d_head=4,
                d_inner=12,
            )
        )
    ),
    "swinv2": lambda: hf.Swinv2ForImageClassification(
        hf.Swinv2Config(
            image_size=8, patch_size=2, num_channels=1, embed_dim=WIDTH, depths=[2, 1], num_heads=[2, 4],
            window_size=2, num_labels=zoo.CLASSES,
        )
    ),
    "siglip": lambda: hf.SiglipModel(
        hf.SiglipConfig(
            text_config=COMMON | {"max_position_embeddings": 8, "projection_size": WIDTH},
            vision_config={k: v for k, v in COMMON.items() if k[:4] in ("hidd", "num_", "inte")}
            | {"image_size": 8, "patch_size": 4, "num_channels": 1},
        )
    ),
    "modernbert": lambda: Pooled(
        hf.ModernBertModel(
            hf.ModernBertConfig(**COMMON, max_position_embeddings=8, cls_token_id=None, sep_token_id=None)
        )
    ),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, ffn_dim=12,
            word_embed_proj_dim=4, max_position_embeddings=8, bos_token_id=None, eos_token_id=None,
        )
    ),
    "hubert": lambda: hf.HubertModel(
        hf.HubertConfig(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, vocab_size=WORDS,
            conv_dim=(4, 4), conv_stride=(2, 2), conv_kernel=(3, 3), num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ),
    "segformer": lambda: hf.SegformerModel(
        hf.SegformerConfig(
            num_channels=1, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[WIDTH, WIDTH],
            patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 2], mlp_ratios=[2, 2],
        )
    ),
    "torch": Torch,
    "timm": Timm,
    "ours": lambda: transformer(vocabulary=WORDS, length=LENGTH, depth=2, width=WIDTH, heads=2),
    "our-vit": lambda: vit(classes=zoo.CLASSES, channels=1, size=8, patch=4, depth=2, width=WIDTH, heads=2),
}  # fmt: skip
IMAGES = ("vit", "swinv2", "timm", "our-vit")
LANGUAGE = ("gpt2", "llama", "phi3", "neox", "opt", "ours")


@cache
def built(name: str) -> nn.Module:
    """A model with generic values, in eval mode."""
    with forked(0):
        model = BUILD[name]()
    model.load_state_dict(zoo.fresh_state(model, 1))
    return model.eval()


def data_of(name: str) -> tuple[Any, Task]:
    with forked(2):
        words, labels = torch.randint(1, WORDS, (N, LENGTH)), torch.randint(0, 2, (N,))
        images = torch.randn(N, 1, 8, 8)
    if name in LANGUAGE:
        data: Any = (words, words) if name == "ours" else {"input_ids": words, "labels": words}
        return data, Task(positions="next")
    if name in IMAGES:
        return ({"pixel_values": images, "labels": labels} if name in ("vit", "swinv2") else (images, labels)), Task()
    return {"input_ids": words, "labels": labels}, Task()


def inputs_of(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    data, task = data_of(name)
    return task.inputs(data)


def block(*parts: str, number: int = 0) -> list[str]:
    return [f"block {number} / {part}" for part in parts]


ATTENTION = [f"attention {part}" for part in ("query", "key", "value", "out")]
DENSE, GATED = ["MLP dense 0", "MLP dense 1"], ["MLP gate", "MLP up", "MLP down"]
BERT = [*ATTENTION, "norm 0", *DENSE, "norm 1"]
PRE = ["norm 0", *ATTENTION, "norm 1", *DENSE]
LLAMA = [*ATTENTION, *GATED, "norm 0", "norm 1"]
VIT = [*ATTENTION, "norm 0", "norm 1", *DENSE]
TEXT = [f"embedding / {part}" for part in ("tokens", "positions", "types", "norm")]
ATTENTION_POSITIONS = "attention positions"
NAMES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "bert": (TEXT, BERT, ["pooler", "head"]),
    "bert-mlm": (["embedding / tokens + head", *TEXT[1:]], BERT, ["head"]),
    "roberta": ([TEXT[i] for i in (0, 2, 3, 1)], BERT, ["head"]),
    "gpt2": (["embedding / tokens + head", "embedding / positions"], PRE, ["final norm"]),
    "llama": (["embedding / tokens"], LLAMA, ["final norm", "head"]),
    "neox": (["embedding / tokens"], ["norm 0", "norm 1", *ATTENTION, *DENSE], ["final norm", "head"]),
    "vit": ([f"embedding / {x}" for x in ("class token", "positions", "patches")], VIT, ["final norm", "head"]),
    "distilbert": ([TEXT[i] for i in (0, 1, 3)], [*ATTENTION, "norm 0", *DENSE, "norm 1"], ["head"]),
    "torch": (
        ["embedding / positions", "embedding / tokens"],
        [*ATTENTION, *DENSE, "norm 0", "norm 1"],
        ["final norm", "head"],
    ),
    "ours": (["embedding / tokens", "embedding / positions"], PRE, ["final norm", "head"]),
    "our-vit": ([f"embedding / {x}" for x in ("patches", "class token", "positions")], PRE, ["final norm", "head"]),
}


RELATIVE = ["attention query", "attention value", "attention key", "attention positions", "attention out"]
NAMES["deberta"] = (  # in the order of DebertaModel: biases, the fused weight, projections of positions
    [TEXT[i] for i in (0, 1, 3)],
    [*RELATIVE, *BERT[4:]],
    ["pooler", "head"],
)
NAMES["deberta-v2"] = (
    [TEXT[i] for i in (0, 1, 3)],
    [*ATTENTION[:3], "attention positions", *BERT[3:]],
    ["pooler", "head"],
)
NAMES["opt"] = (
    ["embedding / tokens + head", "embedding / positions", "embedding / projection"],
    ["attention key", "attention value", "attention query", *BERT[3:]],
    ["head", "final norm"],
)


def names(sites: tuple[Site, ...]) -> list[str]:
    return [site.name for site in sites]


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_have_the_names_that_users_know(name: str) -> None:
    before, inside, behind = NAMES[name]
    wanted = [*before, *block(*inside), *block(*inside, number=1), *behind]
    assert names(find_sites(built(name), "transformer")) == wanted


@pytest.mark.parametrize(("name", "mlp"), [("t5", DENSE), ("t5-gated", GATED)])
def test_only_the_first_block_of_t5_has_positions(name: str, mlp: list[str]) -> None:
    inside = [*ATTENTION, "attention positions", "norm 0", *mlp, "norm 1"]
    second = [part for part in inside if part != "attention positions"]
    wanted = ["embedding / tokens", *block(*inside), *block(*second, number=1), "final norm", "head"]
    assert names(find_sites(built(name), "transformer")) == wanted


def test_two_stacks_are_told_apart() -> None:
    found = names(find_sites(built("t5-both"), "transformer"))
    assert found[0] == "embedding / tokens + 3 tied to it"
    assert found[-2:] == ["encoder final norm", "decoder final norm"]
    assert {"encoder block 0 / attention query", "decoder block 0 / cross-attention query"} < set(found)
    assert "encoder block 0 / cross-attention query" not in found
    assert transformer_blocks(built("t5-both")) == {
        "encoder block 0": "encoder.block.0",
        "decoder block 0": "decoder.block.0",
    }


def test_norms_of_queries_and_keys_are_parts_of_attention() -> None:
    found = names(find_sites(built("qwen3"), "transformer"))
    assert [part for part in found if part.endswith(" norm") and "0" in part] == block(
        "attention query norm", "attention key norm"
    )


@pytest.mark.parametrize(
    ("name", "inside", "own", "blocks"),
    [
        (
            "convbert",
            [*ATTENTION, *BERT[4:]],
            [
                *(f"key_conv_attn_layer.{part}" for part in ("bias", "depthwise", "pointwise")),
                "conv_kernel_layer",
                "conv_out_layer",
            ],
            {f"block {i}": f"encoder.encoder.layer.{i}" for i in range(2)},
        ),
        (
            "funnel",
            [*ATTENTION, *BERT[4:]],
            ["r_w_bias", "r_r_bias", "r_kernel", "r_s_bias", "seg_embed"],
            {
                "encoder block 0": "encoder.encoder.blocks.0.0",
                "encoder block 1": "encoder.encoder.blocks.1.0",
                "decoder block 0": "encoder.decoder.layers.0",
            },
        ),
        (
            "swinv2",
            [ATTENTION_POSITIONS, *ATTENTION, "norm 0", *DENSE, "norm 1"],
            ["logit_scale"],
            {f"block {i}": f"swinv2.encoder.layers.{i // 2}.blocks.{i % 2}" for i in range(3)},
        ),
        (
            "segformer",
            ["norm 0", *ATTENTION, "norm 1", "norm 2", *DENSE],
            ["sequence_reduction", "dwconv"],
            {f"block {i}": f"stages.{i}.blocks.0" for i in range(2)},
        ),
    ],
)
def test_more_matrices_in_attention_are_no_mlp_and_no_end_of_the_block(
    name: str, inside: list[str], own: list[str], blocks: dict[str, str]
) -> None:
    assert transformer_blocks(built(name)) == blocks
    first, module = next(iter(blocks.items()))
    found = [
        site for site in find_sites(built(name), "transformer") if site.addresses[0].name.startswith(f"{module}.")
    ]
    assert [site.name for site in found if site.name.startswith(first)] == [f"{first} / {part}" for part in inside]
    alone = [site.name for site in found if not site.name.startswith(first)]
    assert [part for part in alone if part.endswith(tuple(own))] == alone
    assert len(alone) == len(own)
    if name in ("convbert", "swinv2"):
        (second,) = find_sites(built(name), f"{first} / MLP dense 1")
        assert second.modules == (f"{module}.output.dense",)


def test_a_head_that_attends_is_no_block() -> None:
    model = built("siglip")
    assert {name for name in transformer_blocks(model) if "vision" in name} == {
        "vision_model block 0",
        "vision_model block 1",
    }
    (head,) = find_sites(model, "vision_model head")
    assert {address.name for address in head.addresses} == {
        f"vision_model.head.{name}" for name, _ in model.get_submodule("vision_model.head").named_parameters()
    }


def test_a_module_outside_the_list_is_a_block_when_the_list_has_one_of_its_class() -> None:
    model = nn.ModuleDict({"first": Timm.Block(), "rest": nn.ModuleList([Timm.Block()])})
    outside = nn.Module()
    outside.first, outside.rest = model["first"], model["rest"]
    assert list(transformer_blocks(outside).values()) == ["first", "rest.0"]


def test_a_layer_called_attention_may_be_a_block_with_attention_inside() -> None:
    """As the Perceiver's `cross_attention`, which holds an attention, norms and an MLP."""
    model = nn.Module()
    model.cross_attention, model.layers = Timm.Block(), nn.ModuleList([Timm.Block()])
    assert list(transformer_blocks(model).values()) == ["cross_attention", "layers.0"]


def test_projections_outside_the_blocks_are_of_the_embedding_or_the_head() -> None:
    def modules(name: str, part: str) -> tuple[str, ...]:
        (site,) = find_sites(built(name), part)
        return site.modules

    assert modules("hubert", "embedding / projection") == ("feature_projection.projection",)
    assert modules("opt", "embedding / projection") == ("model.decoder.project_in",)
    assert modules("opt", "head") == ("model.decoder.project_out",)
    assert modules("deberta", "embedding / positions") == (
        "deberta.embeddings.position_embeddings",
        "deberta.encoder.rel_embeddings",
    )


def test_the_gate_of_modernbert_is_what_its_activation_takes() -> None:
    """Its `Wi` gives first what is activated, which other models call gate, and then what that is multiplied by."""
    seen: dict[str, Tensor] = {}
    for part in ("none", "gate", "up"):
        twin = copy.deepcopy(built("modernbert"))
        if part != "none":
            (site,) = find_sites(twin, f"block 0 / MLP {part}")
            for address in site.addresses:
                address.select(named_state(twin)[address.name]).data.zero_()
        mlp = twin.get_submodule("encoder.layers.0.mlp")
        mlp.get_submodule("act").register_forward_pre_hook(lambda _, x, part=part: seen.update({f"{part} act": x[0]}))
        mlp.get_submodule("Wo").register_forward_pre_hook(lambda _, x, part=part: seen.update({f"{part} Wo": x[0]}))
        args, kwargs = inputs_of("modernbert")
        kwargs.pop("labels", None)
        with torch.no_grad():
            twin(*args, **kwargs)
    assert (seen["gate act"] == 0).all()
    assert (seen["none Wo"] != 0).any()
    assert torch.equal(seen["up act"], seen["none act"])
    assert (seen["up Wo"] == 0).all()


def test_a_wi_without_a_gate_is_a_dense_layer() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Wi, self.Wo = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    plain = Timm.Block()
    plain.mlp = Mlp()  # type: ignore[assignment]
    assert [part for part in names(find_sites(nn.Sequential(plain), "transformer")) if "MLP" in part] == block(*DENSE)


def test_biases_beside_a_fused_weight_and_weights_beside_a_fused_bias() -> None:
    apart = Timm.Block()
    apart.attn.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)  # as BEiT has it: keys need no bias
    apart.attn.q_bias, apart.attn.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))
    indices = {
        site.name.rpartition(" ")[2]: [(a.name.rpartition("attn.")[2], a.index) for a in site.addresses]
        for site in find_sites(nn.Sequential(apart), "block 0 / attention [qkv]*")
    }
    assert indices == {
        "query": [("q_bias", None), ("qkv.weight", "0:8")],
        "value": [("v_bias", None), ("qkv.weight", "16:24")],
        "key": [("qkv.weight", "8:16")],
    }
    other = Timm.Block()
    other.attn = nn.MultiheadAttention(WIDTH, 2, kdim=4, vdim=4)  # type: ignore[assignment]
    (key,) = find_sites(nn.Sequential(other), "block 0 / attention key")
    assert [(a.name, a.index) for a in key.addresses] == [
        ("0.attn.k_proj_weight", None),
        ("0.attn.in_proj_bias", "8:16"),
    ]


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, named as PEFT names its parts."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


@pytest.mark.parametrize("name", ["bert", "llama", "neox", "vit"])
@pytest.mark.parametrize("change", [Adapted, weight_norm])
def test_adapters_and_parametrizations_are_inside_the_part_that_they_change(
    name: str, change: Callable[[nn.Module], nn.Module]
) -> None:
    model = copy.deepcopy(built(name))
    for layer in [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]:
        if change is weight_norm or "query_key_value" not in layer:
            model.set_submodule(layer, change(model.get_submodule(layer)))
    before = {site.name: set(site.modules) for site in find_sites(built(name), "transformer")}
    sites = find_sites(model, "transformer")
    assert {site.name for site in sites} == set(before)
    for site in sites:
        assert {re.sub(r"\.(base_layer|lora_|parametrizations).*", "", owner) for owner in site.modules} == before[
            site.name
        ]


@pytest.mark.parametrize(
    ("name", "layer", "held"),
    [
        ("neox", "gpt_neox.layers.0.attention.query_key_value", "query, key and value"),
        ("phi3", "model.layers.0.mlp.gate_up_proj", "gate and up"),
    ],
)
def test_an_adapter_of_a_fused_weight_is_refused(name: str, layer: str, held: str) -> None:
    model = copy.deepcopy(built(name))
    model.set_submodule(layer, Adapted(model.get_submodule(layer)))
    with pytest.raises(NetopsyError, match=rf"{layer}.*holds {held}, and an adapter has one matrix for them all"):
        find_sites(model, "transformer")


def test_what_is_not_recognized_keeps_its_name() -> None:
    assert {"model.layers.0.mlp.gate", "model.layers.1.mlp.experts"} < set(
        names(find_sites(built("mixtral"), "transformer"))
    )
    assert {"blocks.0.ls1", "blocks.1.ls1"} < set(names(find_sites(built("timm"), "transformer")))


@pytest.mark.parametrize("name", BUILD)
def test_every_entry_of_every_parameter_is_in_exactly_one_part(name: str) -> None:
    model = built(name)
    sites = find_sites(model, "transformer")
    state = named_state(model)
    counts = {name: torch.zeros(value.shape, dtype=torch.int) for name, value in state.items()}
    for site in sites:
        for address in site.addresses:
            address.select(counts[address.name]).add_(1)
    for parameter, _ in model.named_parameters():
        assert (counts[parameter] == 1).all(), parameter
    assert all((count <= 1).all() for count in counts.values())
    assert len(set(names(sites))) == len(sites)


def test_modules_that_are_wrapped_or_registered_twice_are_the_same_parts() -> None:
    model = copy.deepcopy(built("timm"))
    assert find_sites(nn.DataParallel(model), "transformer") == find_sites(model, "transformer")
    once = nn.Sequential(nn.Embedding(3, WIDTH), layer := Timm.Block(), layer, nn.Linear(WIDTH, 2))
    found = names(find_sites(once, "transformer"))
    assert [part for part in found if "query" in part] == ["block 0 / attention query"]
    assert (found[0], found[-1]) == ("embedding / tokens", "head")


def test_a_block_may_hold_its_projections_itself() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.out_proj, self.ln1, self.ln2 = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.fc1, self.fc2 = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    found = names(find_sites(nn.Sequential(Flat(), Flat()), "transformer"))
    inside = [*ATTENTION, "norm 0", "norm 1", *DENSE]
    assert found == [*block(*inside), *block(*inside, number=1)]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "phi3", "neox", "vit", "distilbert", "torch", "timm"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_query_key_and_value_are_what_attention_takes_as_such(
    name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part set to zero makes this argument of the first block's attention zero, and no other."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    attend = nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((q, k, v))
        return attend(q, k, v, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        part = ("query", "key", "value")[place]
        (site,) = find_sites(built(name), f"block 0 / attention {part}")
        twin = copy.deepcopy(built(name))
        args, kwargs = inputs_of(name)
        with torch.no_grad():
            twin(*args, **kwargs)
            before = seen[0]
            seen.clear()
            for address in site.addresses:
                address.select(named_state(twin)[address.name]).zero_()
            twin(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for i in range(3):
        if i == place:
            assert (seen[0][i] == 0).all()
            assert (before[i] != 0).any()
        else:
            assert torch.equal(seen[0][i], before[i])


@pytest.mark.parametrize(
    ("name", "compared", "added"),
    [("deberta", 0, 3), ("convbert", 1, 2)],  # which products of the first block are q kᵀ and the sum of values
)
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_query_key_and_value_are_what_attention_multiplies(
    name: str, compared: int, added: int, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where attention is written out."""
    products: list[tuple[Tensor, Tensor]] = []
    multiply = torch.matmul

    def watched(a: Tensor, b: Tensor) -> Tensor:
        products.append((a, b))
        return multiply(a, b)

    def taken(model: nn.Module) -> dict[str, Tensor]:
        products.clear()
        args, kwargs = inputs_of(name)
        with torch.no_grad():
            model(*args, **kwargs)
        return {"query": products[compared][0], "key": products[compared][1], "value": products[added][1]}

    monkeypatch.setattr(torch, "matmul", watched)
    twin = copy.deepcopy(built(name))
    before = taken(twin)
    (site,) = find_sites(twin, f"block 0 / attention {part}")
    for address in site.addresses:
        address.select(named_state(twin)[address.name]).data.zero_()
    after = taken(twin)
    assert (after.pop(part) == 0).all()
    assert (before[part] != 0).any()
    assert all(torch.equal(after[other], before[other]) for other in after)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "whole"),
    [("gpt2", "transformer.h.1.attn.c_attn"), ("neox", "gpt_neox.layers.1.attention.query_key_value")],
)
def test_resetting_the_parts_of_a_fused_weight_resets_all_of_it(name: str, whole: str, engine: Engine) -> None:
    model, (data, task) = built(name), data_of(name)
    trajectory = Trajectory.from_states(model, {0: zoo.fresh_state(model, 9), "final": model.state_dict()})
    rule = FromCheckpoint(trajectory, 0)
    parts = [edit_site(s.name, s, rule) for s in find_sites(model, "block 1 / attention [qkv]*")]
    assert len(parts) == 3
    (site,) = find_sites(model, whole)
    variants = [*parts, joined("all parts", parts), edit_site("whole", site, rule)]
    result = evaluate(model, data, variants, task=task, engine=engine, examples=("loss",))
    assert result.provenance["engine"] == engine
    losses = result.examples["loss"]
    np.testing.assert_array_equal(losses[3], losses[4])
    assert len({row.tobytes() for row in losses}) == 5  # the parts differ from each other, all, and the baseline


def test_parts_can_be_asked_for_by_their_names() -> None:
    model = built("bert")
    assert names(find_sites(model, ["block * / attention query", "head"])) == [
        "block 0 / attention query",
        "block 1 / attention query",
        "head",
    ]
    (site,) = find_sites(model, {"upper": ["block 1 / *", "pooler"]})
    assert site.addresses == (
        *find_sites(model, "bert.encoder.layer.1")[0].addresses,
        *find_sites(model, "bert.pooler")[0].addresses,
    )
    with pytest.raises(NetopsyError, match="did you mean block 0 / attention query"):
        find_sites(model, "block 0 / attention queri")


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"FCN .* has none; sites='blocks' takes .* whole, 'modules' every module"):
        find_sites(fcn(inputs=6, classes=3, depth=2, width=8), "transformer")


class GPTNeoXAttention(nn.Module):
    """Says a number of heads that does not divide its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 5
        self.query_key_value, self.dense = nn.Linear(WIDTH, 24), nn.Linear(WIDTH, WIDTH)


def test_a_fused_weight_of_unknown_layout_is_refused() -> None:
    falcon = hf.FalconConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(
        NetopsyError, match=r"query_key_value.weight, shape \(16, 8\).* FalconAttention .* is not known"
    ):
        find_sites(hf.FalconForCausalLM(falcon), "transformer")
    odd = Timm.Block()
    odd.attn = GPTNeoXAttention()  # type: ignore[assignment]
    with pytest.raises(NetopsyError, match="GPTNeoXAttention says 5 heads, which do not divide it"):
        find_sites(nn.Sequential(odd), "transformer")
    narrow = Timm.Block()
    narrow.attn.qkv = nn.Linear(WIDTH, 2 * WIDTH - 2)
    with pytest.raises(NetopsyError, match="the queries of 8 features leave 6 for keys and values"):
        find_sites(nn.Sequential(narrow), "transformer")


@pytest.mark.parametrize(
    "kind", [(hf.DeepseekV3Config, hf.DeepseekV3Model), (hf.DeepseekV2Config, hf.DeepseekV2Model)]
)
def test_keys_and_values_from_one_latent_are_refused(kind: tuple[Any, Any]) -> None:
    latent = {"kv_lora_rank": 4, "q_lora_rank": 6, "qk_rope_head_dim": 2, "qk_nope_head_dim": 4, "v_head_dim": 4}
    model = kind[1](kind[0](**COMMON, **latent, num_key_value_heads=2, first_k_dense_replace=2))
    with pytest.raises(
        NetopsyError, match=r"kv_a_proj_with_mqa.* key and value, and how DeepseekV.Attention .* is not"
    ):
        find_sites(model, "transformer")
    assert len(transformer_blocks(model)) == 2


# Heads and MLP units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "projection"),
    [
        ("bert", "bert.encoder.layer.1.attention.output.dense"),
        ("gpt2", "transformer.h.1.attn.c_proj"),
        ("llama", "model.layers.1.self_attn.o_proj"),
        ("timm", "blocks.1.attn.proj"),
    ],
)
def test_a_head_that_is_off_is_a_slice_of_zeros_before_the_projection(
    name: str, projection: str, engine: Engine
) -> None:
    model, (data, task) = built(name), data_of(name)
    layers = attention_heads(model, inputs_of(name))
    assert [(layer.units, layer.size, layer.axis) for layer in layers] == [(2, 4, -1)] * 2
    assert layers[1].name == projection
    units = mlp_units(model, inputs_of(name))
    assert [(layer.units, layer.size) for layer in units] == [(12, 1)] * 2
    edits = [(layers[1], (1,), slice(4, 8)), (units[0], (3,), slice(3, 4))]
    result = evaluate(
        model, data, [off(layer, *which) for layer, which, _ in edits], task=task, engine=engine, examples=("loss",)
    )
    assert result.provenance["engine"] == engine
    for row, (layer, _, entries) in enumerate(edits):
        twin = copy.deepcopy(model)

        def silence(module: nn.Module, args: Any, entries: slice = entries) -> Any:
            value = args[0].clone()
            value[..., entries] = 0
            return (value,)

        twin.get_submodule(layer.address.name).register_forward_pre_hook(silence)
        expected = evaluate(twin, data, task=task, engine="eager", examples=("loss",)).examples["loss"][-1]
        np.testing.assert_allclose(result.examples["loss"][row], expected, atol=1e-5)
        assert np.abs(expected - result.examples["loss"][-1]).max() > 1e-4


def off(layer: UnitLayer, *units: int) -> Variant:
    return Variant(layer.name, (Edit(layer.address, Mask(layer.entries(units), layer.axis)),))


def test_units_behind_the_activation_are_those_before_the_second_dense_layer() -> None:
    model, inputs = built("bert"), inputs_of("bert")
    acts = find_units(model, inputs, "*.intermediate.intermediate_act_fn")
    assert [layer.units for layer in acts] == [layer.units for layer in mlp_units(model, inputs)] == [12, 12]


def test_heads_that_nothing_says_must_be_given() -> None:
    model = copy.deepcopy(built("timm"))
    for attention in (model.blocks[0].attn, model.blocks[1].attn):  # type: ignore[union-attr,index]
        attention.num_heads = torch.tensor(2)  # as good as not said
    with pytest.raises(
        NetopsyError, match=r"no module around 'blocks.0.attn.proj' says how many heads .*pass heads="
    ):
        attention_heads(model, inputs_of("timm"))
    assert [layer.units for layer in attention_heads(model, inputs_of("timm"), heads=4)] == [4, 4]
    with pytest.raises(NetopsyError, match="heads=3: expected a divisor of the width 8"):
        attention_heads(model, inputs_of("timm"), heads=3)


def test_heads_of_a_projection_that_is_not_called_are_refused() -> None:
    with pytest.raises(NetopsyError, match="out_proj is not called as a module"):
        attention_heads(built("torch"), inputs_of("torch"))


def test_mlps_of_another_form_have_no_units_here() -> None:
    with pytest.raises(NetopsyError, match="its blocks have no 'MLP dense 1' or 'MLP down'"):
        mlp_units(built("mixtral"), inputs_of("bert"))


@pytest.mark.parametrize(
    ("name", "heads", "width", "hidden"),
    [
        ("deberta", [2, 2], [8, 8], 12),
        ("funnel", [2, 2, 2], [8, 8, 8], 12),
        ("swinv2", [2, 2, 4], [8, 8, 16], 32),
    ],
)
def test_heads_and_units_of_blocks_with_more_in_attention(
    name: str, heads: list[int], width: list[int], hidden: int
) -> None:
    found = attention_heads(built(name), inputs_of(name))
    assert [layer.units for layer in found] == heads
    assert [layer.units * layer.size for layer in found] == width
    assert mlp_units(built(name), inputs_of(name))[0].units == hidden


def test_heads_that_are_not_told_are_refused() -> None:
    with pytest.raises(NetopsyError, match=r"nor does a config, or what they say differs; pass heads="):
        attention_heads(built("convbert"), inputs_of("convbert"))  # half of what its projection takes is convolved
    bare = copy.deepcopy(built("timm"))
    for attention in (bare.blocks[0].attn, bare.blocks[1].attn):  # type: ignore[union-attr,index]
        attention.proj = nn.Identity()
    with pytest.raises(NetopsyError, match=r"Timm: its blocks have no 'attention out'.*pass projections="):
        attention_heads(bare, inputs_of("timm"))
