"""Sites of every usual architecture: each parameter in exactly one, blocks whole, tied parameters together."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.models.vgg import vgg
from netopsy.network.addresses import Address, canonical_names
from netopsy.network.sites import Site, find_sites, group

# Architectures --------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Named as torchvision names them."""

    def __init__(self, channels: int, *, downsample: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        if downsample:
            self.downsample = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class TorchvisionResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4), BasicBlock(4))
        self.layer2 = nn.Sequential(BasicBlock(4, downsample=True), BasicBlock(4))
        self.fc = nn.Linear(4, 2)


def conv_norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())


def mobile() -> nn.Module:
    return nn.Sequential(*(conv_norm_relu(3) for _ in range(3)), nn.Flatten(), nn.Linear(3, 2))


class Features(nn.Module):
    """As torchvision's VGG with batch norm: one flat Sequential, which is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.features = conv_norm_relu(3)
        self.classifier = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3)


def densenet() -> nn.Module:
    stem = OrderedDict[str, nn.Module](conv0=nn.Conv2d(3, 3, 3), norm0=nn.BatchNorm2d(3))
    layers = nn.ModuleDict({f"denselayer{i}": Dense() for i in (1, 2)})
    return nn.Sequential(OrderedDict[str, nn.Module](**stem, denseblock1=layers, head=nn.Linear(3, 2)))


class Numbered(nn.Module):
    """Blocks that stand in no container, but are numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2 = Dense(), Dense()
        self.neck = Dense()
        self.fc1, self.fc2 = nn.Linear(3, 3), nn.Linear(3, 2)


class Vision(nn.Module):
    """A transformer that owns parameters beside its modules'."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches = nn.Conv2d(3, 8, 4)
        self.register_buffer("scale", torch.ones(8))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2))
        self.head = nn.Linear(8, 2)


class Twice(nn.Module):
    """One module under two names, and a Linear whose weight is another's."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = self.one
        self.steps = nn.ModuleList([self.one, nn.Linear(3, 3), self.one])
        self.readout = nn.Linear(3, 3)
        self.readout.weight = self.steps[1].weight


class Normalize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))


def wrapped() -> nn.Module:
    return nn.Sequential(Normalize(), TorchvisionResNet())


def recurrent() -> nn.Module:
    model = nn.Module()
    model.embedding, model.lstm, model.head = nn.Embedding(5, 3), nn.LSTM(3, 4, num_layers=2), nn.Linear(4, 5)
    model.scales = nn.ParameterList([torch.ones(2), torch.ones(3)])
    return model


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 2))


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    return transformers.BertForMaskedLM(config)


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "fcn": lambda: fcn(inputs=4, classes=2, depth=2, width=3),
    "vgg": lambda: vgg("vgg11", classes=2, width=1 / 64, batch_norm=True),
    "resnet 18": lambda: resnet(18, classes=2, width=1 / 32),
    "resnet 18 with norm": lambda: resnet(18, classes=2, width=1 / 32, batch_norm=True),
    "resnet 50 of version 1": lambda: resnet(50, classes=2, width=1 / 32, batch_norm=True, version=1),
    "torchvision": TorchvisionResNet,
    "wrapped": wrapped,
    "mobile": mobile,
    "features": Features,
    "densenet": densenet,
    "numbered": Numbered,
    "vision": Vision,
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 4), 2, norm=nn.LayerNorm(4), enable_nested_tensor=False
    ),
    "transformer": lambda: nn.Transformer(4, 2, 1, 2, 4, batch_first=True),
    "twice": Twice,
    "recurrent": recurrent,
    "weight norm": weight_normed,
    "linear": lambda: nn.Linear(3, 2),
    "bert": bert,
    "gpt2": gpt2,
}


def names(model: nn.Module, *spec: object) -> list[str]:
    return [site.name for site in find_sites(model, *spec)]  # type: ignore[arg-type]


def parameters(site: Site) -> list[str]:
    return [address.name for address in site.addresses if address.kind == "parameter"]


