"""A stranger's SmolVLA and the folder that it names: nothing runs, nothing is fetched, nothing asks."""

import json
import shutil
import socket

import pytest

from act.vlm import CONFIG, OFFICIAL, PROCESSOR, TOKENIZER, TOKENIZER_CONFIG, describe, main, read_sizes
from common.checkpoint import save_json
from common.errors import UserError
from tests.act.tiny import save
from tests.security.payloads import pickled


@pytest.fixture
def folder(tmp_path):
    """A description, to be spoilt."""
    (folder := tmp_path / "vlm").mkdir()
    for name, content in describe(["push the T"]).items():
        save_json(folder / name, content)
    return folder


@pytest.fixture(autouse=True)
def no_network_and_nobody_to_ask(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it should not have asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("builtins.input", refuse)


def put(file, *path, value):
    """Set a value in a JSON file, at a path of keys."""
    content = at = json.loads(file.read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(content))


CODE = "evil--evil.Model"
CHANGES = {  # file, where in it, what
    "code for the model": (CONFIG, "auto_map", {"AutoConfig": CODE, "AutoModelForImageTextToText": CODE}),
    "code for the language model": (CONFIG, "text_config", "auto_map", {"AutoModel": CODE}),
    "another type": (CONFIG, "model_type", "llava"),
    "another language model": (CONFIG, "text_config", "model_type", "evil"),
    "a kernel of the Hub": (CONFIG, "text_config", "attn_implementation", "evil/kernel"),
    "the same above": (CONFIG, "attn_implementation", "evil/kernel"),
    "the same by its private name": (CONFIG, "_attn_implementation", "evil/kernel"),
    "quantized": (CONFIG, "quantization_config", {"quant_method": "evil"}),
    "an adapter": (CONFIG, "base_model_name_or_path", "evil/base"),
    "an activation": (CONFIG, "text_config", "hidden_act", "evil"),
    "tied": (CONFIG, "tie_word_embeddings", True),
    "a number for false": (CONFIG, "tie_word_embeddings", 0),
    "true for a number": (CONFIG, "scale_factor", True),
    "wide": (CONFIG, "text_config", "hidden_size", 2**14 + 1),
    "negative": (CONFIG, "text_config", "hidden_size", -1),
    "a fraction": (CONFIG, "text_config", "hidden_size", 128.0),
    "a word": (CONFIG, "text_config", "hidden_size", "128"),
    "deep": (CONFIG, "text_config", "num_hidden_layers", 101),
    "deep eyes": (CONFIG, "vision_config", "num_hidden_layers", 101),
    "a list for a part": (CONFIG, "vision_config", []),
    "few words": (CONFIG, "text_config", "vocab_size", 5),
    "code for the processor": (PROCESSOR, "auto_map", {"AutoProcessor": CODE}),
    "another processor": (PROCESSOR, "processor_class", "EvilProcessor"),
    "another image processor": (PROCESSOR, "image_processor", "image_processor_type", "EvilImageProcessor"),
    "a chat template": (PROCESSOR, "chat_template", "{{ evil }}"),
    "code for the tokenizer": (TOKENIZER_CONFIG, "auto_map", {"AutoTokenizer": [CODE, CODE]}),
    "a tokenizer's class": (TOKENIZER_CONFIG, "tokenizer_class", "EvilTokenizer"),
    "a tokenizer of the Hub": (TOKENIZER_CONFIG, "name_or_path", "evil/tokenizer"),
    "a token's name": (TOKENIZER_CONFIG, "image_token", "<evil>"),
    "another model": (TOKENIZER, "model", "type", "Unigram"),
    "a regular expression": (TOKENIZER, "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a*)*b"}}),
    "a normalizer": (TOKENIZER, "normalizer", {"type": "Replace"}),
    "no words": (TOKENIZER, "model", "vocab", {}),
    "a word twice": (TOKENIZER, "model", "vocab", dict.fromkeys(("<pad>", "<unk>"), 0)),
    "a number too far": (TOKENIZER, "model", "vocab", "push", 10**9),
    "a long word": (TOKENIZER, "model", "vocab", {**describe(["a" * 101])[TOKENIZER]["model"]["vocab"]}),
    "many words": (TOKENIZER, "model", "vocab", {str(number): number for number in range(10_001)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_says_anything_else_is_not_opened(folder, change):
    file, *path, value = change
    assert read_sizes(str(folder))["model_type"] == "smolvlm"
    put(folder / file, *path, value=value)
    with pytest.raises(UserError, match=str(folder / file)):
        read_sizes(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "modeling_evil.py",
        "adapter_config.json",
        "chat_template.jinja",
        "pytorch_model.bin",
        "model.safetensors",
    ],
)
def test_a_folder_with_another_file_is_not_opened(folder, tmp_path, name):
    (folder / name).write_bytes(pickled(str(tmp_path / "MARK")))
    with pytest.raises(UserError, match=f"vlm: not opened, because '{name}' is no file of act/vlm.py"):
        read_sizes(str(folder))
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("file", [CONFIG, PROCESSOR, TOKENIZER, TOKENIZER_CONFIG])
@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"model": []}', '{"model_type": 1, "model_type": 2}'])
def test_a_file_that_is_damaged_is_a_sentence(folder, file, text):
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(UserError, match=str(folder / file)):
        read_sizes(str(folder))


