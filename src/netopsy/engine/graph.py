"""A model as a list of pure steps, by `torch.export`: what an edit reaches is then a forward walk.

The state enters as explicit inputs, so that tied parameters and modules registered twice are one input each, and
`run_decompositions` makes in-place operations functional. Modules whose inputs or outputs are edited are marked by an
identity operator while the model is traced.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from netopsy.engine.edits import Bypass
from netopsy.engine.functional import Inputs, bind, examples, signature
from netopsy.engine.masked import Operation, Shape, Slots, batch_norm, is_batch_norm, operation_of
from netopsy.network.addresses import Address, named_state

aten = torch.ops.aten


Places: TypeAlias = frozenset[Address | Bypass | tuple[Address, int]]
"""What a variant edits; with an axis, units along it are masked."""


class ExportError(RuntimeError):
    """The model cannot be turned into steps; the eager engine runs it all the same."""


@torch.library.custom_op("netopsy::mark", mutates_args=(), schema="(Tensor value, str place) -> Tensor")
def _mark(value: Tensor, place: str) -> Tensor:
    return value.clone()


@_mark.register_fake
def _mark_fake(value: Tensor, place: str) -> Tensor:
    return torch.empty_like(value)


@dataclass(frozen=True)
class Step:
    """One pure operation: reads some slots, writes one.

    Attributes:
        run: slots -> the value.
        reads: slots it reads.
        writes: the slot it writes.
        place: `kind|module|call|item` where this is the identity that marks a module's input or output.
        shape: the value's sizes there, a symbol for the number of examples.
        operation: what it computes, where it may be told apart by units.
    """

    run: Callable[[Slots], Any]
    reads: tuple[int, ...]
    writes: int
    place: str | None = None
    shape: Shape = ()
    operation: Operation | None = None


@dataclass(frozen=True)
class Program:
    """A model for inputs of one signature, as steps in an order in which they can run.

    Attributes:
        steps: the operations the logits depend on.
        slots: how many slots they need.
        state: name of a parameter or buffer -> its slot (only those that are read).
        inputs: positions among the flattened inputs -> slot.
        constants: slot -> value of a tensor the model holds outside its state.
        output: the slot of the logits.
        places: every marked place, those that do not lead to the logits included.
        modules: every name of every module -> its first name, under which its places are.
        verified: sets of places whose edit was seen to agree with eager execution.
    """

    steps: tuple[Step, ...]
    slots: int
    state: Mapping[str, int]
    inputs: Mapping[int, int]
    constants: Mapping[int, Tensor]
    output: int
    places: frozenset[str]
    modules: Mapping[str, str]
    verified: set[Places]

    def load(self, state: Mapping[str, Tensor], inputs: Inputs) -> Slots:
        """Slots filled with the state, the constants and a batch's inputs."""
        slots: Slots = [None] * self.slots
        for name, slot in self.state.items():
            slots[slot] = state[name]
        for slot, value in self.constants.items():
            slots[slot] = value
        leaves = pytree.tree_leaves(inputs)
        for position, slot in self.inputs.items():
            leaf = leaves[position]
            slots[slot] = _channels_last(leaf) if isinstance(leaf, Tensor) else leaf
        return slots


def _channels_last(value: Tensor) -> Tensor:
    """Images in the layout in which the CPU's convolutions are fastest (1.5 times on ResNet-18); the rest as it is.

    A copy, not `contiguous`: with one channel that keeps the strides, and the layout would not be passed on.
    """
    if value.ndim != 4 or value.dtype != torch.float32:
        return value
    return torch.empty_like(value, memory_format=torch.channels_last).copy_(value)


_programs: WeakKeyDictionary[nn.Module, dict[Any, Program]] = WeakKeyDictionary()


def export(
    model: nn.Module, inputs: Inputs, logits: Callable[[Any], Tensor], marked: frozenset[str] = frozenset()
) -> Program:
    """Turn a model in eval mode into steps, or take the program made for this signature before.

    Args:
        model: the model; it is not changed, and the cache does not keep it alive.
        inputs: `(args, kwargs)` with at least two examples.
        logits: the model's output -> logits.
        marked: modules whose inputs and outputs are to be addressable.

    Raises:
        ExportError: when the model cannot be exported.
    """
    known = _programs.setdefault(model, {})
    shapes = tuple((name, value.shape, value.dtype, value.device) for name, value in named_state(model).items())
    try:
        reader: Any = ref(logits)  # it may hold the model
    except TypeError:  # operator.itemgetter and the like
        reader = logits
    key = (signature(inputs), reader, marked, repr(model), shapes)
    if key not in known:
        for gone in [other for other in known if isinstance(other[1], ref) and other[1]() is None]:
            del known[gone]
        try:
            known[key] = _compile(model, *_trace(model, inputs, logits, marked))
        except ExportError:
            raise
        except Exception as error:  # torch.export fails in as many ways as there are models
            raise ExportError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return known[key]


def forget(model: nn.Module) -> None:
    """Drop a model's programs (its structure has changed since they were made)."""
    _programs.pop(model, None)


