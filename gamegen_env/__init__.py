"""gamegen_env: turn an image into a playable game, as a Gymnasium environment.

Importing registers `ImageGame-v0` and loads neither torch nor kernels.
"""

from gymnasium.envs.registration import register

__version__ = "0.1.0"

register(
    id="ImageGame-v0",
    entry_point="gamegen_env.env:ImageGameEnv",
    vector_entry_point="gamegen_env.vector_env:ImageGameVectorEnv",
    max_episode_steps=1000,
)
