"""The files by which sentence-transformers knows an exported encoder: modules, pooling, prefixes.

In the layout that its versions from 2 to 6 read.
"""

from pathlib import Path

from neobert.files import write_json

POOLING = {"avg": "mean", "cls": "cls", "max": "max"}
"""``contrastive.pooling`` and its name there."""


def write_sentence_transformers(
    folder: Path, width: int, max_length: int, pooling: str, prompts: dict[str, str]
) -> None:
    """Make ``folder`` a SentenceTransformer: encoder, pooling, unit length.

    ``prompts`` are texts put before every query and document, by those names.
    """
    package = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{package}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{package}.Normalize"},
    ]
    ways = ("cls_token", "mean_tokens", "max_tokens")
    chosen = POOLING[pooling]
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    write_json(modules, folder / "modules.json")
    write_json(
        {
            "word_embedding_dimension": width,
            **{f"pooling_mode_{way}": way.startswith(chosen) for way in ways},
            "include_prompt": True,
        },
        folder / "1_Pooling" / "config.json",
    )
    write_json({}, folder / "2_Normalize" / "config.json")
    write_json(
        {"max_seq_length": max_length, "do_lower_case": False}, folder / "sentence_bert_config.json"
    )
    write_json(
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        folder / "config_sentence_transformers.json",
    )
