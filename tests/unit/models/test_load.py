"""What is loaded is compared with the bytes of the checkpoint; what is not there must be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import CheckpointError, UnsupportedModelError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.loaded_checks import check_decoder
from layerlens.models.processor import load_processor
from layerlens.words import TaskKind
from tests.strict_device import STRICT, strict_device
from tests.tiny_models import FAMILIES, save_tiny, save_tokenizer

TEXT_FAMILIES = sorted(set(FAMILIES) - {"vit"})
DECODERS = ["gpt2", "gpt_neo", "llama", "mistral", "qwen2"]
THREE = ["no", "perhaps", "yes"]


def info_of(kind: TaskKind, labels: list[str] | None = None) -> TaskInfo:
    names = labels or []
    return TaskInfo(kind=kind, num_labels=1 if kind is TaskKind.REGRESSION else len(names), label_names=names)


def load(folder: Path, kind: TaskKind, labels: list[str] | None = None, *, seed: int = 0) -> TaskModel:
    return load_task_model(open_checkpoint(str(folder)), info_of(kind, labels), seed=seed)


def content(tensor: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.float().contiguous().numpy().tobytes()


def assert_body_is_the_checkpoints(task_model: TaskModel) -> None:
    """Every parameter that is not new has the bytes of some tensor of the checkpoint, whatever the name."""
    stored = {content(tensor) for file in task_model.checkpoint.files for tensor in load_file(file).values()}
    for name, parameter in task_model.model.named_parameters():
        if name in task_model.new_parameters:
            # New biases are zero, and so may stored ones be.
            assert not parameter.any() or content(parameter.detach()) not in stored, name
        else:
            assert content(parameter.detach()) in stored, name


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors of a checkpoint by name (dots as double underscores); None removes."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for key, tensor in changes.items():
        name = next(name for name in tensors if name.endswith(key.replace("__", ".")))
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", [TaskKind.CLASSIFICATION, TaskKind.REGRESSION, TaskKind.QUESTION_ANSWERING])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_only_the_head_of_a_text_model_is_new(family: str, kind: TaskKind, tmp_path: Path) -> None:
    loaded = load(save_tiny(family, tmp_path), kind, THREE if kind is TaskKind.CLASSIFICATION else None)
    assert loaded.new_parameters
    assert all(name.split(".")[0] in {"classifier", "pre_classifier", "score", "qa_outputs"} for name in loaded.new_parameters)
    assert_body_is_the_checkpoints(loaded)
    assert not loaded.model.training


def test_a_classifier_of_three_becomes_a_reader_with_a_start_and_an_end(tmp_path: Path) -> None:
    loaded = load(save_tiny("bert", tmp_path, id2label=dict(enumerate(THREE))), TaskKind.QUESTION_ANSWERING)
    assert loaded.model.qa_outputs.out_features == 2
    assert loaded.model(torch.tensor([[2, 6, 3]])).end_logits.shape == (1, 3)


@pytest.mark.parametrize("family", DECODERS)
def test_nothing_of_a_language_model_is_new(family: str, tmp_path: Path) -> None:
    loaded = load(save_tiny(family, tmp_path), TaskKind.CAUSAL_LM)
    assert loaded.new_parameters == ()
    assert_body_is_the_checkpoints(loaded)


def test_the_demo_model_becomes_a_classifier_with_a_pretrained_pooler(minilm: Path) -> None:
    loaded = load(minilm, TaskKind.CLASSIFICATION, THREE)
    assert loaded.new_parameters == ("classifier.weight", "classifier.bias")
    assert_body_is_the_checkpoints(loaded)


def test_labels_and_problem_type_are_the_tasks(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    config = load(folder, TaskKind.PAIR_CLASSIFICATION, THREE).model.config
    assert (config.num_labels, config.problem_type) == (3, "single_label_classification")
    assert config.id2label == {0: "no", 1: "perhaps", 2: "yes"}
    assert config.label2id == {"no": 0, "perhaps": 1, "yes": 2}
    config = load(folder, TaskKind.REGRESSION).model.config
    assert (config.num_labels, config.problem_type) == (1, "regression")


def test_a_head_for_other_labels_is_drawn_anew_and_one_that_fits_is_kept(shared: Path) -> None:
    folder = shared / "models" / "deit-tiny"
    other = load(folder, TaskKind.IMAGE_CLASSIFICATION, [f"class {index}" for index in range(10)])
    assert other.new_parameters == ("classifier.weight", "classifier.bias")
    assert other.model.classifier.out_features == 10
    assert_body_is_the_checkpoints(other)
    same = load(folder, TaskKind.IMAGE_CLASSIFICATION, [f"class {index}" for index in range(1000)])
    assert same.new_parameters == ()
    assert_body_is_the_checkpoints(same)


@pytest.mark.parametrize(("named", "loaded"), [(None, ""), ("DeiTForImageClassificationWithTeacher", "WithTeacher")])
def test_of_several_classes_for_a_task_the_one_that_the_config_names_is_taken(
    named: str | None, loaded: str, tmp_path: Path
) -> None:
    folder = save_tiny("deit", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [named] if named else config["architectures"]}))
    assert type(load(folder, TaskKind.IMAGE_CLASSIFICATION, THREE).model).__name__ == f"DeiTForImageClassification{loaded}"


def test_the_shared_language_model_predicts_better_than_chance(shared: Path) -> None:
    loaded = load(shared / "models" / "stories260k", TaskKind.CAUSAL_LM)
    assert loaded.new_parameters == ()
    tokenizer = load_processor(loaded.checkpoint, TaskKind.CAUSAL_LM)
    inputs = tokenizer("Once upon a time, there was a little girl named Lily.", return_tensors="pt")
    with torch.no_grad():
        loss = loaded.model(**inputs, labels=inputs["input_ids"]).loss
    assert loss < 3.0 < torch.log(torch.tensor(float(loaded.model.config.vocab_size)))


def test_weights_stored_in_half_precision_are_read_as_asked(shared: Path) -> None:
    checkpoint = open_checkpoint(str(shared / "models" / "stdlib-llama"))
    assert {header.dtype for header in checkpoint.tensors.values()} == {"BF16"}
    full = load_task_model(checkpoint, info_of(TaskKind.CAUSAL_LM), seed=0)
    half = load_task_model(checkpoint, info_of(TaskKind.CAUSAL_LM), seed=0, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in full.model.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_the_new_head_depends_on_the_seed_alone(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path)
    torch.manual_seed(1)
    first = load(folder, TaskKind.CLASSIFICATION, THREE, seed=7)
    torch.manual_seed(2)
    torch.randn(17)
    again = load(folder, TaskKind.CLASSIFICATION, THREE, seed=7)
    other = load(folder, TaskKind.CLASSIFICATION, THREE, seed=8)
    for name in first.new_parameters:
        assert torch.equal(first.model.get_parameter(name), again.model.get_parameter(name))
    weights = [name for name in first.new_parameters if name.endswith("weight")]
    assert all(not torch.equal(first.model.get_parameter(name), other.model.get_parameter(name)) for name in weights)


def test_the_global_random_state_is_left_as_it_was(tmp_path: Path) -> None:
    folder = save_tiny("roberta", tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(folder, TaskKind.CLASSIFICATION, THREE, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], shared: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    capfd.readouterr()
    load(folder, TaskKind.QUESTION_ANSWERING)
    load(shared / "models" / "deit-tiny", TaskKind.IMAGE_CLASSIFICATION, THREE)
    load_processor(open_checkpoint(str(shared / "models" / "deit-tiny")), TaskKind.IMAGE_CLASSIFICATION)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", DECODERS)
def test_a_classifier_reads_its_class_off_the_last_token_that_is_no_padding(family: str, tmp_path: Path) -> None:
    loaded = load(save_tiny(family, tmp_path), TaskKind.CLASSIFICATION, THREE)
    tokenizer = load_processor(loaded.checkpoint, TaskKind.CLASSIFICATION)
    short, long = "w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10"
    with torch.no_grad():
        alone = loaded.model(**tokenizer([short], return_tensors="pt")).logits[0]
        padded = loaded.model(**tokenizer([short, long], padding=True, return_tensors="pt", padding_side="right")).logits[0]
    assert torch.allclose(alone, padded, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    bias = torch.zeros(32)
    bias[-1] = value
    edit_tensors(folder, layer__1__output__dense__bias=bias)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in bert\.encoder\.layer\.1\.output\.dense\.bias;"):
        load(folder, TaskKind.CLASSIFICATION, THREE)


def test_missing_body_weights_are_an_error_that_names_them(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    edit_tensors(folder, layer__0__attention__self__query__weight=None)
    with pytest.raises(CheckpointError, match=r"lacks weights .*: bert\.encoder\.layer\.0\.attention\.self\.query\.weight"):
        load(folder, TaskKind.CLASSIFICATION, THREE)


def test_a_missing_pooler_is_new_like_the_head(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    edit_tensors(folder, pooler__dense__weight=None, pooler__dense__bias=None)
    loaded = load(folder, TaskKind.CLASSIFICATION, THREE)
    assert loaded.new_parameters == ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")
    assert load(folder, TaskKind.QUESTION_ANSWERING).new_parameters == ("qa_outputs.weight", "qa_outputs.bias")


def test_body_weights_of_another_shape_are_an_error_that_says_both(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(CheckpointError, match=r"intermediate\.dense\.bias is \[64\], needed \[48\]"):
        load(folder, TaskKind.CLASSIFICATION, THREE)


def test_a_model_without_an_output_layer_is_no_language_model(minilm: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias.* not trained as a language model"):
        load(minilm, TaskKind.CAUSAL_LM)


def test_a_model_that_does_not_run_on_a_text_alone_embeds_none(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=200, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, is_decoder=False)
    with pytest.raises(UnsupportedModelError, match=r"\(T5Model\) does not run on a text alone .*give an encoder"):
        load(tmp_path, TaskKind.EMBEDDING)


def test_an_encoder_with_an_output_layer_is_no_causal_language_model(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path)
    torch.manual_seed(0)
    transformers.BertForMaskedLM.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="sees the tokens it should predict"):
        load(tmp_path, TaskKind.CAUSAL_LM)


def test_a_language_model_is_probed_on_its_own_device(tmp_path: Path) -> None:
    loaded = load(save_tiny("llama", tmp_path), TaskKind.CAUSAL_LM)
    with strict_device():
        check_decoder(loaded.checkpoint, loaded.model.to(STRICT))


def test_a_task_that_the_family_has_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no image-classification model for model_type bert"):
        load(save_tiny("bert", tmp_path), TaskKind.IMAGE_CLASSIFICATION, THREE)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"model_type": "no-such-thing"}, UnsupportedModelError, '"no-such-thing"'),
        ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "own"}, UnsupportedModelError, '"own"'),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, "quantised .gptq."),
        ({"hidden_size": "many"}, UnsupportedModelError, "cannot use the config"),
        ({"num_attention_heads": 5}, (CheckpointError, UnsupportedModelError), "5"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(
    changes: dict[str, object], error: type[Exception] | tuple[type[Exception], ...], reason: str, tmp_path: Path
) -> None:
    folder = save_tiny("bert", tmp_path)
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(error, match=reason) as caught:
        load(folder, TaskKind.CLASSIFICATION, THREE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_tokenizer_can_pad_and_the_model_agrees(family: str, tmp_path: Path) -> None:
    loaded = load(save_tiny(family, tmp_path), TaskKind.CLASSIFICATION, THREE)
    tokenizer = load_processor(loaded.checkpoint, TaskKind.CLASSIFICATION)
    assert tokenizer(["w1", "w1 w2 w3"], padding=True)["attention_mask"][0][-1] == 0
    assert loaded.model.config.pad_token_id == tokenizer.pad_token_id


def test_an_image_becomes_pixels_without_torchvision(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="extra `images` is not installed")
    processor = load_processor(open_checkpoint(str(save_tiny("vit", tmp_path))), TaskKind.IMAGE_CLASSIFICATION)
    pixels = processor(images=image_module.new("RGB", (40, 20), "red"), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("family", "kind", "what"),
    [("llama", TaskKind.CLASSIFICATION, "tokenizer"), ("vit", TaskKind.IMAGE_CLASSIFICATION, "image processor")],
)
def test_a_folder_without_a_processor_is_one_line(family: str, kind: TaskKind, what: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path)
    for file in [*folder.glob("tokenizer*"), *folder.glob("*processor*")]:
        file.unlink()
    with pytest.raises(CheckpointError, match=f"cannot read the {what} of") as caught:
        load_processor(open_checkpoint(str(folder)), kind)
    assert "\n" not in str(caught.value)
