"""``%tokens`` and ``%%tokens`` in a real kernel, over tokenizers without weights; ``tokmagic count`` beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.commands import command_in, environment
from tests.kernels import Kernel, Ran, running_kernel
from tests.small_tokenizers import TRIMMING, byte_level, save

FOX = "The quick brown fox jumps over the lazy dog and then goes home. "
CELL = """\
--- system
Be {{ how }}.
--- user
One?
--- assistant
1
--- user
{{ doc }}!
"""
VARIABLES = f"how, doc = 'kind', {FOX!r} * 2\nchat = [{{'role': 'user', 'content': 'Hi there'}}]\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models without weights: each byte a token, one that learned the text, one without a chat template."""
    home = tmp_path_factory.mktemp("models")
    save(home / "bytes", byte_level())
    save(home / "learned", byte_level([FOX * 9]), TRIMMING)
    save(home / "base", byte_level(), None)
    return home


@pytest.fixture(scope="module")
def kernel(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    home = tmp_path_factory.mktemp("home")
    empty = str(tmp_path_factory.mktemp("empty"))
    with running_kernel(
        TOKMAGIC_HOME=str(home), TOKMAGIC_LEDGER=f"sqlite:///{home}/ledger.sqlite", TIKTOKEN_CACHE_DIR=empty
    ) as running:
        setup = [f"%model add {name} {folders / name}" for name in ("bytes", "learned", "base")]
        setup += ["%model add gpt gpt-4 --api-key-name KEY", "%model use bytes", "%price bytes --input 2 --output 8"]
        ran = running.run("\n".join(["%load_ext tokmagic", *setup, VARIABLES]))
        assert ran.ok, ran.error
        yield running


def text(ran: Ran) -> str:
    assert ran.ok, ran.error
    (shown,) = ran.results
    return str(shown["data"]["text/plain"])


def rows(shown: str) -> dict[str, list[str]]:
    """The lines of tables by their first cell."""
    split = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    return {cells[0]: cells[1:] for cells in split if len(cells) > 1}


def test_the_parts_of_a_cell_with_their_tokens_and_what_they_cost(kernel: Kernel) -> None:
    found = rows(text(kernel.run(f"%%tokens\n{CELL}")))
    size = len(FOX) * 2
    overhead = sum(2 + len(role) + 2 for role in ("system", "user", "assistant", "user")) + 2 + len("assistant")
    expected = {
        "system": 4,
        "system {{ how }}": 4,
        "example 1 user": 4,
        "example 1 assistant": 1,
        "user {{ doc }}": size,
        "user": 1,
        "template overhead": overhead,
        "total": 4 + 4 + 4 + 1 + size + 1 + overhead,
    }
    assert {name: int(found[name][0]) for name in expected} == expected
    # At $2 per 1M tokens, 1,000 calls cost $0.002 a token.
    for name, tokens in expected.items():
        assert Decimal(found[name][1].removeprefix("$")) == round(Decimal("0.002") * tokens, 4)


def test_the_count_is_that_of_the_dry_run(kernel: Kernel) -> None:
    counted = rows(text(kernel.run("%%tokens --system 'Be kind.'\nHi {{ doc }}")))["bytes"][0]
    dry = rows(text(kernel.run("%%generate --dry-run --system 'Be kind.'\nHi {{ doc }}")))["bytes"][0]
    assert counted == dry


def test_models_side_by_side(kernel: Kernel) -> None:
    shown = text(kernel.run(f"%%tokens -m bytes,learned -m scripted,gpt\n{CELL}"))
    found = rows(shown)
    own = int(found["bytes"][0])
    other = int(found["learned"][0])
    assert other < own
    assert found["learned"][1] == f"{other - own:+,} ({other / own - 1:+.1%})"
    assert found["scripted"] == found["gpt"] == ["—"] * 6
    assert "scripted has no tokenizer: it only plays back a fixed answer" in shown
    assert "gpt: the encoding cl100k_base of gpt-4 is not on this machine" in shown
    assert found["learned"][3:5] == ["—", "—"], "no rate is set for it"
    assert "bytes:\n⟦<|role|>⟧│s│y│s│t│e│m│" in shown
    assert "learned:\n⟦<|role|>⟧│" in shown


def test_what_could_go_and_what_it_saves(kernel: Kernel) -> None:
    found = rows(text(kernel.run("%%tokens\nRead this.   \n\n\n\n{{ doc }}\nNow answer")))
    assert found["repeated text"][:4] == ["1", "user 1", str(len(FOX)), f"${Decimal('0.002') * len(FOX):.4f}"]
    assert found["blank lines"][2] == "2"
    # The three blanks after the full stop, and the one that ends {{ doc }} before the line's end.
    assert found["spaces at line ends"][:3] == ["2", "user 1", "4"]
    assert found["all of it"][0] == str(len(FOX) + 2 + 3)


def test_what_a_text_holds_cannot_drive_a_terminal(kernel: Kernel) -> None:
    shown = text(kernel.run(r"%tokens ('\x1b[2J\x07 erase the screen \u202e now ' * 2)"))
    assert "repeated text" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown[shown.index("bytes:") :])
    assert "\x1b" not in shown


