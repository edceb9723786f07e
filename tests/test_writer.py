"""The thread that writes: order, waiting, errors."""

from __future__ import annotations

import threading

import pytest

from netopsy.training.writer import AHEAD, Writer


def broken() -> None:
    raise OSError("no space left")


def test_writes_run_in_order_on_another_thread() -> None:
    seen: list[tuple[int, bool]] = []
    main = threading.main_thread()
    with Writer() as writer:
        for number in range(20):
            writer.submit(lambda number=number: seen.append((number, threading.current_thread() is main)))
    assert seen == [(number, False) for number in range(20)]


def test_the_caller_waits_only_when_enough_writes_are_in_hand() -> None:
    gate, done = threading.Event(), threading.Event()
    writer = Writer()
    for _ in range(AHEAD):
        writer.submit(gate.wait)  # returns, though nothing can be written

    def one_more() -> None:
        writer.submit(lambda: None)
        done.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not done.wait(0.05)
    gate.set()
    thread.join()
    writer.close()


def test_ready_waits_until_the_oldest_write_is_over() -> None:
    gates = [threading.Event() for _ in range(AHEAD)]
    over: list[int] = []

    def write(number: int) -> None:
        gates[number].wait()
        over.append(number)

    with Writer() as writer:
        for number in range(AHEAD):
            writer.submit(lambda number=number: write(number))
        timer = threading.Timer(0.02, gates[0].set)
        timer.start()
        writer.ready()
        assert over == [0]
        for gate in gates:
            gate.set()


def test_an_error_comes_out_at_every_later_call_and_nothing_more_is_written() -> None:
    seen: list[int] = []
    writer = Writer()
    writer.submit(lambda: seen.append(0))
    writer.submit(broken)
    with pytest.raises(OSError, match="no space left"):  # noqa: PT012 (which call raises depends on the thread)
        for number in range(1, 10):
            writer.submit(lambda number=number: seen.append(number))
    for call in (lambda: writer.submit(lambda: seen.append(99)), writer.ready, writer.close):
        with pytest.raises(OSError, match="no space left"):
            call()
    assert seen == [0]


def test_close_raises_the_error_of_the_last_write() -> None:
    writer = Writer()
    writer.submit(broken)
    with pytest.raises(OSError, match="no space left"):
        writer.close()


def test_the_blocks_own_error_goes_on_with_the_writes_noted_on_it() -> None:
    def block() -> None:
        with Writer() as writer:
            writer.submit(broken)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        block()
    assert caught.value.__notes__ == ["besides, a write failed: no space left"]


def test_a_writes_error_that_ends_the_block_is_not_noted_on_itself() -> None:
    def block() -> None:
        with Writer() as writer:
            writer.submit(broken)
            while True:
                writer.submit(lambda: None)

    with pytest.raises(OSError, match="no space left") as caught:
        block()
    assert not getattr(caught.value, "__notes__", [])


def test_what_was_submitted_is_written_when_the_block_raises() -> None:
    seen: list[int] = []

    def block() -> None:
        with Writer() as writer:
            writer.submit(lambda: seen.append(1))
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert seen == [1]