def test_a_folder_with_the_hubs_name_is_checked_too(folder, tmp_path, monkeypatch):
    """transformers prefers it to the Hub's."""
    monkeypatch.chdir(tmp_path)
    assert "model_type" not in read_sizes(OFFICIAL), "the Hub's, without a look at it"
    shutil.copytree(folder, tmp_path / OFFICIAL)
    put(tmp_path / OFFICIAL / CONFIG, "auto_map", value={"AutoConfig": CODE})
    with pytest.raises(UserError, match="'auto_map' is not as act/vlm.py writes it, so it is not opened"):
        read_sizes(OFFICIAL)


@pytest.mark.parametrize("name", ["evil/vlm", "../vlm", "/dev/null", "", "a\0b", "http://127.0.0.1:9/evil"])
def test_no_other_name_is_fetched(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="must be HuggingFaceTB/.* or a folder that is there"):
        read_sizes(name or "nowhere")


def test_what_the_command_writes_is_opened_and_what_stands_there_is_kept(tmp_path, capfd, refused_by):
    flags = ["--folder", str(tmp_path / "a/vlm"), "--task", "pendulum"]
    main(flags)
    assert capfd.readouterr().out == f"wrote {tmp_path}/a/vlm, 15 tokens\n"
    words = json.loads((tmp_path / "a/vlm" / TOKENIZER).read_text())["model"]["vocab"]
    assert {"Swing", "the", "pendulum", "upright."} <= words.keys()
    assert read_sizes(str(tmp_path / "a/vlm"))["text_config"]["vocab_size"] == len(words)
    for wrong, said in (
        (flags, "exists already; choose another --folder"),
        (["--task", "x"], "task must be"),
    ):
        assert said in refused_by(main, wrong)


# A policy on such a folder, where transformers is installed.


@pytest.fixture(scope="module")
def whole_vla(tmp_path_factory):
    tiny = pytest.importorskip("tests.act.tiny_vla", reason="SmolVLA needs transformers: make setup-vla")
    vlm = tiny.make_vlm(tmp_path_factory.mktemp("vlm") / "vlm")
    folder = save(tiny.make(vlm), tmp_path_factory.mktemp("vla") / "policy")
    save_json(folder / "task.json", {"task": "pusht"})
    return folder


@pytest.fixture
def vla(whole_vla, tmp_path):
    """A copy of a policy, to be spoilt, with a copy of what describes its VLM."""
    policy, vlm = shutil.copytree(whole_vla, tmp_path / "policy"), tmp_path / "vlm"
    shutil.copytree(json.loads((policy / "config.json").read_text())["vlm_model_name"], vlm)
    put(policy / "config.json", "vlm_model_name", value=str(vlm))
    set_tokenizer(policy, tokenizer_name=str(vlm))
    return policy


def set_tokenizer(policy, **changes):
    file = policy / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    (step,) = (step for step in content["steps"] if step["registry_name"] == "tokenizer_processor")
    step["config"] |= changes
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_its_policy_is_not_opened_either(vla, told, change):
    from policies import load_policy

    file, *path, value = change
    put(vla.parent / "vlm" / file, *path, value=value)
    assert str(vla.parent / "vlm" / file) in told(load_policy, vla)


