"""What no other tool can say is refused, and nothing of anybody else's is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.plan import Plan
from layerlens.errors import ConfigError
from layerlens.exporting.exported import Tool
from layerlens.exporting.run import write_export
from layerlens.words import Method, Site
from tests.unit.exporting.plans import made

LANGUAGE_TOOLS = [tool for tool in Tool if tool is not Tool.PEFT]


def _mixed(plan: Plan) -> Plan:
    adapter = plan.layers[3].model_copy(update={"method": Method.ADAPTER, "site": Site.SUBLAYER, "size": 2})
    prefix = plan.layers[0].model_copy(update={"layer": "model.layers.0.self_attn", "method": Method.PREFIX, "size": 2})
    return plan.model_copy(update={"layers": [*plan.layers, adapter, prefix]})


@pytest.mark.parametrize("tool", Tool)
def test_a_mixed_plan_is_refused_by_naming_its_sites(tool: Tool, tmp_path: Path) -> None:
    _, plan = made("llama", tmp_path / "model")
    with pytest.raises(ConfigError) as refused:
        write_export(_mixed(plan), tool, tmp_path / "out")
    said = str(refused.value)
    assert (
        "2 sites that no other tool knows: model.layers.0.self_attn.o_proj (adapter), model.layers.0.self_attn (prefix)" in said
    )
    assert "--methods lora,none" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", LANGUAGE_TOOLS)
def test_tools_for_language_models_refuse_other_tasks(tool: Tool, tmp_path: Path) -> None:
    _, plan = made("bert", tmp_path / "model")
    with pytest.raises(ConfigError, match="trains language models, the plan is of classification; export it with --to peft"):
        write_export(plan, tool, tmp_path / "out")


@pytest.mark.parametrize("tool", LANGUAGE_TOOLS)
def test_alphas_that_are_not_whole_are_refused_where_they_cannot_be_said(tool: Tool, tmp_path: Path) -> None:
    _, plan = made("llama", tmp_path / "model", alpha_over_rank=0.5)
    with pytest.raises(ConfigError, match=r"takes whole alphas alone, and with alpha / rank 0.5 .* has 0.5; plan again"):
        write_export(plan, tool, tmp_path / "out")
    write_export(plan, Tool.PEFT, tmp_path / "out")


def test_a_plan_of_nothing_is_refused(tmp_path: Path) -> None:
    _, plan = made("llama", tmp_path / "model", {})
    with pytest.raises(ConfigError, match="adapts no layer"):
        write_export(plan, Tool.PEFT, tmp_path / "out")


def test_files_of_another_content_are_never_overwritten(tmp_path: Path) -> None:
    _, plan = made("llama", tmp_path / "model")
    write_export(plan, Tool.TRL, tmp_path / "out")
    write_export(plan, Tool.TRL, tmp_path / "out")
    (tmp_path / "out" / "trl.yaml").write_text("mine: true\n")
    (tmp_path / "out" / "trl_sft.py").unlink()
    with pytest.raises(ConfigError, match=r"holds another trl\.yaml already; choose another --out"):
        write_export(plan, Tool.TRL, tmp_path / "out")
    assert (tmp_path / "out" / "trl.yaml").read_text() == "mine: true\n"
    assert not (tmp_path / "out" / "trl_sft.py").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        write_export(plan, Tool.PEFT, tmp_path / "file")


def test_a_hub_id_stays_as_it_is(tmp_path: Path) -> None:
    _, plan = made("llama", tmp_path / "model")
    named = plan.model_copy(update={"model": plan.model.model_copy(update={"id": "owner/name"})})
    exported = write_export(named, Tool.AXOLOTL, tmp_path / "out")
    assert "base_model: owner/name\n" in exported.files["axolotl.yaml"].decode()
    assert exported.notes[-1] == "the model owner/name is taken for a hub id: no such folder is here"


def test_the_name_of_a_folder_that_is_not_here_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = made("llama", tmp_path / "mymodel")
    near, far = (plan.model_copy(update={"model": plan.model.model_copy(update={"id": name})}) for name in ("mymodel", "./a/b"))
    monkeypatch.chdir(tmp_path)
    exported = write_export(near, Tool.AXOLOTL, tmp_path / "here")
    assert f"base_model: {tmp_path / 'mymodel'}\n" in exported.files["axolotl.yaml"].decode()
    monkeypatch.chdir(tmp_path / "here")
    for named in (near, far):
        with pytest.raises(ConfigError, match=f"the plan's model {named.model.id} is no folder here, and no hub id"):
            write_export(named, Tool.AXOLOTL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