def test_a_text_is_counted_as_it_stands(kernel: Kernel) -> None:
    assert rows(text(kernel.run("%tokens 'a b  c \"{{ x }}\"'")))["bytes"][0] == "16"
    assert rows(text(kernel.run("%tokens -m 'learned' doc.upper() + \"-m\"")))["learned"][0].isdigit()
    assert rows(text(kernel.run("%tokens doc if True else 1")))["bytes"][0] == str(2 * len(FOX))


def test_a_chat_goes_through_the_template(kernel: Kernel) -> None:
    chat = int(rows(text(kernel.run("%tokens chat")))["bytes"][0])
    assert chat == int(rows(text(kernel.run("%%tokens\nHi there")))["bytes"][0]) > len("Hi there")
    assert rows(text(kernel.run("%tokens --system 'Hi' 'there'")))["system"][0] == "2"
    plain = rows(text(kernel.run("%%tokens --completion\nHi there")))
    assert plain["bytes"][0] == "8"
    assert "template overhead" not in plain


def test_a_generation_is_what_it_was_asked(kernel: Kernel) -> None:
    assert kernel.run("%%generate -m scripted --into answer --quiet\nHi there").ok
    assert rows(text(kernel.run("%tokens answer")))["user"][0] == "8"


def test_literal_braces_and_role_lines_are_text(kernel: Kernel) -> None:
    found = rows(text(kernel.run("%%tokens --literal\n--- system\n{{ nobody }}")))
    assert found["user"][0] == str(len("--- system\n{{ nobody }}"))


def test_the_view_is_a_value_and_shows_html(kernel: Kernel) -> None:
    ran = kernel.run(f"%%tokens -m bytes,learned --show 30\n{CELL}<script>alert(1)</script> $x$")
    html = ran.results[0]["data"]["text/html"]
    assert html.count("<details") == 2
    assert html.count("<details open>") == 1
    assert html.count('<span style="border-left') == 60
    assert "<script" not in html
    assert "more tokens not shown (--show N shows more)" in html
    assert kernel.value("[it.model for it in _.models]") == "['bytes', 'learned']"
    assert kernel.run("view = %tokens doc\nassert view.models[0].tokens == len(doc)").ok


def test_no_run_is_recorded_and_nothing_is_loaded(kernel: Kernel) -> None:
    runs = "len(list(__import__('tokmagic.runs.api').runs.api.ledger().runs()))"
    before = kernel.value(runs)
    text(kernel.run(f"%%tokens\n{CELL}"))
    assert kernel.value(runs) == before
    assert (
        kernel.value("__import__('tokmagic.runs.api').runs.api.session().models.engine('bytes').state") == "'unloaded'"
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("%tokens", "UsageError: %tokens needs what to count"),
        ("%tokens nobody", "UsageError: %tokens cannot evaluate 'nobody': NameError: name 'nobody' is not defined"),
        ("%tokens doc -m base", "or a string in quotes; -m stands before it, as in: %tokens -m smollm2 text"),
        ("%tokens doc --literal", "--literal stands before it, as in: %tokens -m smollm2 text"),
        ("%tokens 3", "UsageError: 3 is not a prompt; give a string, or a list of messages"),
        ("%tokens [3]", "UsageError: 3 is not a message"),
        ("%tokens --modle x doc", "UsageError: unknown option '--modle' (did you mean --model?)"),
        ("%tokens -m nobody doc", "UsageError: model 'nobody' is unknown"),
        ("%tokens -m scripted doc", "ModelError: scripted has no tokenizer"),
        ("%tokens -m gpt doc", "ModelError: the encoding cl100k_base of gpt-4 is not on this machine"),
        ("%tokens -m base chat", "PromptError: this model has no chat template; use --completion"),
        ("%tokens --completion chat", "UsageError: --completion takes a string"),
        ("%tokens --show -1 doc", "UsageError: --show is -1; give how many tokens to show"),
        ("%tokens '\\ud83d'", "PromptError: the prompt contains an incomplete character"),
        ("%%tokens\n{{ nobody }}", "PromptError: 'nobody' is undefined"),
        (
            "%%tokens\n  ",
            "PromptError: the prompt is empty; write what to ask, in a cell below the %%generate or %%tokens line",
        ),
        ("%%tokens hello\nHi", "UsageError: unknown word 'hello'"),
    ],
)
def test_what_cannot_be_counted_gets_one_line(kernel: Kernel, source: str, says: str) -> None:
    ran = kernel.run(source)
    assert not ran.ok
    assert says in ran.error
    assert "\n" not in ran.error


