"""The settings of each contender as a config, so that it can be trained again."""

import json
from collections.abc import Mapping
from typing import Any

from snrgate.lab.study.results import Contenders
from snrgate.lab.training.optimizers import OPTIMIZERS

__all__ = ["tuned_config"]

_KINDS = {kind.__name__: name for name, kind in OPTIMIZERS.items()}
_TASK, _OPTIMIZER = "task.", "optimizer."


def tuned_config(name: str, contenders: Contenders) -> str:
    """The text of a TOML file on top of the config of a row's task.

    Args:
        name: of the row.
        contenders: results by contender and seed. A contender is left out where no config may
            name its optimizer, as with the peers.
    """
    first = next(iter(next(iter(contenders.values())).values()))["settings"]
    task = first["task"].lower()
    shared = {key: value for key, value in first.items() if "." not in key}
    for key in ("task", "optimizer", "seed"):
        del shared[key]
    lines = [
        f"# The settings of the runs of {name}, written by `snrgate study --rows {name}`.",
        "#",
        f"#     snrgate train {task}/gated --config results/study/{name}/tuned.toml",
        *_settings(shared),
        "\n[task]",
        *_settings(_below(first, _TASK)),
    ]
    for contender, results in contenders.items():
        settings = next(iter(results.values()))["settings"]
        if settings["optimizer"] in _KINDS:
            kind = {"kind": _KINDS[settings["optimizer"]]}
            lines += [f"\n[optimizers.{contender}]"]
            lines += _settings(kind | _below(settings, _OPTIMIZER))
    return "\n".join(lines) + "\n"


def _below(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}


def _settings(values: Mapping[str, Any]) -> list[str]:
    """Lines of TOML, which writes numbers, strings and booleans as JSON does."""
    return [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