# Invariants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["modules", "blocks", "parameters"])
@pytest.mark.parametrize("architecture", ZOO)
def test_every_parameter_is_in_exactly_one_site(architecture: str, spec: str) -> None:
    model = ZOO[architecture]()
    sites = find_sites(model, spec)
    found = Counter(address.name for site in sites for address in site.addresses if address.kind == "parameter")
    assert found == Counter(name for name, _ in model.named_parameters())
    assert len({site.name for site in sites}) == len(sites)
    assert all(parameters(site) for site in sites)
    order = [name for name, _ in model.named_parameters()]
    firsts = [order.index(parameters(site)[0]) for site in sites]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("architecture", ZOO)
def test_addresses_are_values_of_the_model_under_first_names(architecture: str) -> None:
    model = ZOO[architecture]()
    kinds = {"parameter": dict(model.named_parameters()), "buffer": dict(model.named_buffers())}
    modules = dict(model.named_modules(remove_duplicate=False))
    for spec in ("modules", "blocks", "parameters", "*"):
        for site in find_sites(model, spec):
            assert str(site) == site.name
            assert all(address.name in kinds[address.kind] for address in site.addresses)
            assert len(set(site.addresses)) == len(site.addresses)
            assert set(site.modules) <= modules.keys()


@pytest.mark.parametrize("architecture", ZOO)
def test_everything_in_one_group_is_the_whole_state(architecture: str) -> None:
    model = ZOO[architecture]()
    (whole,) = find_sites(model, {"all": "*"})
    assert {address.name for address in whole.addresses} == set(canonical_names(model).values())


@pytest.mark.parametrize("architecture", ZOO)
def test_a_sites_name_finds_it_again(architecture: str) -> None:
    model = ZOO[architecture]()
    for site in find_sites(model, "blocks"):
        if site.name != "(root)":
            (again,) = find_sites(model, site.name)
            assert set(again.addresses) <= set(site.addresses)  # tied ones may be joined to a site


# Blocks ---------------------------------------------------------------------------------------------------------

