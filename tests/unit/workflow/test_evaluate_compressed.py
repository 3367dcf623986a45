"""The figures of an evaluation are those that comparing the two models by hand gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from layerlens.adapting.samples import choose
from layerlens.adapting.tune import EVAL_SEED
from layerlens.artifacts.compression import load_compression_plan
from layerlens.artifacts.compression_evaluation import CompressionEvaluation
from layerlens.compressing.folder_config import is_compressed_folder
from layerlens.config import EvaluateConfig
from layerlens.data.partition import partition
from layerlens.errors import CheckpointError, ConfigError, DataError, LayerLensError, ManifestError
from layerlens.models.foreign import quiet
from layerlens.words import TaskKind
from layerlens.workflow import compared_texts, evaluate_compressed
from layerlens.workflow.evaluate import evaluate
from tests.tiny_models import VOCABULARY, save_tiny, save_tokenizer
from tests.unit.workflow.compressions import LARGE_VOCABULARY, Place, place, tensor_bytes, write_text

#: Beside it, a second text that needs no reading of the whole standard library.
QUICK = {"max_tokens": 200, "new_tokens": 3, "threads": 1}


@pytest.fixture(autouse=True)
def _short_second_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's text, without reading all of it; its name says what it had to differ from."""
    text = "w1 w2 w3 w4\n\nw5 w6\n\n" * 10
    monkeypatch.setattr(compared_texts, "second_text", lambda *taken: (f"not {[Path(name).name for name in taken]}", text))


def run(folder: Path, data: Path, *, against: Path | None = None, **settings: Any) -> CompressionEvaluation:
    out = folder.parent / f"{folder.name}-evaluation.json"
    config = EvaluateConfig(**{**QUICK, **settings})
    found = evaluate(str(folder), str(data), None if against is None else str(against), out, config)
    assert isinstance(found, CompressionEvaluation)
    assert CompressionEvaluation.model_validate_json(out.read_text()) == found
    return found


def loaded(folder: Path, auto: str) -> Any:
    with quiet():
        return getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Path]:
    mine = place(tmp_path_factory.mktemp("llama"), "llama", **LARGE_VOCABULARY)
    out = mine.model.parent / "small"
    mine.compress(out, bits_per_weight=8, leave_one_out=True)
    return mine, out


def token_windows(path: Path, window: int) -> list[torch.Tensor]:
    """Windows of a text, cut by hand; the tokenizer is one of words and adds nothing of its own."""
    tokens = torch.tensor([VOCABULARY[word] for word in path.read_text().split()])
    return list(tokens.split(window))


def by_hand(folders: tuple[Path, Path], windows: list[torch.Tensor]) -> tuple[list[float], torch.Tensor, float]:
    """Perplexities, divergence of every prediction, and share of the same top tokens."""
    models = [loaded(folder, "AutoModelForCausalLM") for folder in folders]
    losses: list[list[torch.Tensor]] = [[], []]
    divergences, same = [], []
    for window in windows:
        with torch.no_grad():
            rows = [model(window[None]).logits[0, :-1].double().log_softmax(-1) for model in models]
        for side, row in enumerate(rows):
            losses[side].append(-row.gather(1, window[1:, None])[:, 0])
        divergences.append((rows[0].exp() * (rows[0] - rows[1])).sum(-1))
        same.append(rows[0].argmax(-1) == rows[1].argmax(-1))
    return (
        [float(torch.cat(side).mean().exp()) for side in losses],
        torch.cat(divergences),
        float(torch.cat(same).double().mean()),
    )


def test_text_is_compared_as_by_hand(llama: tuple[Place, Path], tmp_path: Path) -> None:
    mine, folder = llama
    texts = write_text(tmp_path / "one.txt", words=200, seed=5), write_text(tmp_path / "two.txt", words=160, seed=6)
    found = run(folder, texts[0], second_text=str(texts[1]), window=24)
    assert [text.is_calibration for text in found.texts] == [False, False]
    for text, path, count in zip(found.texts, texts, (200, 160), strict=True):
        # Of the data, samples are whole windows; a text that was given is cut to its end.
        windows = [window for window in token_windows(path, 24) if len(window) == 24 or path == texts[1]]
        perplexities, divergences, same = by_hand((mine.model, folder), windows)
        assert text.perplexity is not None
        assert text.kl is not None
        assert [text.perplexity.before, text.perplexity.after] == pytest.approx(perplexities, rel=1e-5)
        assert text.num_positions == len(divergences) == count - len(token_windows(path, 24)) - (7 if path == texts[0] else 0)
        assert text.kl.mean == pytest.approx(float(divergences.mean()), rel=1e-3)
        assert text.kl.median == pytest.approx(float(divergences.quantile(0.5)), rel=1e-3)
        assert text.kl.p99 == pytest.approx(float(divergences.quantile(0.99)), rel=1e-3)
        assert text.kl.max == pytest.approx(float(divergences.max()), rel=1e-3)
        assert text.same_top_token == pytest.approx(same)
        assert text.windows is not None
        assert (text.windows.window, text.windows.stride, text.windows.has_bos) == (24, 24, False)