def test_help_names_both_forms(kernel: Kernel) -> None:
    shown = kernel.run("%tokens --help").stdout
    assert "%tokens [options] EXPR, or %%tokens [options]" in shown


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%model info bytes --batch x", "--batch 'x' is not a number from 1 to "),
        ("%model info bytes --context 0", "--context '0' is not a number from 1 to "),
        ("%model info bytes --context 1e99", "--context '1e99' is not a number from 1 to "),
        ("%model load bytes --context 5", "--context belongs to %model info"),
        ("%model load bytes --quant int8", "--quant belongs to %model add NAME SPEC"),
        ("%model use bytes --trust-remote-code", "--trust-remote-code belongs to %model add NAME SPEC"),
        ("%model info bytes --compile on", "--compile belongs to %model add NAME SPEC"),
        ("%model load bytes org/other", "SPEC belongs to %model add NAME SPEC"),
        ("%model load bytes --measure", "--measure belongs to %model info"),
        ("%model add s scripted --keep", "--keep belongs to %model load"),
        ("%model --all", "--all belongs to %model unload"),
        ("%model add s scripted\n%model info s --measure", "s has no weights on this machine; leave out --measure"),
        ("%model add x scripted --quant nf4", "--quant is not for a scripted model; leave out --quant nf4"),
        (
            "%model add x smollm2 --tokenizer gpt2",
            "--tokenizer is not for a model on this machine; leave out --tokenizer",
        ),
        ("%model add x smollm2 --server vllm", "--server is not for a model on this machine; leave out --server"),
        ("%model add x m.gguf --allow-pickle", "--allow-pickle is not for a GGUF file; leave out --allow-pickle"),
        ("%model add x gpt --api-base http://h/v1 --dtype bf16", "--dtype is not for a model at a server"),
        ("%model add x gpt --api-base http://h/v1 --compile on", "leave out --compile on"),
        ("%model add x gpt --api-base http://h/v1 --revision main", "--revision is not for a model at a server"),
        ("%model add x gpt --engine http://127.0.0.1:9 --device cpu", "leave out --device cpu"),
    ],
)
def test_options_of_model_that_mean_nothing(kernel: Kernel, line: str, says: str) -> None:
    ran = kernel.run(line)
    assert not ran.ok
    assert says in ran.error
    assert "\n" not in ran.error


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--device cpu --compile on", "on a CPU nothing is compiled"),
        ("--device cuda:1 --quant nf4 --compile on", "with --quant nf4 nothing is compiled"),
        ("--device cuda:1 --compile on", None),
        ("--device cpu --compile off", None),
        ("--device cpu", None),
    ],
)
def test_a_compilation_that_has_no_effect_is_told(kernel: Kernel, options: str, why: str | None) -> None:
    told = text(kernel.run(f"%model add here smollm2 {options}"))
    assert (f"here: --compile on has no effect: {why}" in told) is (why is not None)
    info = rows(text(kernel.run("%model info here")))
    assert info.get("--compile on") == (None if why is None else [f"no effect: {why}"])
    assert kernel.run("%model add here scripted").ok


def test_info_tells_what_a_tokenizer_was_read_from_once_it_was_read(kernel: Kernel, folders: Path) -> None:
    """Before, %model info would be the one to spend the time on it."""
    assert kernel.run(f"%model add far m --api-base http://localhost:9/v1 --tokenizer {folders / 'bytes'}").ok
    assert {"tokenizer", "compared"}.isdisjoint(rows(text(kernel.run("%model info far"))))
    assert kernel.run("%tokens -m far 'Hi'").ok
    told = rows(text(kernel.run("%model info far")))
    assert told["tokenizer"] == ["tokenizer.json, read by tokenizers"]
    assert re.fullmatch(r"transformers \S+ makes the same ids", told["compared"][0])


@pytest.mark.tiktoken
def test_an_openai_model_is_exact_for_a_text_and_marked_for_a_chat(kernel: Kernel, tiktoken_cache: Path) -> None:
    assert kernel.run(f"import os; os.environ['TIKTOKEN_CACHE_DIR'] = {str(tiktoken_cache)!r}").ok
    assert kernel.run("%price gpt --input 30 --output 60").ok
    plain = rows(text(kernel.run("%tokens -m gpt 'tiktoken is great!'")))
    assert (plain["gpt"][0], plain["gpt"][-1]) == ("6", "cl100k_base")
    assert plain["gpt"][-2] == "$0.1800"
    shown = text(kernel.run("%%tokens -m gpt\ntiktoken is great!"))
    chat = rows(shown)
    # Three and the role's name around the message, three for the answer.
    assert (chat["gpt"][0], chat["user"][0], chat["template overhead"][0]) == ("~13", "6", "~7")
    assert (chat["user"][1], chat["template overhead"][1]) == ("$0.1800", "~$0.2100")
    assert "~ is an estimate" in shown
    assert "⟦▢⟧│⟦▢⟧│⟦▢⟧│⟦▢⟧│t│ik│token│ is│ great│!│⟦▢⟧│⟦▢⟧│⟦▢⟧" in shown