POLICIES = {  # changes of its config.json, and what is said
    "another of the Hub's": ({"vlm_model_name": "evil/vlm"}, "vlm_model_name must be HuggingFaceTB/"),
    "the Hub's, which is larger": ({"vlm_model_name": OFFICIAL}, "fewer weights than config.json says"),
    "a folder that is gone": (
        {"vlm_model_name": "/no/where"},
        "got '/no/where'; `python -m act.vlm` makes a",
    ),
    "wide": ({"expert_width_multiplier": 4.0}, "fewer weights than config.json says"),
    "wider": ({"expert_width_multiplier": 1e9}, "expert_width_multiplier must be at most 4"),
    "states": ({"max_state_dim": 1}, "max_state_dim must be at least 2"),
    "actions": ({"max_action_dim": 1}, "max_action_dim must be at least 2"),
    "many actions": ({"max_action_dim": 10**9}, "max_action_dim must be at most"),
    "pictures": (
        {"resize_imgs_with_padding": [10**6, 10**6]},
        "resize_imgs_with_padding must be at most 1024",
    ),
    "no pictures": ({"resize_imgs_with_padding": None}, "this SmolVLA cannot be opened"),
    "one side": ({"resize_imgs_with_padding": [16]}, "this SmolVLA cannot be opened"),
    "a prefix": ({"prefix_length": 10**9}, "prefix_length must be at most 10,000"),
    "attention": ({"attention_mode": "evil"}, "attention_mode must be cross_attn or self_attn"),
    "Aloha's": ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha and empty_cameras must be off"),
    "no cameras": ({"empty_cameras": 10**9}, "adapt_to_pi_aloha and empty_cameras must be off"),
    "steps": ({"num_steps": 10**9}, "num_steps must be at most 1000"),
    "words": ({"tokenizer_max_length": 10**9}, "tokenizer_max_length must be at most 1024"),
    "a way to normalise": ({"normalization_mapping": {"STATE": "EVIL"}}, "this SmolVLA cannot be opened"),
}


@pytest.mark.parametrize(("change", "said"), POLICIES.values(), ids=POLICIES)
def test_a_configuration_that_does_not_fit_is_a_sentence(vla, told, change, said):
    from policies import load_policy

    save_json(vla / "config.json", json.loads((vla / "config.json").read_text()) | change)
    assert said in told(load_policy, vla)


@pytest.mark.parametrize(
    "name",
    ["vlm_model_name", "attention_mode", "prefix_length", "pad_language_to", "max_period", "num_steps"],
)
def test_what_lerobot_would_fill_in_is_needed(vla, told, name):
    from policies import load_policy

    content = json.loads((vla / "config.json").read_text())
    save_json(vla / "config.json", {key: value for key, value in content.items() if key != name})
    assert f"{name} missing, without which the policy cannot be opened" in told(load_policy, vla)


TOKENIZERS = {
    "of the Hub": ({"tokenizer_name": "evil/tokenizer"}, "tokenizer_name: vlm_model_name must be Hugging"),
    "of another folder": ({"tokenizer_name": "@OTHER@"}, "tokenizer_name must be "),
    "a list": ({"tokenizer_name": ["a"]}, "tokenizer_name must be a name, got ['a']"),
    "long": ({"max_length": 10**9}, "max_length must be from 1 to 1024, got 1000000000"),
    "true": ({"max_length": True}, "max_length must be from 1 to 1024, got True"),
    "of another key": ({"task_key": "evil"}, "task_key must be task, got 'evil'"),
    "padded otherwise": ({"padding": "evil"}, "this SmolVLA cannot act"),
}


@pytest.mark.parametrize(("change", "said"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_is_another_is_a_sentence(vla, told, change, said):
    from policies import load_policy

    other = vla.parent / "other"
    shutil.copytree(vla.parent / "vlm", other)
    set_tokenizer(vla, **{k: str(other) if v == "@OTHER@" else v for k, v in change.items()})
    assert said in told(load_policy, vla)


def test_a_policy_without_its_tokenizer_is_a_sentence(vla, told):
    from policies import load_policy

    file = vla / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    content["steps"] = [step for step in content["steps"] if "token" not in step["registry_name"]]
    save_json(file, content)
    assert "must have one tokenizer, got 0" in told(load_policy, vla)


@pytest.mark.parametrize(
    "change",
    [
        {"compile_model": True, "compile_mode": "evil"},
        {"rtc_config": {"enabled": True, "debug": True, "debug_maxlen": 10**9}},
        {"load_vlm_weights": True},
        {"use_peft": True, "pretrained_path": "evil/adapter"},
    ],
    ids=["compiled", "real-time chunks", "weights of the VLM", "an adapter"],
)
def test_what_changes_only_how_it_computes_is_left_out(vla, change, monkeypatch):
    from policies import load_policy

    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("nothing is compiled"))
    save_json(vla / "config.json", json.loads((vla / "config.json").read_text()) | change)
    assert load_policy(vla).n_action_steps == 2
