"""A run's card and the card of a new command → whether the command goes on with the same run.

A run goes on only with the same recipe, the same first weights and the same dataset; how long it trains may change.
Knows nothing of weights and checkpoints.
"""

import json
import os

from music import storage
from music.errors import RecordError
from music.storage import checksums
from trainer.run_folder import CARD

_MAY_CHANGE = ("epochs", "patience", "keep")  # of a run that goes on: train it longer, or shorter


def check_same(run: str, card: dict) -> dict:
    """Compare a card with the one in the run's folder. Return the card to go on with: its `from` as the run began.

    The runs before that start are added where the card lacks them, as cards of before 2026-11-30 do.

    Raises RecordError where the folder holds another run, or its card is missing or damaged.
    """
    before, now = read_card(run), json.loads(json.dumps(card))
    for each in (before, now):
        each["training"] = {name: value for name, value in each["training"].items() if name not in _MAY_CHANGE}
    if same_start(before.get("from"), now.get("from")):
        earlier = {name: facts for name, facts in now["from"].items() if name == "from"}
        now["from"] = before["from"]
        card = card | {"from": earlier | before["from"]}
    for key in ("recipe", "encoding", "core", "heads", "select", "training", "from"):
        if before.get(key) != now.get(key):
            raise RecordError(
                f"{run} holds another run: its {key} is {before.get(key)!s:.300}, "
                f"expected {now.get(key)!s:.300}; choose another --run, or the same recipe, --from and --set"
            )
    if before["dataset"]["digest"] != now["dataset"]["digest"]:
        raise RecordError(f"{run} was trained on another dataset ({before['dataset']['source']})")
    return card


def same_start(before: dict | None, now: dict | None) -> bool:
    """Tell whether a run began with the weights that are named now.

    Only the path and the choice of weights count, as that other run may have gone on since. Older cards do not hold
    the choice.
    """
    if before is None or now is None or before.get("weights", now.get("weights")) != now.get("weights"):
        return False
    return os.path.normpath(before["path"]) == os.path.normpath(now["path"])


def read_card(run: str) -> dict:
    """Read the card of a run that has a checkpoint. Raises RecordError where it is missing or damaged."""
    path = storage.join(run, CARD)
    try:
        card = checksums.checked(storage.read(path), path)
        card["training"], card["dataset"]["digest"]
    except FileNotFoundError:
        remedy = "put it back, or choose another --run"
        raise RecordError(f"{path} is missing, though there is a checkpoint: {remedy}") from None
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged: it lacks {error}") from error
    return card