@pytest.mark.model
def test_the_default_model_needs_no_weights(model_home: Path, tmp_path: Path) -> None:
    (folder,) = (it.parent for it in (model_home / "models").glob("*/tokenizer.json"))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "tokmagic.json"))
    with running_kernel(TOKMAGIC_HOME=str(tmp_path), TOKMAGIC_LEDGER=f"sqlite:///{tmp_path}/l.sqlite") as kernel:
        ran = kernel.run(f"%load_ext tokmagic\n%tokens -m {bare} [{{'role': 'user', 'content': 'Hi é👩'}}]")
    found = rows(text(ran))
    assert found["user"][0] == "5"
    assert int(found[str(bare)][0]) == 5 + int(found["template overhead"][0])
    assert "│Hi│ é│‹F0›‹9F›│‹91›│‹A9›│⟦<|im_end|>⟧" in text(ran)


def test_the_command_counts_for_several_models(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count, bytes_, learned = command_in(tmp_path, capsys), folders / "bytes", folders / "learned"
    one = count("count", "-m", str(bytes_), text=FOX)
    assert (one.returncode, one.stdout, one.stderr) == (0, f"{len(FOX)}\n", "")
    both = count("count", "-m", f"{bytes_}, {learned}", text=FOX)
    found = rows(both.stdout)
    assert found[str(bytes_)][0] == str(len(FOX))
    assert int(found[str(learned)][0]) < len(FOX)
    listed = count("count", "-m", str(bytes_), "-m", str(learned), "--json", text=FOX)
    first, second = json.loads(listed.stdout)
    assert first == {
        "model": str(bytes_),
        "tokens": len(FOX),
        "tokens_source": "counted",
        "difference": 0,
        "characters_per_token": 1.0,
        "cost_usd": None,
        "calls_1000_usd": None,
        "error": None,
        "tokenizer": first["tokenizer"],
    }
    assert second["difference"] == second["tokens"] - len(FOX) < 0
    assert second["characters_per_token"] == len(FOX) / second["tokens"], "unrounded"
    long = json.loads(count("count", "-m", str(bytes_), "--json", text="x" * 1234).stdout)
    assert long[0]["tokens"] == 1234
    wrong = count("count", "-m", "scripted,nobody", text=FOX)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("tokmagic: model 'nobody' is unknown")


def test_a_snapshot_without_weights_is_enough_to_count(tmp_path: Path) -> None:
    """As a count leaves it in the Hugging Face cache: the tokenizer's files of a model that was never loaded."""
    model = tmp_path / "hf" / "hub" / "models--owner--name"
    save(model / "snapshots" / ("0" * 40), byte_level())
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    more = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "TOKMAGIC_MODEL_SOURCE": "auto"}
    env = {**os.environ, **environment(tmp_path, **more)}

    def count(name: str) -> subprocess.CompletedProcess[str]:
        # In a process of its own: the hub's package reads HF_HOME once.
        command = [sys.executable, "-m", "tokmagic.cli", "count", "-m", name]
        return subprocess.run(command, input=FOX, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)

    done = count("owner/name")
    assert (done.returncode, done.stdout) == (0, f"{len(FOX)}\n"), done.stderr
    missing = count("owner/other")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "owner/other is not in the Hugging Face cache, and HF_HUB_OFFLINE blocks the hub" in missing.stderr


def test_a_tokenizer_that_tells_no_boundaries_still_counts(kernel: Kernel, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer(extra_ids=0).save_pretrained(str(tmp_path))
    assert kernel.run(f"%model add python {tmp_path}").ok
    shown = text(kernel.run("%tokens -m python,bytes 'né!'"))
    found = rows(shown)
    # Four bytes, and the end of the sequence.
    assert (found["python"][0], found["bytes"][0]) == ("5", "4")
    assert "python: this tokenizer gives only counts, no boundaries and no parts" in shown
    assert found["text"][0] == "4"
    alone = kernel.run("%tokens -m python 'né!'").results[0]["data"]
    assert "<details" not in alone["text/html"]
    assert rows(alone["text/plain"])["python"][0] == "5"
