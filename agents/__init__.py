"""Agents that train and are judged in generated games, through `gamegen_env.sb3` alone."""
