"""Random blocks at every call, and accuracy under attack."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import netopsy
from netopsy.models.resnet import resnet
from netopsy.network.addresses import named_state
from netopsy.probes.adversarial import adversarial_accuracy
from netopsy.probes.randomized_classifier import RandomizedClassifier, randomized_classifier

BLOCKS = [f"stage{stage}.block{block}" for stage in (1, 2) for block in (1, 2, 3)]


def small() -> nn.Module:
    return resnet(18, classes=3, channels=1, stages=(3, 3), width=0.05)


def trained() -> netopsy.Trajectory:
    torch.manual_seed(0)
    return netopsy.Trajectory.from_states(small, {0: small().state_dict(), 1: small().state_dict()})


def replaced(classifier: RandomizedClassifier) -> list[str]:
    """Blocks that have other than their trained weights in the next call."""
    own = named_state(classifier.model)
    chosen = classifier.choose()
    return sorted({block for block in BLOCKS for name in chosen if name.startswith(f"{block}.") and name in own})


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_call_replaces_one_block_in_each_of_the_chosen_stages(chosen: int) -> None:
    classifier = randomized_classifier(trained(), chosen=chosen)
    seen = [replaced(classifier) for _ in range(200)]
    assert all(len(blocks) == chosen for blocks in seen)
    assert all(one.split(".")[0] != other.split(".")[0] for blocks in seen for one, other in pairwise(blocks))
    assert {block for blocks in seen for block in blocks} == (set(BLOCKS) if chosen else set())


def test_every_block_has_so_many_sets_of_weights_and_no_more() -> None:
    classifier = randomized_classifier(trained(), stages=[BLOCKS[:1]], weights=3, chosen=1)
    seen = {tuple(value.sum().item() for value in classifier.choose().values()) for _ in range(100)}
    assert len(seen) == 3


def test_its_output_is_that_of_the_network_with_these_weights() -> None:
    trajectory = trained()
    classifier = randomized_classifier(trajectory, chosen=2, seed=3)
    twin = randomized_classifier(trajectory, chosen=2, seed=3)
    inputs = torch.randn(4, 1, 8, 8)
    by_hand = copy.deepcopy(trajectory.model()).eval()
    values = twin.choose()
    by_hand.load_state_dict({**by_hand.state_dict(), **values})
    assert torch.equal(classifier(inputs), by_hand(inputs))
    assert not torch.equal(classifier(inputs), trajectory.model().eval()(inputs))
    before = named_state(trajectory.model())
    assert all(torch.equal(value, before[name]) for name, value in named_state(classifier.model).items())


def test_weights_are_of_the_initial_distribution() -> None:
    """Drawn by the factory: as wide as at the start, however large the trained ones are."""
    torch.manual_seed(0)
    large = {name: 100 * value for name, value in small().state_dict().items()}
    trajectory = netopsy.Trajectory.from_states(small, {0: small().state_dict(), 1: large})
    values = randomized_classifier(trajectory, stages=[[BLOCKS[0]]], chosen=1).choose()
    fresh = small().state_dict()
    for name, value in values.items():
        if value.ndim > 1:
            assert 0.5 < float(value.std() / fresh[name].std()) < 2


def test_a_module_in_training_stays_in_training() -> None:
    model = small().train()
    assert not randomized_classifier(model).model.training
    assert all(module.training for module in model.modules())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chosen=3: expected at most as many stages.*got 2 stages of 3, 3 blocks"):
        randomized_classifier(trained(), chosen=3)
    with pytest.raises(ValueError, match="matches no module"):
        randomized_classifier(trained(), stages=[["stage9"]])
    with pytest.raises(ValueError, match="weights: expected an integer >= 1"):
        randomized_classifier(trained(), weights=0)
    with pytest.raises(ValueError, match="expected blocks of at least two stages"):
        randomized_classifier(nn.Sequential(nn.Linear(2, 2)))


def linear() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Two classes apart along the first axis; the second counts half as much."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.5], [-1.0, -0.5]]))
    inputs = torch.tensor([[0.1, 0.0], [0.4, 0.0], [-0.2, 0.0], [-1.0, 0.0]])
    return model, (inputs, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize(("epsilon", "right"), [(0.05, 1.0), (0.1, 0.75), (0.2, 0.5), (0.3, 0.25), (1.0, 0.0)])
def test_a_linear_classifier_falls_where_the_margin_is_below_epsilon_times_the_l1_norm(
    attack: str, epsilon: float, right: float
) -> None:
    """Closed form: the score x_1 + x_2 / 2 moves by 1.5 epsilon (of x_1 = 0.1, 0.2, 0.4, 1)."""
    model, data = linear()
    assert adversarial_accuracy(model, data, attack=attack, epsilon=epsilon, steps=20, repeats=2) == (right, right)  # type: ignore[arg-type]


def test_an_example_that_the_network_is_very_sure_of_is_attacked_too() -> None:
    """Its gradients are of the order of 1e-9, which captum by itself takes for none."""
    model, (inputs, labels) = linear()
    with torch.no_grad():
        model.weight.mul_(100)  # type: ignore[operator, union-attr]
    sure = (inputs[[1]] * 0.25, labels[[1]])  # logits of 10 and -10
    assert adversarial_accuracy(model, sure, attack="none") == (1.0,)
    assert adversarial_accuracy(model, sure, attack="fgsm", epsilon=0.5) == (0.0,)


def test_inputs_stay_in_the_box_and_within_the_bounds() -> None:
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()[0]

        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.detach())
            out: Tensor = self.inner(inputs)
            return out

    data = linear()[1]
    adversarial_accuracy(Watched(), data, attack="pgd", epsilon=0.3, steps=7, bounds=(-0.5, 0.45))
    last = seen[-1]
    assert float((last - data[0].clamp(-0.5, 0.45)).abs().max()) <= 0.3 + 1e-6
    assert -0.5 <= float(last.min()) <= float(last.max()) <= 0.45
    assert len(seen) == 7 + 1


def test_nothing_of_it_stays() -> None:
    model, data = linear()
    model.train()
    before, state = data[0].clone(), torch.random.get_rng_state()
    adversarial_accuracy(model, data, attack="pgd", epsilon=0.1)
    assert model.training
    assert torch.equal(before, data[0])
    assert not data[0].requires_grad
    assert model.weight.grad is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_random_choices_differ_between_repeats_and_are_the_same_again() -> None:
    trajectory = trained()
    torch.manual_seed(2)
    inputs = torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        scores = trajectory.model().eval()(inputs)
    state = dict(trajectory.state(1))
    state["classifier.bias"] = state["classifier.bias"] - scores.mean(0)  # so that every class is given
    trajectory = netopsy.Trajectory.from_states(small, {0: state, 1: state})
    data = (inputs, torch.randint(0, 3, (40,)))

    def measured() -> tuple[float, ...]:
        classifier = randomized_classifier(trajectory, chosen=2)
        return adversarial_accuracy(classifier, data, attack="fgsm", epsilon=0.1, repeats=6, batch_size=5)

    once = measured()
    assert len(set(once)) > 1
    assert once == measured()


def test_bad_attacks_are_refused(unchecked: None) -> None:
    model, data = linear()
    with pytest.raises(ValueError, match="attack: expected one of 'none', 'fgsm', 'pgd'; got 'cw'"):
        adversarial_accuracy(model, data, attack="cw", epsilon=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"epsilon: expected a number in \(0, inf\); got 0"):
        adversarial_accuracy(model, data, attack="fgsm")
    with pytest.raises(ValueError, match="of the same positive length; got 4 and 3"):
        adversarial_accuracy(model, (data[0], data[1][:3]), attack="none")
