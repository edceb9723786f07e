"""evaluate: the single verb. A model and its variants on some data, exactly or until what is asked is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netopsy._checks import NetopsyError, one_of
from netopsy._random import derive, forked
from netopsy.engine.batches import check_batch, open_data, read_batch
from netopsy.engine.edits import Variant
from netopsy.engine.evaluation import Evaluation, Stop, Stopping
from netopsy.engine.execution import PROBE, Engine, Execution, check_deterministic
from netopsy.engine.functional import examples as examples_of
from netopsy.engine.progress import Progress
from netopsy.engine.reducers import Metric, check_metrics, metric_name
from netopsy.engine.run import Run
from netopsy.engine.saved import delete_saved
from netopsy.engine.stream import BASELINE
from netopsy.engine.values import Values
from netopsy.network.addresses import canonical_names, evaluation_mode, named_state, unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import Task


def evaluate(
    model: nn.Module,
    data: Any,
    variants: Sequence[Variant] = (),
    *,
    task: Task | None = None,
    metrics: Sequence[Metric] = ("error", "loss"),
    stop: Stop | Stopping = "exact",
    examples: Sequence[str] = (),
    seed: int = 0,
    engine: Engine = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    saved: Path | None = None,
    keep_saved: bool = False,
) -> Evaluation:
    """Measure a network and variants of it on one data set.

    Args:
        model: any module; it is bit-identical afterwards, also after an exception.
        data: a pair of tensors, a dict of tensors, a list of batches, an unshuffled DataLoader or a Dataset.
        variants: what to compare with the unedited network.
        task: how batches are read; by default `(x, y)` and Hugging Face style dicts.
        metrics: of `"error"`, `"loss"`, `"unchanged"` and functions `(logits, targets) -> values`.
        stop: when a variant has been seen enough; a `Stopping` sets precision, tolerance, confidence, estimand.
        examples: metrics of which each example's value is kept.
        seed: of the order of the examples.
        engine: `"auto"` takes the exported engine where it agrees with eager execution, and says so if not.
        batch_size: examples a batch; by default as the data have it, else 256.
        progress: called with the examples done and their total (None where unknown).
        saved: a file that holds how far the pass has come, written every few seconds and at an interruption. If it is
            there, the pass goes on from it, with the result, bit for bit, of one never interrupted; the first batch
            is run again, to see that it is the same work. It is deleted when the pass is done.
        keep_saved: keep it instead: asked again, the finished pass is then read from it.

    Raises:
        NetopsyError: for data, models, variants or options that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    with opened(
        model,
        data,
        variants,
        task=task,
        metrics=metrics,
        stop=stop,
        examples=examples,
        seed=seed,
        engine=engine,
        batch_size=batch_size,
        progress=progress,
    ) as run:
        evaluation = _evaluation(run, run.go(saved, keep=keep_saved), started)
    if saved is not None and not keep_saved:
        delete_saved(saved)
    return evaluation


@contextmanager
def opened(
    model: nn.Module,
    data: Any,
    variants: Sequence[Variant],
    *,
    task: Task | None,
    metrics: Sequence[Metric],
    stop: Stop | Stopping,
    examples: Sequence[str],
    seed: int,
    engine: Engine,
    batch_size: int | None,
    progress: Callable[[int, int | None], object] | None = None,
) -> Iterator[Run]:
    """Everything that comes before the first batch; inside the block the model is in eval mode, without gradients."""
    rule = stop if isinstance(stop, Stopping) else Stopping(rule=stop)
    task = task or Task()
    one_of("engine", engine, ("auto", "exported", "eager"))
    check_metrics(metrics)
    for name in examples:
        one_of("examples", name, [metric_name(metric) for metric in metrics])
    model = unwrap(model)
    check_parameters(model)
    with _untouched(model, seed):
        source = open_data(data, batch_size=batch_size, seed=seed)
        if rule.rule != "exact" and not source.drawn:
            raise NetopsyError(
                f"stop={rule.rule!r}: needs examples in random order, which these data do not allow; pass tensors, "
                "batches of one shape or a map-style DataLoader, or use stop='exact'"
            )
        first = source.first()
        state = {name: value.detach() for name, value in named_state(model).items()}
        labels, inputs = read_batch(task, first)
        logits = check_deterministic(model, state, task, inputs)
        classes = task.scores(logits, labels[:PROBE] if examples_of(inputs) else labels).shape[-1]
        check_batch(task, source.whole or first, classes, "the data" if source.whole else "the first batch")
        values = Values(state, canonical_names(model), tuple(variants))
        silent = {row for row in range(len(variants)) if values.is_no_op(row)}
        rows = [row for row in range(len(variants)) if row not in silent]
        execution = Execution(model, state, task, values, rows, engine)
        idle = execution.unreached(inputs)
        yield Run(
            source=source,
            execution=execution,
            metrics=tuple(metrics),
            rule=rule,
            classes=classes,
            silent=frozenset(silent),
            idle=idle,
            examples=tuple(examples),
            seed=seed,
            progress=progress,
        )