def test_of_its_own_data_only_what_nothing_has_seen_is_taken(llama: tuple[Place, Path]) -> None:
    mine, folder = llama
    found = run(folder, mine.data, max_tokens=64)
    windows = token_windows(mine.data, 16)
    unseen = partition(len(windows), None, seed=0, has_eval_data=False).test[:4]
    _, divergences, _ = by_hand((mine.model, folder), [windows[place] for place in unseen])
    assert found.texts[0].is_calibration
    assert found.texts[0].kl is not None
    assert found.texts[0].kl.mean == pytest.approx(float(divergences.mean()), rel=1e-3)
    assert (found.texts[1].name, found.texts[1].is_calibration) == ("not ['text.txt', 'text.txt']", False)


def test_its_own_text_is_not_cut_anew(llama: tuple[Place, Path]) -> None:
    mine, folder = llama
    with pytest.raises(ConfigError, match=r"--max-length 24: the plan shares out .* in windows of 16 tokens"):
        run(folder, mine.data, max_length=24)


def test_a_tokenizer_that_begins_texts_itself_begins_them_once(llama: tuple[Place, Path], tmp_path: Path) -> None:
    mine, folder = llama
    shutil.copytree(mine.model, tmp_path / "model")
    save_tokenizer(tmp_path / "model", is_decoder=False)
    text = write_text(tmp_path / "one.txt", words=60, seed=5)
    found = run(folder, text, against=tmp_path / "model", window=12, stride=12)
    cut = found.texts[1].windows
    assert cut is not None
    assert (cut.window, cut.stride, cut.has_bos) == (12, 11, True)
    assert found.generated[0].prompt.split() == text.read_text().split()[:11]
    assert found.notes == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"second_text": "nowhere.txt"}, r"--second-text nowhere\.txt is no file"),
        ({"max_length": 8}, r"--max-length 8: text that did not calibrate the model is cut by --window"),
        ({"task": "classification"}, "the plan is for causal-lm, not for classification"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_before_a_model_is_loaded(
    llama: tuple[Place, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded first"))
    with pytest.raises(LayerLensError, match=said):
        run(llama[1], write_text(tmp_path / "one.txt", words=200, seed=5), **settings)


def test_sizes_layers_and_what_the_plan_knows_are_told(llama: tuple[Place, Path]) -> None:
    mine, folder = llama
    plan = load_compression_plan(folder)
    found = run(folder, mine.data)
    assert (found.size_bytes.before, found.size_bytes.after) == (tensor_bytes(mine.model), tensor_bytes(folder))
    assert found.bits_per_weight == pytest.approx(plan.bits_per_weight)
    layers = {layer.layer: layer for layer in found.layers}
    original = load_file(mine.model / "model.safetensors")
    models = [loaded(path, "AutoModelForCausalLM") for path in (mine.model, folder)]
    for entry in plan.layers:
        assert layers[entry.layer].size_bytes.before == 4 * entry.out_features * entry.in_features
        assert layers[entry.layer].size_bytes.after == entry.size_bytes
        before = original[f"{entry.layer}.weight"].double()
        error = models[1].get_submodule(entry.layer).weight.double() - before
        assert layers[entry.layer].weight_error == pytest.approx(float(error.norm() / before.norm()), rel=1e-4)
    assert layers["lm_head"].tied_to == "model.embed_tokens"
    assert found.memory is not None
    assert found.memory.after.weight_bytes == pytest.approx(plan.size_bytes, rel=0.02)
    assert found.memory.before.weight_bytes == pytest.approx(tensor_bytes(mine.model), rel=0.02)
    assert None not in (found.memory.before.file_after_bytes, found.memory.after.file_after_bytes)
    assert len(found.generated) == 3
    assert found.generated[0].num_tokens <= 3
    assert found.speed is not None
    assert found.travel is not None
    assert found.travel.error_after_blocks == plan.metadata["error_after_blocks"]
    assert found.leave_one_out is not None
    assert found.leave_one_out.kl_nats == pytest.approx(plan.measured[0].kl_nats, rel=1e-6)


def test_without_curves_and_without_generation_the_rest_is_told(llama: tuple[Place, Path], tmp_path: Path) -> None:
    mine, folder = llama
    shutil.copytree(folder, tmp_path / "copied")
    found = run(tmp_path / "copied", mine.data, new_tokens=0)
    assert found.generated == []
    assert found.speed is None
    assert found.travel is not None
    assert found.travel.alone is None
    assert found.travel.together is not None or len(found.travel.error_after_blocks) < 2


def trained_classifier(folder: Path) -> Place:
    """A tiny BERT whose head is in its checkpoint."""
    mine = place(folder, "bert")
    names = ["early", "late"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    torch.manual_seed(3)
    with quiet():
        config = transformers.AutoConfig.from_pretrained(mine.model, **labels)
        model = transformers.BertForSequenceClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(5.0)
            model.classifier.weight.mul_(20.0)
        model.save_pretrained(mine.model)
    save_tokenizer(mine.model, is_decoder=False)
    return mine


def test_a_classifier_is_scored_by_its_task_on_unseen_rows(tmp_path: Path) -> None:
    mine = trained_classifier(tmp_path)
    mine.compress(tmp_path / "small", bits_per_weight=20, widths=[3])
    found = run(tmp_path / "small", mine.data)
    rows = [line.rsplit(",", 1) for line in mine.data.read_text().splitlines()[1:]]
    unseen = partition(len(rows), None, seed=0, has_eval_data=False).test
    models = [loaded(folder, "AutoModelForSequenceClassification") for folder in (mine.model, tmp_path / "small")]
    divergences, right = [], [0, 0]
    for row in unseen:
        words, label = rows[row]
        tokens = torch.tensor([[2, *(VOCABULARY[word] for word in words.split()), 3][:16]])
        with torch.no_grad():
            logs = [model(tokens).logits[0].double().log_softmax(-1) for model in models]
        divergences.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
        for side, log in enumerate(logs):
            right[side] += int(("early", "late")[int(log.argmax())] == label)
    (text,) = found.texts
    assert text.num_positions == len(unseen)
    assert text.kl is not None
    assert text.kl.mean == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
    assert text.kl.mean > 1e-9
    assert text.metric is not None
    assert text.metric.name == "accuracy"
    assert [text.metric.before, text.metric.after] == pytest.approx([count / len(unseen) for count in right])
    assert "classifier" in {layer.layer for layer in found.layers}
    assert found.notes == []
    for option, value in (("second_text", str(mine.data)), ("window", 24), ("stride", 8)):
        with pytest.raises(
            ConfigError, match=rf"--{option.replace('_', '-')} is for causal-lm.* was compressed for classification"
        ):
            run(tmp_path / "small", mine.data, **{option: value})
    few = run(tmp_path / "small", mine.data, max_eval_samples=5).texts[0]
    of_row = dict(zip(unseen, divergences, strict=True))
    assert few.kl is not None
    assert few.kl.mean == pytest.approx(sum(of_row[row] for row in choose(unseen, 5, seed=EVAL_SEED)) / 5, rel=1e-3)


def test_what_has_no_head_is_compressed_for_its_embeddings(tmp_path: Path) -> None:
    mine = place(tmp_path, "bert")
    mine.compress(tmp_path / "small", bits_per_weight=20, widths=[8])
    assert load_compression_plan(tmp_path / "small").task.kind is TaskKind.EMBEDDING
    found = run(tmp_path / "small", mine.data)
    assert found.notes == []
    assert [text.is_calibration for text in found.texts] == [True, False]
    models = [loaded(folder, "AutoModel") for folder in (mine.model, tmp_path / "small")]
    cosines = []
    for words in ("w1 w2 w3 w4", "w5 w6"):
        tokens = torch.tensor([[2, *(VOCABULARY[word] for word in words.split()), 3]])
        with torch.no_grad():
            pooled = [model(tokens).last_hidden_state[0].double().mean(0) for model in models]
        cosines.append(float(torch.nn.functional.cosine_similarity(pooled[0], pooled[1], dim=0)))
    distance = found.texts[1].embedding_distance
    assert distance is not None
    assert [distance.mean, distance.max] == pytest.approx([1 - sum(cosines) / 2, 1 - min(cosines)], rel=1e-3)
    assert 0 < distance.mean < 0.01


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_random_head_is_not_judged_and_embeddings_are_compared(tmp_path: Path, family: str) -> None:
    mine = place(tmp_path, family)
    asked: dict[str, Any] = {"task": "classification"} if family == "bert" else {}
    mine.compress(tmp_path / "small", bits_per_weight=24, widths=[8], formats=["integer"], **asked)
    found = run(tmp_path / "small", mine.data)
    (text,) = found.texts
    assert text.kl is None
    assert text.embedding_distance is not None
    assert 0 < text.embedding_distance.mean < 0.01
    assert "no trained head" in found.notes[0]
    assert "classifier" not in {layer.layer for layer in found.layers}
    planned = {layer.layer for layer in load_compression_plan(tmp_path / "small").layers}
    assert planned <= {layer.layer for layer in found.layers}


def test_bytes_of_a_layer_are_those_of_its_own_type(tmp_path: Path) -> None:
    mine = place(tmp_path, "gpt2")
    with quiet():
        transformers.AutoModelForCausalLM.from_pretrained(mine.model, dtype=torch.bfloat16).save_pretrained(mine.model)
    mine.compress(tmp_path / "small", bits_per_weight=13, widths=[8], keep=["attention.*"])
    found = {layer.layer: layer for layer in run(tmp_path / "small", mine.data).layers}
    attention = found["transformer.h.0.attn.c_attn"].size_bytes
    assert (attention.before, attention.after) == (2 * 32 * 96, 2 * 32 * 96)
    assert found["transformer.h.0.mlp.c_fc"].size_bytes.before == 2 * 32 * 128
    assert found["transformer.h.0.mlp.c_fc"].size_bytes.after == 128 * (32 + 2)


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        ("plan missing", ManifestError, "plan.json"),
        ("plan edited", ManifestError, "does not add up"),
        ("weights missing", LayerLensError, "model.safetensors"),
        ("weights cut", CheckpointError, "cannot load|cut short"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(
    llama: tuple[Place, Path], tmp_path: Path, damage: str, kind: type[LayerLensError], said: str
) -> None:
    mine, folder = llama
    shutil.copytree(folder, tmp_path / "copied")
    plan, weights = tmp_path / "copied" / "plan.json", tmp_path / "copied" / "model.safetensors"
    match damage:
        case "plan missing":
            plan.unlink()
        case "plan edited":
            plan.write_text(json.dumps({**json.loads(plan.read_text()), "size_bytes": 5}))
        case "weights missing":
            weights.unlink()
        case _:
            weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(kind, match=said) as caught:
        run(tmp_path / "copied", mine.data)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copied-evaluation.json").exists()


def test_originals_and_texts_that_do_not_fit_are_told(llama: tuple[Place, Path], tmp_path: Path) -> None:
    mine, folder = llama
    shutil.copytree(folder, tmp_path / "copied")
    plan = json.loads((folder / "plan.json").read_text())
    plan["model"]["hash"] = "0" * 64
    (tmp_path / "copied" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match=r"is not the model any more .* name the original by --against"):
        run(tmp_path / "copied", mine.data)
    plan["model"]["id"] = str(tmp_path / "moved")
    (tmp_path / "copied" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match=r"there is no folder .*moved; .*; or name the original by --against"):
        run(tmp_path / "copied", mine.data)
    found = run(tmp_path / "copied", mine.data, against=mine.model, new_tokens=0)
    assert found.against == str(mine.model)
    assert "is not the very checkpoint that" in found.notes[0]
    with pytest.raises(CheckpointError, match="was compressed by LayerLens"):
        run(folder, mine.data, against=folder)
    other = save_tiny("llama", tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(LayerLensError, match="vocabular"):
        run(folder, mine.data, against=other)
    (tmp_path / "short.txt").write_text("w1")
    with pytest.raises(DataError, match="predicts nothing"):
        run(folder, mine.data, second_text=str(tmp_path / "short.txt"))


def test_only_a_folder_with_its_mark_is_taken_for_compressed(llama: tuple[Place, Path], tmp_path: Path) -> None:
    mine, folder = llama
    assert is_compressed_folder(str(folder))
    assert not is_compressed_folder(str(mine.model))
    assert not is_compressed_folder("owner/name")
    (tmp_path / "config.json").write_text("[]")
    assert not is_compressed_folder(str(tmp_path))


def test_a_folder_that_lacks_what_its_original_has_is_not_scored_on_random_numbers(
    llama: tuple[Place, Path], tmp_path: Path
) -> None:
    mine, folder = llama
    shutil.copytree(folder, tmp_path / "copied")
    path = tmp_path / "copied" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"copied lacks model\.norm\.weight, which .* has: they would be random numbers"):
        run(tmp_path / "copied", mine.data)


def test_the_curves_are_found_beside_the_folder_that_a_link_leads_to(
    llama: tuple[Place, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, folder = llama
    (tmp_path / "linked").symlink_to(folder)
    probed: list[str] = []
    monkeypatch.setattr(evaluate_compressed, "error_travel", lambda alone, _: probed.extend(alone))
    run(tmp_path / "linked", mine.data, new_tokens=0, max_tokens=32)
    assert "model.embed_tokens" in probed