STAGES = [f"stage{i}.block{j}" for i in (1, 2, 3, 4) for j in (1, 2)]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("fcn", ["hidden.0", "hidden.1", "classifier"]),
        (
            "vgg",
            [
                *("stage1.conv1", "stage1.norm1", "stage2.conv1", "stage2.norm1"),
                *(f"stage{i}.{kind}{j}" for i in (3, 4, 5) for j in (1, 2) for kind in ("conv", "norm")),
                *("fc1", "fc2", "classifier"),
            ],
        ),
        ("resnet 18", ["stem.conv", *STAGES, "classifier"]),
        ("resnet 18 with norm", ["stem.conv", *STAGES, "norm", "classifier"]),
        (
            "resnet 50 of version 1",
            [
                *("stem.conv", "stem.norm"),
                *(f"stage{i + 1}.block{j + 1}" for i, count in enumerate((3, 4, 6, 3)) for j in range(count)),
                "classifier",
            ],
        ),
        ("torchvision", ["conv1", "bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]),
        ("wrapped", ["1.conv1", "1.bn1", "1.layer1.0", "1.layer1.1", "1.layer2.0", "1.layer2.1", "1.fc"]),
        ("mobile", ["0", "1", "2", "4"]),
        ("features", ["features.0", "features.1", "classifier.0", "classifier.3"]),
        ("densenet", ["conv0", "norm0", "denseblock1.denselayer1", "denseblock1.denselayer2", "head"]),
        ("numbered", ["block1", "block2", "neck.norm", "neck.conv", "fc1", "fc2"]),
        ("vision", ["cls_token", "patches", "blocks.0", "blocks.1", "head"]),
        ("encoder", ["layers.0", "layers.1", "norm"]),
        (
            "transformer",
            ["encoder.layers.0", "encoder.norm", "decoder.layers.0", "decoder.layers.1", "decoder.norm"],
        ),
        ("twice", ["one", "steps.1"]),
        ("recurrent", ["embedding", "lstm", "head", "scales"]),
        ("linear", ["(root)"]),
        (
            "bert",
            [
                *(f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")),
                *("bert.embeddings.LayerNorm", "bert.encoder.layer.0", "bert.encoder.layer.1"),
                *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
            ],
        ),
        ("gpt2", ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f"]),
    ],
)
def test_blocks_are_the_repeated_composites(architecture: str, expected: list[str]) -> None:
    found = names(ZOO[architecture](), "blocks")
    assert [name for name in found if not name.startswith("cls.predictions.bias")] == expected


def test_a_block_holds_everything_below_it() -> None:
    model = TorchvisionResNet()
    site = next(site for site in find_sites(model, "blocks") if site.name == "layer2.0")
    assert {address.name for address in site.addresses} == {
        name for name in model.state_dict() if name.startswith("layer2.0.")
    }
    assert site.modules == tuple(
        f"layer2.0.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1")
    )


def test_one_block_among_layers_is_a_block() -> None:
    assert names(nn.Sequential(nn.Linear(3, 3), Dense(), nn.Linear(3, 3)), "blocks") == ["0", "1", "2"]


def test_a_stack_of_layers_without_normalization_is_no_block() -> None:
    head = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert names(nn.Sequential(nn.Linear(3, 3), head), "blocks") == ["0", "1.0", "1.2"]


# Modules and parameters -----------------------------------------------------------------------------------------


def test_modules_are_those_with_parameters_of_their_own() -> None:
    model = TorchvisionResNet()
    assert names(model)[:6] == ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"]
    norm = find_sites(model)[1]
    assert norm.addresses == (
        Address("parameter", "bn1.weight"),
        Address("parameter", "bn1.bias"),
        Address("buffer", "bn1.running_mean"),
        Address("buffer", "bn1.running_var"),
        Address("buffer", "bn1.num_batches_tracked"),
    )
    assert norm.modules == ("bn1",)


def test_a_composite_with_parameters_of_its_own_is_split() -> None:
    assert names(Vision())[:6] == [
        "cls_token",
        "patches",
        "blocks.0.self_attn.in_proj_weight",
        "blocks.0.self_attn.in_proj_bias",
        "blocks.0.self_attn.out_proj",
        "blocks.0.linear1",
    ]
    assert names(weight_normed()) == ["0.bias", "0.parametrizations.weight", "1"]


def test_a_name_that_begins_another_is_not_taken_for_it() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    assert all(len(site.addresses) == 2 for site in find_sites(model))
    (site,) = find_sites(model, "1")
    assert parameters(site) == ["1.weight", "1.bias"]


def test_parameters_stand_alone_without_buffers() -> None:
    sites = find_sites(TorchvisionResNet(), "parameters")
    assert [(site.name, len(site.addresses)) for site in sites[:4]] == [
        ("conv1.weight", 1),
        ("conv1.bias", 1),
        ("bn1.weight", 1),
        ("bn1.bias", 1),
    ]


def test_wrappers_are_looked_through() -> None:
    assert names(nn.DataParallel(TorchvisionResNet()), "blocks") == names(TorchvisionResNet(), "blocks")


# Tied parameters ------------------------------------------------------------------------------------------------


def test_tied_embeddings_are_one_site() -> None:
    model = gpt2()
    site = find_sites(model)[0]
    assert site.name == "transformer.wte"
    assert parameters(site) == ["transformer.wte.weight"]
    assert site.modules == ("transformer.wte", "lm_head")
    for text in ("lm_head", "lm_head.weight"):
        (site,) = find_sites(model, text)
        assert parameters(site) == ["transformer.wte.weight"]
        assert site.modules == ("transformer.wte", "lm_head")
    assert names(model, "*.w?e") == ["transformer.wte", "transformer.wpe"]
    assert names(model, ["lm_head", "transformer.wte"]) == ["lm_head", "transformer.wte"]
    assert names(model, "*") == ["transformer"]


def test_a_slice_of_a_tied_tensor_is_one_site_under_all_names() -> None:
    (site,) = find_sites(gpt2(), "lm_head.weight[0:4]")
    assert site.addresses == (Address("parameter", "transformer.wte.weight", "0:4"),)
    assert site.modules == ("transformer.wte", "lm_head")


def test_a_module_registered_twice_is_one_site() -> None:
    model = Twice()
    sites = find_sites(model)
    assert [site.name for site in sites] == ["one", "steps.1"]
    assert sites[0].modules == ("one", "other", "steps.0", "steps.2")
    assert parameters(sites[1]) == ["steps.1.weight", "steps.1.bias", "readout.bias"]
    assert sites[1].modules == ("steps.1", "readout")
    assert names(model, "o*") == ["one"]


def test_sites_that_a_later_one_ties_are_joined_where_the_first_stands() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    bridge = nn.Module()
    bridge.a, bridge.b = model[1].weight, model[3].weight
    model.append(bridge)
    assert names(model) == ["0", "1", "2", "4"]
    assert parameters(find_sites(model)[1]) == ["1.weight", "1.bias", "3.weight", "3.bias"]


def test_a_shared_buffer_joins_nothing() -> None:
    model = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    mask = torch.ones(2)
    for layer in model:
        layer.register_buffer("mask", mask)
    assert names(model) == ["0", "1"]
    assert [len(site.addresses) for site in find_sites(model)] == [3, 3]


# Globs, slices, groups ------------------------------------------------------------------------------------------


def test_a_glob_takes_modules_and_of_those_inside_each_other_the_outermost() -> None:
    model = TorchvisionResNet()
    assert names(model, "layer1.0") == ["layer1.0"]
    assert names(model, "layer*.conv1") == [f"layer{i}.{j}.conv1" for i in (1, 2) for j in (0, 1)]
    assert names(model, "layer[12]") == ["layer1", "layer2"]
    assert names(model, "layer?.[1]*") == ["layer1.1", "layer2.1"]
    assert names(model, "*") == ["conv1", "bn1", "layer1", "layer2", "fc"]


def test_a_glob_takes_parameters_where_no_module_around_them_matches() -> None:
    model = Vision()
    assert names(model, "*.out_proj.weight") == [f"blocks.{i}.self_attn.out_proj.weight" for i in (0, 1)]
    assert names(model, "*") == ["patches", "blocks", "head", "cls_token", "scale"]
    assert names(model, "*token") == ["cls_token"]
    (site,) = find_sites(TorchvisionResNet(), "bn1.running_mean")
    assert site.addresses == (Address("buffer", "bn1.running_mean"),)


def test_a_list_joins_globs_keywords_and_sites() -> None:
    model = Vision()
    mine = Site("mine", (Address("parameter", "head.bias"),))
    assert names(model, ["head", "blocks.*", mine, "head"]) == ["head", "blocks.0", "blocks.1", "mine"]
    assert names(model, ("cls_token", "blocks"))[:2] == ["cls_token", "patches"]


def test_a_slice_is_one_part_of_one_parameter() -> None:
    model = Vision()
    (site,) = find_sites(model, "blocks.0.self_attn.in_proj_weight[0:8, :]")
    assert site.name == "blocks.0.self_attn.in_proj_weight[0:8, :]"
    assert site.addresses == (Address("parameter", "blocks.0.self_attn.in_proj_weight", "0:8,:"),)
    assert site.modules == ("blocks.0.self_attn",)
    assert names(model, "blocks.[01].*.in_proj_weight[8:16]") == [
        f"blocks.{i}.self_attn.in_proj_weight[8:16]" for i in (0, 1)
    ]
    value = dict(model.named_parameters())["blocks.0.self_attn.in_proj_weight"]
    assert torch.equal(site.addresses[0].select(value), value[:8])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("a", r"index \[a\]: expected integers and slices"),
        ("::-1", r"index \[::-1\]: expected integers and slices with positive steps"),
        ("0, 0, 0", r"site head\.weight\[0, 0, 0\]: head\.weight has shape \(2, 8\); too many indices"),
        ("9", r"site head\.weight\[9\]: head\.weight has shape \(2, 8\); index 9 is out of bounds"),
        ("5:", r"site head\.weight\[5:\]: selects nothing of head\.weight, shape \(2, 8\)"),
    ],
)
def test_a_slice_that_selects_nothing_is_refused(index: str, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        find_sites(Vision(), f"head.weight[{index}]")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("layer1.O", r"; did you mean layer1(\.\d)? or "),
        ("bn1.wieght", r"; did you mean bn1\.weight"),
        ("bn1.wieght[0]", r"; did you mean bn1\.weight"),
        ("zzzzzz*", r"; it has conv1, bn1, layer1, .* and \d+ more$"),
        ("layer1.0.relu", r""),  # a module, but without parameters
        ("conv1.weight[]", r"; did you mean conv1\.weight"),
    ],
)
def test_what_matches_nothing_is_refused_with_near_names(text: str, hint: str) -> None:
    message = (
        rf"site '{re.escape(text)}': matches no module with parameters and no parameter of TorchvisionResNet{hint}"
    )
    with pytest.raises(NetopsyError, match=message):
        find_sites(TorchvisionResNet(), text)
    with pytest.raises(NetopsyError, match=message):
        find_sites(TorchvisionResNet(), {"group": ["fc", text]})


