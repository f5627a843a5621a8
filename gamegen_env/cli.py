"""The `gamegen` command: one word per job, each with its own --help."""

from __future__ import annotations

import importlib
import sys

# word -> (module with main(argv), what it does). Imported only when asked for.
COMMANDS = {
    "play": ("gamegen_env.play.command", "play in the browser: drop a picture, press the keys"),
    "generate": ("gamegen_env.generate", "turn an image into a game, let a player play it, write a GIF"),
    "record": ("gamegen_env.games.record", "play real games and record them"),
    "describe": ("gamegen_env.training.describe", "say what recorded games are like: updates, keys, rewards"),
    "train-tokenizer": ("gamegen_env.training.train_tokenizer", "train the VQ-VAE on recorded games"),
    "train-world": ("gamegen_env.training.train_world", "train the transformer on recorded games"),
    "average": ("gamegen_env.training.average", "average the weights of models trained on from one another"),
    "plot": ("gamegen_env.training.plot", "draw what training runs have logged"),
    "plan": ("gamegen_env.plan", "count what a model needs on a GPU, and what speed that allows"),
    "gpu-selftest": ("gamegen_env.gpu.selftest", "compare the CUDA engine on this machine's GPU with the CPU"),
    "gpu-bench": ("gamegen_env.gpu.bench", "time the CUDA engine on this machine's GPU"),
    "evaluate": ("gamegen_env.evaluation.command", "measure a model on held-out recorded games"),
}


def main() -> None:
    """Dispatch `gamegen WORD ...`; bad input ends with one line on stderr and exit status 2."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: gamegen COMMAND [options]   (gamegen COMMAND --help says more)\n")
        for word, (_, purpose) in COMMANDS.items():
            print(f"  {word:16s} {purpose}")
        return
    if words[0] not in COMMANDS:
        sys.exit(f"gamegen: expected one of {', '.join(COMMANDS)}, got {words[0]!r}")
    module = importlib.import_module(COMMANDS[words[0]][0])
    try:
        sys.exit(module.main(words[1:]))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"gamegen {words[0]}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
