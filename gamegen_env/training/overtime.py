"""Overtime: steps after an end that was missed, with the end said at last.

A recording stops where its game ends, so a model that has once missed an end is in a place that it has
never seen, and plays on in a ruin: of `pocket`'s plays of Impact six of eight collapsed within a quarter of an
hour, after some hundred ends each. So some clips that end go on for some quiet steps. The end that was missed
and what happens in overtime carry no loss; the last step's end does, whenever it comes.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gamegen_env.closed_loop import AFTER_DROP, NO_OUTCOME
from gamegen_env.codec import Stream

MOST = 16  # steps; as many ends come after 1 to 2 as after 2 to 4, 4 to 8 and 8 to 16


def play_on(clip: Stream, rng: np.random.Generator) -> Stream:
    """Return a clip with its end missed, and said some quiet steps later; as it was, if it does not end."""
    if not len(clip.done) or not clip.done[-1]:
        return clip
    more = int(MOST ** rng.random())

    def quiet(array: np.ndarray, value: int, last: int) -> np.ndarray:
        tail = np.full((more, *array.shape[1:]), value, array.dtype)
        tail[-1] = last
        return np.concatenate([array, tail])

    done, end_flag = clip.done.copy(), clip.end_flag.copy()
    done[-1] = 0
    end_flag[-1] |= NO_OUTCOME
    return dataclasses.replace(
        clip,
        clip_ptr=np.array([0, len(clip.action) + more]),
        action=np.concatenate([clip.action, rng.choice(clip.action, more)]),
        scroll=quiet(clip.scroll, 0, 0),
        reward_class=quiet(clip.reward_class, 1, 1),
        done=quiet(done, 0, 1),
        end_flag=quiet(end_flag, AFTER_DROP | NO_OUTCOME, AFTER_DROP),
        update_ptr=quiet(clip.update_ptr, int(clip.update_ptr[-1]), int(clip.update_ptr[-1])),
        carried_ptr=quiet(clip.carried_ptr, int(clip.carried_ptr[-1]), int(clip.carried_ptr[-1])),
    )
