"""An OpenAI-compatible server for every family: requests are answered together, each as it would be alone."""
