"""How batches of every usual form become inputs, targets, logits and positions; and what is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.network.task import LABELS, Task, cross_entropy, default_inputs, default_logits, default_targets

X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1])
Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Pair(X, Y)])
def test_a_pair_is_inputs_and_targets(batch: Any) -> None:
    args, kwargs = default_inputs(batch)
    assert len(args) == 1
    assert args[0] is X
    assert kwargs == {}
    assert default_targets(batch) is Y


def test_the_last_of_several_is_the_targets() -> None:
    args, kwargs = default_inputs((X, "mask", Y))
    assert args == (X, "mask")
    assert kwargs == {}
    assert default_targets((X, "mask", Y)) is Y


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])  # a transformers' BatchEncoding is a UserDict
def test_a_dict_is_keywords_and_labels(name: str, kind: Any) -> None:
    batch = kind({"input_ids": X, "attention_mask": 1, name: Y})
    args, kwargs = default_inputs(batch)
    assert args == ()
    assert kwargs == {"input_ids": X, "attention_mask": 1}
    assert default_targets(batch) is Y


def test_targets_may_be_a_list() -> None:
    assert torch.equal(default_targets((X, [0, 1, 1])), Y)
    assert torch.equal(Task().labels((X, [0, 1, 1])), Y[:, None])


@pytest.mark.parametrize("batch", [X, (X,), [], 3, "text"])
def test_another_batch_is_refused(batch: Any) -> None:
    if batch == "text":
        batch = SimpleNamespace(x=X, y=Y)
    with pytest.raises(
        NetopsyError, match=r"batch: expected a tuple .* or a dict .*; got .*; pass task=netopsy\.Task"
    ):
        default_inputs(batch)


def test_a_dict_without_labels_is_refused_with_its_keys() -> None:
    with pytest.raises(NetopsyError, match=r"one of labels, label, targets, target; got the keys input_ids, mask;"):
        default_targets({"input_ids": X, "mask": X})


# Logits ---------------------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize("output", [X, {"logits": X, "hidden": Y}, Output(X), (X, Y), [X]])
def test_logits_are_found_in_every_usual_output(output: Any) -> None:
    assert default_logits(output) is X


@pytest.mark.parametrize("output", [{"hidden": X}, SimpleNamespace(logits=None), (), ("a", X), None, 3.0])
def test_another_output_is_refused(output: Any) -> None:
    with pytest.raises(
        NetopsyError, match=r"model output: expected a tensor.*got \w+; pass task=netopsy\.Task\(logi"
    ):
        default_logits(output)


def test_every_part_can_be_the_users_own() -> None:
    task = Task(inputs=lambda b: ((b.x,), {}), targets=lambda b: b.y, logits=lambda out: out.mine)
    batch = SimpleNamespace(x=X, y=Y)
    assert task.inputs(batch) == ((X,), {})
    assert torch.equal(task.labels(batch), Y[:, None])
    assert task.logits(SimpleNamespace(mine=X)) is X


# Positions ------------------------------------------------------------------------------------------------------


def test_plain_classification_has_one_position() -> None:
    task = Task()
    logits = torch.randn(3, 5)
    labels = task.labels((X, Y))
    assert labels.shape == (3, 1)
    assert torch.equal(task.scores(logits, labels)[:, 0], logits)


def test_every_position_of_every_axis_counts() -> None:
    targets, logits = torch.randint(7, (3, 2, 4)), torch.randn(3, 2, 4, 7)
    labels = Task().labels((X, targets))
    scores = Task().scores(logits, labels)
    assert labels.shape == (3, 8)
    assert scores.shape == (3, 8, 7)
    assert labels[1, 6] == targets[1, 1, 2]
    assert torch.equal(scores[1, 6], logits[1, 1, 2])


def test_a_causal_language_model_predicts_the_next_token() -> None:
    tokens, logits = torch.tensor([[5, 6, 7], [1, 2, 3]]), torch.randn(2, 3, 9)
    task = Task(positions="next")
    labels = task.labels({"input_ids": tokens, "labels": tokens})
    assert labels.tolist() == [[6, 7], [2, 3]]
    assert torch.equal(task.scores(logits, labels), logits[:, :2])


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_every_integer_type_become_long(kind: torch.dtype) -> None:
    assert Task().labels((X, Y.to(kind))).dtype == torch.int64


def test_ignored_targets_take_no_part() -> None:
    labels = torch.tensor([[0, -100, 2]])
    assert Task().valid(labels).tolist() == [[True, False, True]]
    assert Task(ignore_index=0).valid(labels).tolist() == [[False, True, True]]


def test_the_loss_is_in_nats() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0, -torch.inf, -torch.inf]])
    expected = torch.log(torch.tensor([4.0, 4 / 3]))
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([2, 0])), expected)


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        (torch.ones(3), r"torch.float32 of shape \(3,\)"),
        (torch.eye(3), r"torch.float32 of shape \(3, 3\)"),
        (torch.tensor([True, False, True]), r"torch.bool of shape \(3,\)"),
        (torch.tensor(1), r"torch.int64 of shape \(\)"),
        (torch.ones(3, dtype=torch.complex64), r"torch.complex64 of shape \(3,\)"),
    ],
)
def test_targets_that_are_no_labels_are_refused(targets: Tensor, what: str) -> None:
    with pytest.raises(NetopsyError, match=rf"targets: expected integer class labels .*; got {what}; convert them w"):
        Task().labels((X, targets))


@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(2, 5), torch.tensor(0.0)])
def test_logits_of_another_batch_or_without_classes_are_refused(logits: Tensor) -> None:
    with pytest.raises(NetopsyError, match=r"logits: expected shape \(n, classes\) or .* with n = 3; got \("):
        Task().scores(logits, Task().labels((X, Y)))


def test_positions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NetopsyError, match="logits: 4 positions an example, but the targets have 1; expected logits"):
        Task().scores(torch.zeros(3, 4, 5), Task().labels((X, Y)))
    onehot = torch.eye(5, dtype=torch.int64)[:3]
    with pytest.raises(NetopsyError, match="logits: 1 positions an example, but the targets have 5; expected logits"):
        Task().scores(torch.zeros(3, 5), Task().labels((X, onehot)))


def test_an_unknown_order_of_positions_is_refused(unchecked: None) -> None:
    with pytest.raises(NetopsyError, match="positions: expected one of 'all', 'next'; got 'previous'"):
        Task(positions="previous")  # type: ignore[arg-type]
