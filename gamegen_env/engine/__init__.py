"""Engines: integers in, integers out. All of them compute the same game."""

from gamegen_env.engine.base import Engine, StepBatch, make_engine

__all__ = ["Engine", "StepBatch", "make_engine"]
