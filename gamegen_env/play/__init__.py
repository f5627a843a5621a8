"""Play generated games: in the browser (`server.py`) or in a terminal (`terminal.py`)."""
