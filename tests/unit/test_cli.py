"""The command line translates; it decides nothing."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from layerlens import cli
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_command_every_command_is_listed(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"  {name}" in printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_commands_help_has_every_field_of_its_config_with_its_description(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    command = cli.COMMANDS[name]
    for field, info in command.config.model_fields.items() if command.config else []:
        assert f"--{field.replace('_', '-')}" in printed
        assert info.description
        assert info.description.split(";")[0][:30] in printed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "plan",
            "--methods {lora,adapter,prefix,none},... methods a site may get; none is always one of them (default: lora,none)",
        ),
        ("plan", "--out OUT the plan to write (default: plan.json)"),
        ("profile", "--device {auto,cpu,cuda} what computes"),
        ("profile", "--data DATA stdlib-docs, a file, a folder of images or a hub data set (required)"),
        ("profile", "with less, blocks are computed again more often (default: 1GB)"),
        ("tune", "--fit-head [{true,false}] fit a random head on frozen features before training (default: true)"),
        ("compress", "--role-ranks NAME=NUMBER,... rank"),
        ("compress", "--keep KEEP,... layers"),
        ("evaluate", "--out OUT the evaluation to write (default: evaluation.json)"),
    ],
)
def test_help_tells_values_defaults_and_what_is_required(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert told in " ".join(capsys.readouterr().out.split())


def test_every_fault_of_an_option_names_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "p", "--max-flops", "-1", "--min-rank", "zero"]) == 2
    said = capsys.readouterr().err
    assert "--max-flops" in said
    assert "--min-rank" in said
    assert len(said.splitlines()) == 1


def test_an_alias_means_its_option() -> None:
    command = cli.COMMANDS["plan"]
    values = cli._parse(cli._parser("plan", command), ["p", "--methods", "lora", "--max-flops", "5"])
    assert values["candidate_methods"] == "lora"
    config = cli._config(OptimizationConfig, {key: values[key] for key in ("candidate_methods", "max_flops")})
    assert isinstance(config, OptimizationConfig)
    assert [method.value for method in config.candidate_methods] == ["lora"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--input_dir", "m", "--output_dir", "o", "--rank", "8"], ["m", "--out", "o", "--rank", "8"]),
        (["--rank=8", "--quant_bits=4", "--input_dir=m"], ["m", "--rank=8", "--quant-bits=4"]),
        (["m", "--min_dim_for_compression", "64"], ["m", "--min-dim", "64"]),
        (["m", "--out", "o"], ["m", "--out", "o"]),
    ],
)
def test_an_older_spelling_means_what_it_is_called_now(typed: list[str], meant: list[str]) -> None:
    command = cli.COMMANDS["compress"]
    parser = cli._parser("compress", command)
    assert cli._parse(parser, cli._respelt(command, typed)) == cli._parse(parser, meant)


def typed(name: str, *words: str) -> dict[str, Any]:
    """What an option that is not left out has been given."""
    command = cli.COMMANDS[name]
    values = cli._parse(cli._parser(name, command), cli._spelt_out(command, cli._respelt(command, words)))
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    "words",
    [
        ("m", "--keep", "a", "--keep", "b"),
        ("m", "--keep", "a", "b"),
        ("m", "--keep=a", "b", "--out", "o"),
        ("m", "--keep", "a,b"),
        ("--keep", "a", "--keep", "b", "m"),
        ("--input_dir", "m", "--keep", "a", "--keep", "b"),
    ],
)
def test_a_list_may_be_typed_in_parts(words: tuple[str, ...]) -> None:
    found = typed("compress", *words)
    assert (found["model"], found["keep"]) == ("m", "a,b")


def test_a_mapping_may_be_typed_in_parts_and_takes_the_place_of_a_files(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("keep: [x, y]\nrole_ranks: {mlp.up: 64}\n")
    ranks = ("--role-ranks", "mlp.up=16", "--role-ranks", "mlp.*=32")
    assert typed("compress", "m", "--config", str(file), *ranks)["role_ranks"] == "mlp.up=16,mlp.*=32"
    assert typed("compress", "m", "--config", str(file))["keep"] == ["x", "y"]
    assert typed("plan", "p", "--methods", "lora", "none")["candidate_methods"] == "lora,none"


@pytest.mark.parametrize(
    ("content", "said"), [("max_rnk: 4\nmax_rank: 4\n", "unknown key max_rnk; see"), ("max_rank: [4\n", "Problems parsing")]
)
def test_what_is_wrong_in_a_file_of_options_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(content)
    assert cli.main(["plan", "p", "--min-rank", "2", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"layerlens: --config {file}: {said}")


def test_words_that_may_be_the_argument_are_taken_for_no_part_of_a_list() -> None:
    assert typed("compress", "--keep", "a", "m")["model"] == "m"
    with pytest.raises(ConfigError, match="unrecognized arguments: m"):
        typed("compress", "--keep", "a", "b", "m")
    with pytest.raises(ConfigError, match="unrecognized arguments: 4"):
        typed("compress", "m", "--size", "3", "4")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("m", "--leave-one-out"), "true"),
        (("m", "--leave-one-out", "--size", "1"), "true"),
        (("--leave-one-out", "m"), "true"),
        (("--leave-one-out", "off", "m"), "off"),
        (("m", "--leave-one-out", "false"), "false"),
    ],
)
def test_a_bare_switch_is_true(words: tuple[str, ...], value: str) -> None:
    found = typed("compress", *words)
    assert (found["model"], found["leave_one_out"]) == ("m", value)


@pytest.mark.parametrize(("name", "option"), [("compress", "probes"), ("profile", "proxy")])
def test_off_in_a_file_means_what_it_means_when_typed(tmp_path: Path, name: str, option: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"{option}: off\n")
    model = cli.COMMANDS[name].config
    assert model is not None
    target = {"size": 1} if name == "compress" else {}
    config = cli._config(model, {option: typed(name, "m", "--config", str(file))[option], **target})
    assert getattr(config, option) == "off"


def test_debug_shows_the_traceback_beside_the_line_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frobnicate", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("layerlens: unknown command 'frobnicate'")


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["plan"]) == 130
    assert "again" in capsys.readouterr().err


def test_signs_that_a_terminal_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert cli.main(["tune", "--help"]) == 0
    assert b"full=5e-5,?" in shown.getvalue()
