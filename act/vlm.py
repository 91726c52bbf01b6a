"""The folder that describes a vision-language model to SmolVLA: made, and checked before anything opens it.

    python -m act.vlm --folder data/tiny_vlm --task pusht     a SmolVLA on it has about 800,000 weights

SmolVLA is built on SmolVLM2 (Marafioti et al. 2025, arXiv 2504.05299), which LeRobot gets from the Hub. What
is made here takes its place where there is no network, and in tests: sizes and words, no weights.

transformers believes such a folder: `auto_map` names code to run, `attn_implementation` a kernel to download.
So a folder may hold nothing but what `describe` writes, with other sizes and words, name by name.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checkpoint import save_json
from common.config import parse
from common.errors import UserError, report_user_errors, show
from common.untrusted import load_json, reading, writing
from envs.tasks import DEFAULT, task_class

OFFICIAL = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"  # the only one on the Hub; others may bring code
OFFICIAL_SIZES: dict[str, Any] = {  # of its `config.json`, to count its weights before it is fetched
    "scale_factor": 4,
    "text_config": {
        "hidden_size": 960,
        "intermediate_size": 2_560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "vocab_size": 49_280,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3_072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
}
SPECIAL = (  # tokens that SmolVLM's processor asks for
    *("<pad>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
)
MOST_LAYERS, LARGEST = 100, 2**14  # of what a folder may describe: layers, any other number
MOST_WORDS, LONGEST_WORD = 10_000, 100  # characters
CONFIG, PROCESSOR = "config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Config:
    """A small vision-language model, without weights."""

    folder: Path = Path("data/tiny_vlm")  # that is made; there must be none
    task: str = DEFAULT  # whose sentence it has words for; see envs/tasks.py


def describe(sentences: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The files of a small SmolVLM by name, with a token for each word of these sentences.

    LeRobot's default, one token per piece of a word, is for 49,280 pieces; a character each would be cut at
    `tokenizer_max_length`, 48.
    """
    words = sorted({word for sentence in sentences for word in sentence.split()} - {*SPECIAL})
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words, "\n"])}
    names = "pad", "unk", "image", "fake_image", "global_image", "end_of_utterance"
    return {
        CONFIG: _sizes(len(vocabulary)),
        PROCESSOR: {  # SmolVLA prepares its pictures itself
            "processor_class": "SmolVLMProcessor",
            "image_processor": {"image_processor_type": "SmolVLMImageProcessor"},
            "video_processor": {"video_processor_type": "SmolVLMVideoProcessor"},
        },
        TOKENIZER: _tokenizer(vocabulary),
        TOKENIZER_CONFIG: {
            "tokenizer_class": "TokenizersBackend",
            "processor_class": "SmolVLMProcessor",
            **{f"{name}_token": token for name, token in zip(names, SPECIAL, strict=True)},
        },
    }


