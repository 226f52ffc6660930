"""Checkpoints in and out: this disk, the Hugging Face Hub, torch.hub.

A checkpoint is a folder of `config.json`, `model.safetensors` and `README.md`. It is loaded strictly and hashed, or
refused with the first thing that is wrong.
"""

from zoo.hub.doors import create, load
from zoo.hub.files import (
    CARD,
    CONFIG,
    PICTURE,
    WEIGHTS,
    hash_file,
    read_checkpoint,
    read_config,
    read_json,
    read_pickle,
    write_aside,
)
from zoo.hub.foreign import convert
from zoo.hub.give import export, golden_output, push, save, verify
from zoo.hub.make import build, keywords, load_strictly, model_class, reset_head, tiny
from zoo.hub.places import embedded_folder

__all__ = [
    "CARD",
    "CONFIG",
    "PICTURE",
    "WEIGHTS",
    "build",
    "convert",
    "create",
    "embedded_folder",
    "export",
    "golden_output",
    "hash_file",
    "keywords",
    "load",
    "load_strictly",
    "model_class",
    "push",
    "read_checkpoint",
    "read_config",
    "read_json",
    "read_pickle",
    "reset_head",
    "save",
    "tiny",
    "verify",
    "write_aside",
]
