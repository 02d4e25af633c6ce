"""Training on paper: memory, communication and time of a step, from a model's sizes and a run's settings."""
