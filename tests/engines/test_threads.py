"""How many threads a step runs on, with a clock that goes as a machine would: idle, and beside a busy process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.model

IDLE = {1: 0.05, 2: 0.03}
BUSY = {1: 0.06, 2: 1.0}


class Machine:
    """Steps take as long as its table says for the number of threads that they run on."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.takes_s = IDLE
        self.ran_on: list[int] = []

    def step(self) -> None:
        import torch

        self.ran_on.append(torch.get_num_threads())
        self.now_s += self.takes_s[torch.get_num_threads()]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    import torch

    from tokmagic.engines.local import threads

    before, made = torch.get_num_threads(), Machine()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: made.now_s)
    yield made
    torch.set_num_threads(before)


def test_an_idle_machine_is_used_whole_and_trials_cost_little(machine: Machine) -> None:
    from tokmagic.engines.local.threads import Threads

    threads = Threads()
    for _ in range(1000):
        threads.run(1, machine.step)
    alone = machine.ran_on.count(1)
    assert alone >= 1
    assert alone * IDLE[1] <= machine.now_s / 20


def test_beside_a_busy_process_one_thread_is_found_and_kept_until_it_is_over(machine: Machine) -> None:
    from tokmagic.engines.local.threads import Threads

    threads = Threads()
    machine.takes_s = BUSY
    for _ in range(1000):
        threads.run(1, machine.step)
    assert machine.ran_on[:6] == [2, 1, 1, 2, 1, 1], "once more to be sure"
    slow = machine.ran_on.count(2)
    assert slow * BUSY[2] <= machine.now_s / 10
    machine.takes_s = IDLE
    for _ in range(1000):
        threads.run(1, machine.step)
    assert machine.ran_on[-500:].count(2) > 450


def test_a_step_that_was_held_up_by_chance_changes_nothing_for_long(machine: Machine) -> None:
    """Not for a prompt either, the steps of which are compared with none."""
    from tokmagic.engines.local.threads import Threads

    threads = Threads()
    for _ in range(200):
        threads.run(1, machine.step)
    before = len(machine.ran_on)
    threads.run(1, lambda: (machine.step(), setattr(machine, "now_s", machine.now_s + 5))[0])
    for _ in range(5):
        threads.run(1, machine.step)
    threads.run(None, machine.step)
    assert 1 in machine.ran_on[before:], "it was tried"
    assert machine.ran_on[-1] == 2


def test_only_steps_of_one_size_are_compared(machine: Machine) -> None:
    from tokmagic.engines.local.threads import Threads

    threads = Threads()
    for size in (1, 2, 3, None, None, 4, None, 4):
        threads.run(size, machine.step)
    assert machine.ran_on == [2] * 8


def test_the_threads_are_given_back(machine: Machine) -> None:
    import torch

    from tokmagic.engines.local.threads import Threads
    from tokmagic.engines.local.threads import threads as on

    threads = Threads()
    machine.takes_s = BUSY
    for _ in range(3):
        threads.run(1, machine.step)
    assert torch.get_num_threads() == 1
    threads.restore()
    assert torch.get_num_threads() == 2
    with on(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_one_thread_is_never_more(machine: Machine) -> None:
    import torch

    from tokmagic.engines.local.threads import Threads

    torch.set_num_threads(1)
    threads = Threads()
    for _ in range(50):
        threads.run(1, machine.step)
    assert set(machine.ran_on) == {1}
