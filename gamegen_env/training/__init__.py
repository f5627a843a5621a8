"""Training of the tokenizer and of the world model. Imports models, never engines or environments."""
