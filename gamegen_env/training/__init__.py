"""Training of the tokenizer and of the world model. Imports models and, for self-rollouts, engines; never
environments."""
