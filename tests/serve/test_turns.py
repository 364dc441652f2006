"""Whose request goes next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tokmagic.serve.failures import ApiError
from tokmagic.serve.turns import Turns


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))  # type: ignore[arg-type]


def test_one_request_of_one_key_does_not_wait_for_a_thousand_of_another() -> None:
    async def scenario() -> None:
        turns, order = Turns(2, 2000), []

        async def ask(key: str) -> None:
            await turns.enter(key)
            order.append(key)
            await asyncio.sleep(0)
            turns.leave(key, 0.01)

        many = [asyncio.create_task(ask("many")) for _ in range(1000)]
        await asyncio.sleep(0)
        one = asyncio.create_task(ask("one"))
        await asyncio.gather(*many, one)
        assert order.index("one") <= 4
        assert (turns.running, turns.waiting) == (0, 0)

    run(scenario)


def test_places_are_shared_among_keys_that_wait() -> None:
    async def scenario() -> None:
        turns = Turns(6, 100)
        for key in "abc":
            for _ in range(20):
                asyncio.get_running_loop().create_task(turns.enter(key))
        await asyncio.sleep(0)
        # The first key had all places before the others came.
        for _ in range(4):
            turns.leave("a", 0.01)
        assert sorted(line.running for line in turns._lines.values()) == [2, 2, 2]

    run(scenario)


def test_within_a_key_the_oldest_goes_first() -> None:
    async def scenario() -> None:
        turns, order = Turns(1, 10), []

        async def ask(number: int) -> None:
            await turns.enter("a")
            order.append(number)
            turns.leave("a", 0.0)

        await turns.enter("a")
        waiting = [asyncio.create_task(ask(number)) for number in range(5)]
        await asyncio.sleep(0)
        turns.leave("a", 0.0)
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4]

    run(scenario)


def test_over_the_limit_the_answer_is_429_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        turns = Turns(1, 1)
        await turns.enter("a")
        waits = asyncio.create_task(turns.enter("a"))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="1 requests run and 1 wait already") as refused:
            await turns.enter("b")
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert refused.value.headers["retry-after"].isdigit()
        turns.leave("a", 3.0)
        await waits

    run(scenario)


@pytest.mark.parametrize("free", ["before it leaves", "just as it leaves", "after it has left"])
def test_clients_that_leave_while_they_wait_take_no_place(free: str) -> None:
    async def scenario() -> None:
        turns = Turns(1, 10)
        await turns.enter("a")
        leave = [asyncio.create_task(turns.enter("b")) for _ in range(2)]
        await asyncio.sleep(0)
        if free == "before it leaves":
            turns.leave("a", 0.1)
        for task in leave:
            task.cancel()
        if free == "just as it leaves":  # they have not noticed yet that they are to go
            turns.leave("a", 0.1)
        told = await asyncio.gather(*leave, return_exceptions=True)
        assert all(isinstance(it, asyncio.CancelledError) for it in told), told
        if free == "after it has left":
            turns.leave("a", 0.1)
        assert (turns.running, turns.waiting) == (0, 0)
        await turns.enter("c")

    run(scenario)