def test_a_group_is_one_site_of_all_its_matches() -> None:
    model = Vision()
    first, second = find_sites(model, {"attention": "*.self_attn", "ends": ["cls_token", "head", "head.weight"]})
    assert first.name == "attention"
    assert parameters(first) == [
        f"blocks.{i}.self_attn.{name}"
        for i in (0, 1)
        for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    ]
    assert parameters(second) == ["cls_token", "head.weight", "head.bias"]
    assert second.modules == ("", "head")
    assert parameters(group(model, "everything", "modules")) == [name for name, _ in model.named_parameters()]


def test_slices_in_a_group_stand_beside_each_other() -> None:
    model, name = Vision(), "blocks.0.self_attn.in_proj_weight"
    both = group(model, "query and value", [f"{name}[0:8]", f"{name}[16:24]"])
    assert [address.index for address in both.addresses] == ["0:8", "16:24"]
    within = group(model, "all and some", [f"{name}[0:8]", "blocks.0"])
    assert all(address.index is None for address in within.addresses)
    with pytest.raises(
        NetopsyError, match=rf"group 'g': slices of {name} overlap at {name}\[7:9\]; an entry can be e"
    ):
        group(model, "g", [f"{name}[0:8]", f"{name}[7:9]"])
    assert len(group(model, "g", [f"{name}[0:8]", f"{name}[0:8]"]).addresses) == 1


def test_two_sites_of_one_name_are_refused() -> None:
    mine = Site("head", (Address("parameter", "cls_token"),))
    with pytest.raises(NetopsyError, match="sites: two different sites have the name 'head'; rename one of them"):
        find_sites(Vision(), [mine, "head"])


@pytest.mark.parametrize("spec", [[], {}, (), ""])
def test_no_sites_at_all_are_refused(spec: list[str]) -> None:
    with pytest.raises(NetopsyError, match=r"sites=.*: expected 'modules', 'blocks', 'parameters', globs or named g"):
        find_sites(Vision(), spec)
    with pytest.raises(NetopsyError, match="group 'empty': expected at least one module name or glob; got none"):
        find_sites(Vision(), {"empty": []})


@pytest.mark.parametrize("spec", ["modules", "blocks", "parameters"])
def test_a_model_without_parameters_is_refused(spec: str) -> None:
    with pytest.raises(NetopsyError, match=rf"sites='{spec}': Sequential has no parameters to edit"):
        find_sites(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False)), spec)


def test_finding_sites_changes_nothing() -> None:
    model = Vision()
    before: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    for spec in ("modules", "blocks", "parameters", "*", "head.weight[0]"):
        find_sites(model, spec)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
