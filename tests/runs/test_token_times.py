"""When each piece of an answer came: of the first choice, one time for each token, none for what came first."""

from __future__ import annotations

from tokmagic.core.stream import Finished, Logprob, Token, Usage
from tokmagic.runs.token_times import MOST_RUNS, KeptTimes, TokenTimes

MS = 1_000_000


def times(*events: Token | Finished) -> TokenTimes:
    made = TokenTimes()
    for event in events:
        made.add(event)
    return made


def test_each_piece_has_the_time_since_the_one_before_and_the_first_has_none() -> None:
    made = times(Token(5 * MS, "One", 1), Token(15 * MS, " two", 2), Token(45 * MS, " three", 3))
    assert made.pieces() == [("One", None), (" two", 10.0), (" three", 30.0)]
    assert made.by_token


def test_tokens_without_a_text_of_their_own_belong_to_the_piece_that_they_are_a_part_of() -> None:
    """A character of several tokens takes as long as they do; shown is what one of them took."""
    first = times(Token(0, "", 1), Token(10 * MS, "", 2), Token(40 * MS, "🚀", 3), Token(50 * MS, "!", 4))
    assert first.pieces() == [("🚀", 20.0), ("!", 10.0)]
    later = times(Token(0, "a", 1), Token(10 * MS, "", 2), Token(40 * MS, "🚀", 3), Token(99 * MS, "", 4))
    assert later.pieces() == [("a", None), ("🚀", 20.0)]


def test_the_text_that_was_held_back_has_no_time() -> None:
    end = Finished(at_ns=20 * MS, reasons=("stop",), usage=Usage(), tails=("…end", "other"))
    assert times(Token(0, "a", 1), end).pieces() == [("a", None), ("…end", None)]


def test_other_choices_and_what_has_no_content_are_left_out() -> None:
    made = times(Token(0, "a", 1), Token(5 * MS, "x", 9, choice=1), Token(7 * MS, ""), Token(10 * MS, "b", 2))
    assert made.pieces() == [("a", None), ("b", 10.0)]


def test_what_a_server_sends_at_once_is_no_token() -> None:
    pieces = Token(0, "One two", logprobs=(Logprob("One", -0.1), Logprob(" two", -2.5))), Token(30 * MS, " three")
    made = times(*pieces)
    assert not made.by_token
    assert made.pieces() == [("One two", None), (" three", 30.0)]
    assert made.logprobs == [("One", -0.1), (" two", -2.5)]


def test_only_the_latest_runs_are_kept() -> None:
    kept = KeptTimes()
    for number in range(MOST_RUNS + 2):
        kept.keep(str(number), TokenTimes())
    assert [kept.of(str(number)) is None for number in range(3)] == [True, True, False]
    assert kept.of(str(MOST_RUNS + 1)) is not None