def _evaluation(run: Run, progress: Progress, started: float) -> Evaluation:
    """The answer, from the sums."""
    tally, paired, asked, done = progress.tally, progress.paired, run.asked, progress.done
    if not tally.positions[BASELINE]:
        raise NetopsyError(
            f"targets: expected some to count; all are the ignore_index {run.execution.task.ignore_index}"
        )
    sequence = progress.sequence.restored(progress.sequence.arrays())
    sequence.update(np.arange(len(asked)), progress.unseen)
    silent = sorted(run.silent | (run.idle - progress.arrived))
    variants = run.execution.values.variants
    means = tally.means()
    low, high, delta = np.zeros(len(variants)), np.zeros(len(variants)), np.zeros(len(variants))
    low[asked], high[asked] = sequence.low[: len(asked)], sequence.high[: len(asked)]
    delta[asked] = paired[asked] / np.maximum(tally.positions[asked], 1)
    low, high = np.minimum(low, delta), np.maximum(high, delta)
    low[silent] = high[silent] = 0
    metrics = {name: value[:-1].copy() for name, value in means.items()}
    for name, value in metrics.items():
        value[silent] = means[name][BASELINE]
    n = tally.examples[:-1].copy()
    n[silent] = tally.examples[BASELINE]
    status = ["non-finite" if bad else "ok" for bad in tally.bad[:-1]]
    for row in silent:
        status[row] = "no-op"
    whole = run.rule.rule == "exact" or run.source.total == done
    values = {}
    for name in run.examples:
        size = done if run.source.total is None else run.source.total
        values[name] = np.full((len(variants) + 1, size), np.nan)
        for order, part in progress.kept:
            values[name][:, order] = part[name]
        values[name][silent] = values[name][BASELINE]
    provenance = {
        "engine": progress.used,
        "engine_reasons": list(progress.reasons),
        "stop": run.rule.rule,
        "estimand": run.rule.estimand,
        "confidence": run.rule.confidence,
        "precision": run.rule.precision,
        "tolerance": run.rule.tolerance,
        "seed": run.seed,
        "data": run.source.fingerprint,
        "examples": run.source.total if run.source.total is not None else done,
        "whole": whole,
        "torch": torch.__version__,
        "seconds": time.perf_counter() - started,
    }
    return Evaluation(
        labels=tuple(variant.label for variant in variants),
        baseline={name: float(value[BASELINE]) for name, value in means.items()},
        metrics=metrics,
        baseline_error=progress.wrong / int(tally.positions[BASELINE]),
        delta_error=delta,
        delta_error_low=low,
        delta_error_high=high,
        n=n,
        baseline_n=int(tally.examples[BASELINE]),
        status=tuple(status),
        bad=tally.bad[:-1],
        examples=values,
        classes=run.classes,
        chance=1 - 1 / run.classes,
        provenance=provenance,
    )


@contextmanager
def _untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Eval mode, no gradients, and random generators of our own inside the block."""
    with evaluation_mode(model), torch.no_grad(), forked(derive(seed, "evaluate")):
        yield
