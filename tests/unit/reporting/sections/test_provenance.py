from __future__ import annotations

from layerlens.reporting.sections.provenance import provenance_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_model_data_seeds_versions_machine_and_commands_are_named() -> None:
    page = read_section(provenance_section(a_run()))
    facts = page.one("dl").text
    profile = artifacts.profile()
    for fact in (profile.model.id, profile.model.hash, profile.data.id, profile.data.hash, profile.identity):
        assert fact in facts
    assert "profile 0; plan 0; arms 0, 1, 2" in facts
    assert "torch 2.13.0" in facts
    assert artifacts.evaluation().machine in facts
    commands = [element.text for element in page.all("pre")]
    assert "layerlens demo" in commands
    assert artifacts.plan().metadata.command in commands


def test_a_command_that_made_several_files_stands_once() -> None:
    page = read_section(provenance_section(a_run()))
    assert page.all("p", class_="what")[0].text == "Profile and Evaluation"


def test_seconds_of_the_profile_add_up() -> None:
    found = rows(read_section(provenance_section(a_run())))
    assert found[-1][0] == "total"
    assert found[-1][1].replace("\u00a0", " ") == f"{sum(artifacts.timing().stages.values()):.0f} s"


def test_guessed_roles_are_admitted() -> None:
    guessed = artifacts.profile().model_copy(update={"is_roles_guessed": True})
    assert "guessed" in read_section(provenance_section(a_run(profile=guessed))).one("dl").text
    assert "guessed" not in read_section(provenance_section(a_run())).one("dl").text


def test_what_is_not_there_is_left_out() -> None:
    page = read_section(provenance_section(a_run(profile=None, timing=None, evaluation=None)))
    assert not page.all("table")
    assert artifacts.plan().metadata.profile in page.one("dl").text
