"""Rows of equal tokens that stand for unlike pictures are not the same: nothing of one is taken for the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from luthier.forward import filling
from luthier.forward.batches import Batch, micro_batches
from luthier.forward.forward import Forward
from luthier.train.roles.backbone import Backbone, _keys
from luthier.train.roles.backbone_states import States
from luthier.train.roles.mismatched import cut, mismatched
from luthier.train.roles.row_weights import _prompt
from luthier.types import Encoded, Media

IDS = np.array([3, 4, *[7] * 10, *range(20, 32), 40, 41, 42], np.int32)
"""Two tokens, ten that stand for a picture, a question of twelve, an answer of three."""
WEIGHTS = np.array([0.0] * 24 + [1.0] * 3, np.float32)
CAT, DOG, CAT_LATER = Media("cat", 2, 10), Media("dog", 2, 10), Media("cat", 3, 10)


def row(*media: Media, ids: np.ndarray = IDS) -> Encoded:
    return Encoded((ids,), (WEIGHTS,), media=((media),) if media else ())


def packed(*rows: Encoded) -> Batch:
    (batch,) = micro_batches(rows, 10_000)
    return batch


def test_equal_tokens_and_equal_media_are_computed_once() -> None:
    assert len(packed(row(CAT), row(CAT)).ids_T) == len(IDS)
    assert row(CAT).key == row(CAT).key
    assert len(_keys(packed(row(CAT), row(CAT)))) == 1


@pytest.mark.parametrize("other", [row(DOG), row(), row(CAT_LATER)], ids=["dog", "no picture", "elsewhere"])
def test_equal_tokens_with_other_media_share_nothing_behind_them(other: Encoded) -> None:
    batch = packed(row(CAT), other)
    assert len(batch.ids_T) == 2 * len(IDS), "the two tokens before the picture are too few for a run of their own"
    assert not {*batch.places[0].tolist()} & {*batch.places[1].tolist()}
    assert torch.equal(batch.ids_T[batch.places[0]], batch.ids_T[batch.places[1]])
    assert row(CAT).key != other.key, "a cached reference of one is not that of the other"
    assert len(_keys(batch)) == 2


def test_what_stands_before_the_media_is_shared_and_nothing_else() -> None:
    before = np.concatenate([np.arange(50, 60), IDS]).astype(np.int32)
    weights = np.concatenate([np.zeros(10), WEIGHTS]).astype(np.float32)
    rows = [Encoded((before,), (weights,), media=((Media(key, 12, 10),),)) for key in ("cat", "dog")]
    batch = packed(*rows)
    assert len(batch.ids_T) == 12 + 2 * (len(before) - 12)


def test_responses_to_one_prompt_share_its_picture() -> None:
    ids = tuple(np.concatenate([IDS[:24], end]).astype(np.int32) for end in ([40, 41, 42], [43, 44, 45]))
    both = Encoded(ids, (WEIGHTS, WEIGHTS), 24, media=((CAT,), (CAT,)))
    assert len(packed(both).ids_T) == filling.computed(both) == 24 + 6
    unlike = Encoded(ids, (WEIGHTS, WEIGHTS), 24, media=((CAT,), (DOG,)))
    assert len(packed(unlike).ids_T) == filling.computed(unlike) == 54


@pytest.mark.parametrize(("other", "bins"), [(row(CAT), 1), (row(DOG), 2), (row(), 2)], ids=["cat", "dog", "none"])
def test_filling_counts_as_shared_only_what_is(other: Encoded, bins: int) -> None:
    budget = len(IDS) + 5
    assert len(filling.packed([row(CAT), other], budget, share=True)) == bins
    for batch in micro_batches([row(CAT), other], budget):
        assert batch.tokens <= budget


def test_ids_of_media_are_no_tokens_and_differ_by_content_and_place() -> None:
    identity = row(CAT).identity_ids[0]
    assert (identity[2:12] < 0).all() and len({*identity[2:12].tolist()}) == 10
    np.testing.assert_array_equal(np.delete(identity, range(2, 12)), np.delete(IDS, range(2, 12)))
    assert not {*identity[2:12].tolist()} & {*row(DOG).identity_ids[0][2:12].tolist()}


def test_a_kept_backbone_output_is_not_that_of_another_picture(tmp_path: Path) -> None:
    model, states = tiny.model(), States(tmp_path / "states", 32, torch.float32, 1000, "media")
    with Forward(model).opened() as forward:
        forward.backbone = backbone = Backbone(model, 1, states)
        forward.rows(packed(row(CAT)))
        forward.rows(packed(row(DOG)))
        assert backbone.served == 0 and states.tokens == 2 * len(IDS)
        forward.rows(packed(row(CAT)))
        assert backbone.served == len(IDS)
        backbone.close()
    states.close()


def test_rows_that_are_made_of_others_take_their_media_along() -> None:
    later = Media("dog", 25, 1)  # in the answer
    one, other = row(CAT), row(DOG, later)
    pair = mismatched([one, other])[0]
    assert pair.media == ((CAT, later),)
    assert pair.key != mismatched([row(DOG), other])[0].key
    shorter = Encoded((IDS[1:],), (WEIGHTS[1:],), media=((Media("cat", 1, 10),),))
    assert mismatched([shorter, other])[0].media == ((Media("cat", 1, 10), Media("dog", 24, 1)),)
    assert cut(pair, 25).media == ((CAT,),)
    assert mismatched([row(), row()])[0].media == ()
    assert _prompt(other).media == ((DOG,),) and _prompt(one).key != _prompt(other).key


def test_filling_tells_pictures_apart_where_others_are_shared() -> None:
    rows = [row(CAT), row(CAT), row(DOG), row(DOG)]
    bins = filling.packed(rows, len(IDS) + 5, share=True)
    assert sorted(bins) == [[0, 1], [2, 3]]
