"""More folders from a stranger: OpenVLAs."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
from hostile_folders import BASES, DEEP, _many, edit, link, pipe, put
from safetensors.numpy import load_file, save_file

_NAMES = ("norm1", "norm2")
_WIDTH, _ROWS = 4, 384


def _linear(name: str, out: int, given: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (_WIDTH,), f"{name}.bias": (_WIDTH,)}


def _tower(prefix: str, is_dino: bool) -> dict[str, tuple[int, ...]]:
    width = _WIDTH
    found: dict[str, tuple[int, ...]] = {f"{prefix}pos_embed": (1, 4, width)}
    found |= {f"{prefix}patch_embed.proj.weight": (width, 3, 14, 14), f"{prefix}patch_embed.proj.bias": (width,)}
    for number in range(2):
        block = f"{prefix}blocks.{number}."
        for name in _NAMES:
            found |= _norm(block + name)
        found |= _linear(f"{block}attn.qkv", 3 * width, width) | _linear(f"{block}attn.proj", width, width)
        found |= _linear(f"{block}mlp.fc1", width, width) | _linear(f"{block}mlp.fc2", width, width)
        if is_dino:
            found |= {f"{block}ls{side}.scale_factor": (width,) for side in (1, 2)}
    found |= _norm(f"{prefix}norm")
    if is_dino:
        return {**found, f"{prefix}cls_token": (1, 1, width), f"{prefix}reg_token": (1, 4, width)}
    pool = f"{prefix}attn_pool."
    found |= {f"{pool}latent": (1, 1, width), **_linear(f"{pool}q", width, width), **_norm(f"{pool}norm")}
    found |= _linear(f"{pool}kv", 2 * width, width) | _linear(f"{pool}proj", width, width)
    return found | _linear(f"{pool}mlp.fc1", width, width) | _linear(f"{pool}mlp.fc2", width, width)


def _shapes() -> dict[str, tuple[int, ...]]:
    width, layer = _WIDTH, "language_model.model.layers.0."
    found = _tower("vision_backbone.featurizer.", True) | _tower("vision_backbone.fused_featurizer.", False)
    found |= _linear("projector.fc1", 8 * width, 2 * width) | _linear("projector.fc2", width, 8 * width)
    found |= _linear("projector.fc3", width, width)
    for name in ("embed_tokens", "lm_head"):
        found[f"language_model.{'model.' if name == 'embed_tokens' else ''}{name}.weight"] = (_ROWS, width)
    found |= {f"{layer}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
    found |= {f"{layer}mlp.{name}_proj.weight": (width, width) for name in ("gate", "up", "down")}
    norms = (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "language_model.model.norm")
    return found | {f"{name}.weight": (width,) for name in norms}


def openvla(root: Path) -> None:
    root.mkdir()
    text = {
        "model_type": "llama", "vocab_size": _ROWS, "hidden_size": _WIDTH, "intermediate_size": _WIDTH,
        "num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 320,
    }  # fmt: skip
    entry = {"mean": [0.0] * 7, "std": [1.0] * 7, "q01": [-1.0] * 7, "q99": [1.0] * 7}
    stats = {"toy": {"action": entry, "proprio": entry}}
    config = {"model_type": "openvla", "image_sizes": [28, 28], "text_config": text, "norm_stats": stats}
    (root / "config.json").write_text(json.dumps(config))
    (root / "dataset_statistics.json").write_text(json.dumps(stats))
    notes = {
        "name": "toy", "cameras": {"image": "image"}, "fps": 10, "horizon": 1, "action_dim": 7, "proprio": False,
        "chunk_mode": "autoregressive", "head": "token", "rotation_unit": 1, "tower_heads": [2, 2], "resize": "lanczos",
    }  # fmt: skip
    (root / "xp.json").write_text(json.dumps(notes))
    words = {"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3}, "merges": []}
    (root / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    save_file({name: np.zeros(shape, np.float32) for name, shape in _shapes().items()}, root / "model.safetensors")


BASES["openvla"] = openvla


def _config(**changed):
    return edit("config.json", lambda config: config.update(changed))


def _text(**changed):
    return edit("config.json", lambda config: config["text_config"].update(changed))


def _notes(**changed):
    return edit("xp.json", lambda notes: notes.update(changed))


def _weights(**added):
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        arrays = {name: np.array(array) for name, array in load_file(file).items()}
        save_file({**arrays, **{name.replace("__", "."): value for name, value in added.items()}}, file)

    return change


_LAYER = "vision_backbone__featurizer__blocks__1000000000__norm1__weight"
_many(
    "openvla",
    "openvla",
    "policy",
    {
        "layers_10_9": (_text(num_hidden_layers=10**9), "num_hidden_layers"),
        "layers_more": (_text(num_hidden_layers=60), "num_hidden_layers"),
        "width_10_6": (_text(hidden_size=1_000_000, num_attention_heads=1), "do not fit"),
        "words_10_9": (_text(vocab_size=10**9), "vocab_size"),
        "words_fewer": (_text(vocab_size=300), "do not fit"),
        "no_heads": (_text(num_attention_heads=0), "num_attention_heads"),
        "rope": (_text(rope_scaling={"type": "yarn", "factor": 1e9}), "rope_scaling"),
        "positions": (_text(max_position_embeddings=10**12), "max_position_embeddings"),
        "text_list": (_config(text_config=[1]), "text_config"),
        "pictures_10_9": (_config(image_sizes=[10**9, 10**9]), "image_sizes"),
        "pictures_large": (_config(image_sizes=[1400, 1400]), "do not fit"),
        "bins": (_config(n_action_bins=10**9), "n_action_bins"),
        "tower_of_the_hub": (_config(timm_model_ids=["stranger/vit", "stranger/vit"]), "timm_model_ids"),
        "field": (_config(trust_remote_code=True), "trust_remote_code"),
        "deep": (put("config.json", DEEP), "No policy can be loaded|nested"),
        "layers_by_name": (_weights(**{_LAYER: np.zeros(1, np.float32)}), "layers of vision_backbone"),
        "other_weight": (_weights(extra=np.zeros(1, np.float32)), "no place for extra"),
        "quantised": (_weights(projector__fc1__bias=np.zeros(32, np.int8)), "quantised"),
        "no_statistics": (put("dataset_statistics.json", "{}"), "no statistics"),
        "statistics_words": (put("dataset_statistics.json", '{"toy": "all"}'), "toy"),
        "statistics_pipe": (pipe("dataset_statistics.json"), "pipe"),
        "statistics_out": (link("dataset_statistics.json", "../secret.json"), "leads out"),
        "tokeniser_out": (link("tokenizer.json", "../secret.json"), "leads out"),
        "tokeniser_words": (put("tokenizer.json", "[1]"), "model"),
        "tokeniser_deep": (put("tokenizer.json", DEEP), "nested|JSON"),
        "tokeniser_empty": (put("tokenizer.json", '{"model": {"type": "BPE"}}'), "cannot be read as a tokeniser"),
        "mode": (_notes(chunk_mode="eval"), "chunk_mode"),
        "horizon_10_9": (_notes(horizon=10**9), "horizon"),
        "heads_many": (_notes(tower_heads=[3, 2]), "heads"),
        "cameras_list": (_notes(cameras=["image"]), "cameras"),
        "notes_pipe": (pipe("xp.json"), "pipe"),
    },
)

HEAD, STATE = "action_head--7_checkpoint.pt", "proprio_projector--7_checkpoint.pt"


def oft(root: Path) -> None:
    """The same, as OpenVLA-OFT's code leaves it: two parts in files of torch, and no word of xp's."""
    import torch

    openvla(root)
    (root / "xp.json").unlink()
    torch.save({"module.model.fc2.weight": torch.ones(7, _WIDTH)}, root / HEAD)
    torch.save({"module.fc1.weight": torch.ones(_WIDTH, 7)}, root / STATE)


BASES["oft"] = oft


def _saved(content, file: str = HEAD):
    def change(folder: Path) -> None:
        import torch

        torch.save(content(torch), folder / file)

    return change


class _Runs:
    def __reduce__(self):
        return exec, ("open('canary', 'w')",)


def _deflated(folder: Path) -> None:
    with zipfile.ZipFile(folder / HEAD) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(folder / HEAD, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)
        new.writestr("archive/data/9", bytes(1 << 28))


def _also(name: str):
    return lambda folder: (folder / name).write_bytes((folder / HEAD).read_bytes())


_many(
    "oft",
    "oft",
    "policy",
    {
        "runs": (_saved(lambda torch: {"fc1.weight": _Runs()}), "cannot be read.*could run anything"),
        "old_pickle": (put(HEAD, pickle.dumps(_Runs())), "no archive of torch.save"),
        "zip_bomb": (_deflated, "is packed and would take"),
        "one_number_10_9": (_saved(lambda torch: {"w": torch.ones(1).expand(1 << 30)}), "not contiguous"),
        "no_dict": (_saved(lambda torch: [torch.ones(2)]), "holds a list"),
        "whole_numbers": (_saved(lambda torch: {"w": torch.ones(2, dtype=torch.int64)}), "no dense tensor of floats"),
        "sparse": (
            _saved(lambda torch: {"w": torch.eye(2).to_sparse()}),
            "asks for torch.serialization._get_layout",
        ),
        "number_as_name": (_saved(lambda torch: {3: torch.ones(2)}), "what is no dict by name"),
        "twice": (_saved(lambda torch: {name: torch.ones(2) for name in ("module.w", "w")}), "holds w twice"),
        "diffusion": (_saved(lambda torch: {"module.noise_predictor.w": torch.ones(2)}), "diffusion head"),
        "head_out": (link(HEAD, "../secret.json"), "leads out"),
        "head_pipe": (pipe(HEAD), "pipe"),
        "state_empty": (put(STATE, b""), "no archive of torch.save"),
        "two_steps": (_also("action_head--8_checkpoint.pt"), "several steps"),
        "film": (_also("vision_backbone--7_checkpoint.pt"), "FiLM"),
        "other_part": (_also("router--7_checkpoint.pt"), "no OpenVLA-OFT has"),
        "no_statistics": (lambda folder: (folder / "dataset_statistics.json").unlink(), "no dataset_statistics.json"),
    },
)
