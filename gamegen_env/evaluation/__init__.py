"""What a model is worth, in figures: `command` is `gamegen evaluate`.

metrics (pictures against pictures) <- rollouts (against recordings), branching (against the
live game) <- report <- command
"""
