"""`make demo-llm`: a real language model, fine-tuned privately on visits that this package makes up."""