def _sizes(num_tokens: int) -> dict[str, Any]:
    """`config.json`: pictures of 96 x 96 become 16 tokens."""
    text = {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": num_tokens,
        "pad_token_id": 0,
        "max_position_embeddings": 512,
    }
    vision = {
        "model_type": "smolvlm_vision",
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 96,  # pixels
        "patch_size": 12,
    }
    return {
        "model_type": "smolvlm",
        "image_token_id": SPECIAL.index("<image>"),
        "pad_token_id": 0,
        "scale_factor": 2,  # 2 x 2 patches become one token
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
    }


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, Any]:
    """`tokenizer.json`: a token is a word between spaces, or the end of a line."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    splits = [
        {"type": "Split", "pattern": {"String": string}, "behavior": behavior, "invert": False}
        for string, behavior in ((" ", "Removed"), ("\n", "Isolated"))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True} | plain for number, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }


def read_sizes(name: str) -> dict[str, Any]:
    """What `config.json` of a vision-language model says, after all of its files are checked.

    Args:
        name: `vlm_model_name` of a policy.

    Raises:
        UserError: it is neither the Hub's SmolVLM2 nor a folder that holds what `describe` writes.
    """
    folder = Path(name)
    if not folder.is_dir():  # also where a folder has the Hub's name, which transformers prefers
        if name == OFFICIAL:
            return OFFICIAL_SIZES
        raise UserError(
            f"vlm_model_name must be {OFFICIAL} or a folder that is there, got {show(name)}; "
            "`python -m act.vlm` makes a small one"
        )
    expected = describe([])
    with reading(folder):
        others = {path.name for path in folder.iterdir()} - {*expected}
    if others:
        raise UserError(f"{folder}: not opened, because {show(min(others))} is no file of act/vlm.py")
    there = {file: load_json(folder / file) for file in expected}
    words = _take_words(there[TOKENIZER], folder)
    _take_words(expected[TOKENIZER], folder)
    for file, content in there.items():
        if (strange := _first_difference(content, expected[file], free=file == CONFIG)) is not None:
            raise UserError(f"{folder / file}: {strange} is not as act/vlm.py writes it, so it is not opened")
    config = there[CONFIG]
    if max(config[part]["num_hidden_layers"] for part in ("text_config", "vision_config")) > MOST_LAYERS:
        raise UserError(f"{folder / CONFIG}: num_hidden_layers must be at most {MOST_LAYERS}")
    if words > config["text_config"]["vocab_size"]:
        raise UserError(f"{folder / CONFIG}: vocab_size must be at least {words}, the words of {TOKENIZER}")
    return config


def count_weights(sizes: dict[str, Any], text_layers: int) -> int:
    """A lower bound of its weights, of which so many layers are of the language model.

    Args:
        sizes: as from `read_sizes`.
        text_layers: those of the language model.
    """
    text, vision = sizes["text_config"], sizes["vision_config"]
    width, heads = text["hidden_size"], text["num_attention_heads"] + text["num_key_value_heads"]
    each = 2 * width * heads * text["head_dim"] + 3 * width * text["intermediate_size"]
    seen = vision["hidden_size"]
    patches = (vision["image_size"] // max(1, vision["patch_size"])) ** 2
    blocks = vision["num_hidden_layers"] * (4 * seen**2 + 2 * seen * vision["intermediate_size"])
    eye = blocks + seen * (patches + 3 * vision["patch_size"] ** 2)
    between = width * seen * sizes["scale_factor"] ** 2
    return text_layers * each + 2 * width * text["vocab_size"] + eye + between


def _take_words(tokenizer: dict[str, Any], folder: Path) -> int:
    """Take the vocabulary out of a `tokenizer.json`, and return how many tokens it has."""
    model = tokenizer.get("model")
    words = model.pop("vocab", None) if isinstance(model, dict) else None
    words = words if isinstance(words, dict) and len(words) <= MOST_WORDS else {}
    if [*words.values()] != [*range(len(words))] or tuple(words)[: len(SPECIAL)] != SPECIAL:
        raise UserError(
            f"{folder / TOKENIZER}: vocab must number at most {MOST_WORDS:,} words from 0 on, "
            f"of which the first are {', '.join(SPECIAL)}"
        )
    if (longest := max(map(len, words))) > LONGEST_WORD:
        raise UserError(f"{folder / TOKENIZER}: a word of {longest:,} characters, more than {LONGEST_WORD}")
    return len(words)


def _first_difference(content: Any, expected: Any, free: bool, name: str = "") -> str | None:
    """The name of the first value that is not as expected; None: there is none.

    Args:
        content: from JSON.
        expected: the same of a description of ours.
        free: whole numbers up to `LARGEST` may be others.
        name: of the values.
    """
    if isinstance(expected, dict):
        if not isinstance(content, dict):
            return show(name)
        if odd := content.keys() ^ expected.keys():
            return show(min(odd))
        each = ((key, content[key], value) for key, value in expected.items())
        differences = (_first_difference(one, other, free, key) for key, one, other in each)
        return next((found for found in differences if found is not None), None)
    if free and type(expected) is int and type(content) is int and 0 <= content <= LARGEST:
        return None
    return None if json.dumps(content) == json.dumps(expected) else show(name)  # to Python True is 1


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Write the description of a small one."""
    config = parse(Config, argv, description=__doc__)
    files = describe([task_class(config.task).sentence])
    if config.folder.exists():
        raise UserError(f"{config.folder}: exists already; choose another --folder")
    with writing(config.folder):
        config.folder.mkdir(parents=True)
        for name, content in files.items():
            save_json(config.folder / name, content)
    print(f"wrote {config.folder}, {len(files[TOKENIZER]['model']['vocab'])} tokens")


if __name__ == "__main__":
    main()