def _trace(
    model: nn.Module, inputs: Inputs, logits: Callable[[Any], Tensor], marked: frozenset[str]
) -> tuple[torch.export.ExportedProgram, list[str], set[str]]:
    """The exported model, the names of its state in input order, and the places that were marked."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        raise ExportError("the model has forward hooks")
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise ExportError("the model has ScriptModules")
    n, call = examples(inputs), bind(model)

    class Functional(nn.Module):
        def forward(self, state: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            return logits(call(state, (args, kwargs)))

    batch = torch.export.Dim("batch")

    def dynamic(leaf: Any) -> dict[int, Any] | None:
        return {0: batch} if isinstance(leaf, Tensor) and leaf.shape[:1] == (n,) else None

    state = {name: value.detach() for name, value in named_state(model).items()}
    shapes = (dict.fromkeys(state), *(pytree.tree_map(dynamic, part) for part in inputs))
    places: set[str] = set()
    hooks = _mark_modules(model, marked, places)
    try:
        with torch.no_grad(), _silenced():
            exported = torch.export.export(Functional(), (state, *inputs), dynamic_shapes=shapes, strict=False)
            return exported.run_decompositions({}), list(state), places
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what torch says while it traces: of a model that it cannot trace it prints the whole graph."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _mark_modules(
    model: nn.Module, marked: frozenset[str], places: set[str]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks that mark every floating tensor that enters or leaves the named modules, and note the places."""
    handles = []
    marked_modules = {module for name, module in model.named_modules(remove_duplicate=False) if name in marked}
    for name, module in model.named_modules():
        if module not in marked_modules:
            continue
        calls = [-1]

        def mark(values: Any, kind: str, name: str = name, calls: list[int] = calls) -> Any:
            leaves, spec = pytree.tree_flatten(values)
            item = 0
            for i, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    place = f"{kind}|{name}|{calls[0]}|{item}"
                    places.add(place)
                    leaves[i] = _mark(leaf, place)
                    item += 1
            return pytree.tree_unflatten(leaves, spec)

        def enter(module: nn.Module, args: Any, kwargs: Any, mark: Any = mark, calls: list[int] = calls) -> Any:
            calls[0] += 1
            return mark((args, kwargs), "input")

        def leave(module: nn.Module, args: Any, output: Any, mark: Any = mark) -> Any:
            return mark(output, "output")

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    return handles


def _compile(
    model: nn.Module, exported: torch.export.ExportedProgram, state: Iterable[str], places: Iterable[str]
) -> Program:
    """Number the values of an exported graph and make a closure of each operation the logits depend on."""
    graph = exported.graph
    results = graph.output_node().args[0]
    (logits,) = [
        node
        for node, spec in zip(results, exported.graph_signature.output_specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    needed: set[torch.fx.Node] = set()
    stack = [logits]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    slot = {node: i for i, node in enumerate(node for node in graph.nodes if node in needed)}

    names = list(state)
    state_slots: dict[str, int] = {}
    input_slots: dict[int, int] = {}
    constants: dict[int, Tensor] = {}
    by_name = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    position = 0
    for spec in exported.graph_signature.input_specs:
        placeholder = None if isinstance(spec.arg, ConstantArgument) else by_name.get(spec.arg.name)
        where = slot.get(placeholder) if placeholder is not None else None
        if spec.kind is InputKind.USER_INPUT:
            if where is not None and position < len(names):
                state_slots[names[position]] = where
            elif where is not None:
                input_slots[position - len(names)] = where
            position += 1
        elif where is not None:
            constants[where] = exported.constants[str(spec.target)]

    steps = []
    for node in graph.nodes:
        if node not in needed or node.op == "placeholder":
            continue
        if node.op != "call_function" or isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ExportError(f"the graph has control flow ({node.op} {node.target})")
        steps.append(_step(node, slot))
    first = {module: name for name, module in model.named_modules()}
    modules = {name: first[module] for name, module in model.named_modules(remove_duplicate=False)}
    return Program(
        tuple(steps), len(slot), state_slots, input_slots, constants, slot[logits], frozenset(places), modules, set()
    )


def _step(node: torch.fx.Node, slot: Mapping[torch.fx.Node, int]) -> Step:
    reads = tuple(slot[n] for n in node.all_input_nodes)
    if node.target is torch.ops.netopsy.mark.default:
        shape = tuple(str(size) for size in node.meta["val"].shape)
        operation = operation_of(node, aten.alias.default, node.args[:1], slot)
        return Step(_same(reads[0]), reads, slot[node], str(node.args[1]), shape, operation)
    function: Any = node.target
    if function is operator.getitem and is_batch_norm(node.args[0]):
        if node.args[1] != 0:
            raise ExportError("the statistics of a batch normalization are used")
        return Step(
            _same(reads[0]), reads, slot[node], operation=operation_of(node, aten.alias.default, node.args[:1], slot)
        )
    if is_batch_norm(node):
        function = batch_norm
    operation = operation_of(node, function, node.args, slot)
    if function is aten.view.default:
        function = aten.reshape.default  # images are held channels last, which a view may not flatten
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    refs = [(i, slot[leaf]) for i, leaf in enumerate(leaves) if isinstance(leaf, torch.fx.Node)]
    template = [None if isinstance(leaf, torch.fx.Node) else leaf for leaf in leaves]
    if not node.kwargs and not any(isinstance(arg, list | tuple | dict | slice) for arg in node.args):  # no tree

        def run(slots: Slots) -> Any:
            args = template.copy()
            for i, s in refs:
                args[i] = slots[s]
            return function(*args)

    else:

        def run(slots: Slots) -> Any:
            filled = template.copy()
            for i, s in refs:
                filled[i] = slots[s]
            args, kwargs = pytree.tree_unflatten(filled, spec)
            return function(*args, **kwargs)

    return Step(run, reads, slot[node], operation=operation)


def _same(source: int) -> Callable[[Slots], Any]:
    return lambda slots: slots[source]
